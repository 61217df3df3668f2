"""Every section, in the order in which they run: what is worth most comes first."""

from gpu.running import Section

__all__ = ["SECTIONS"]

SECTIONS: dict[str, Section] = {
    "machine": Section("G0: what this machine has", "gpu.machine:machine", 75),
    "operators": Section(
        "G1: DALI's operators against those of the CPU", "gpu.operators:operators", 90
    ),
    "frames": Section("G2: the decoder's frames are PyAV's", "gpu.frames:frames", 90),
    "sizes": Section("G3: sizes, mixed in one process", "gpu.sizes:sizes", 90),
    "loading": Section("G5: from files to batches, NVDEC and CPU", "gpu.loading:loading", 180),
    "masks": Section("masks of every strategy", "gpu.benchmark_runs:masks", 150),
    "pretraining": Section("pretraining ViT-B from files", "gpu.pretraining:pretraining", 240),
    "steps_vit_base": Section(
        "a step of ViT-B against others'", "gpu.benchmark_runs:steps_vit_base", 300
    ),
    "batches": Section("pretraining steps by batch, and their memory", "gpu.batches:batches", 180),
    "finetuning": Section("finetuning and evaluating ViT-B", "gpu.finetuning:finetuning", 200),
    "steps_vit_large": Section(
        "a step of ViT-L against others'", "gpu.benchmark_runs:steps_vit_large", 300
    ),
    "decoding": Section("G4: the decoder alone", "gpu.decoding:decoding", 90),
    "tests": Section("pytest -m gpu", "gpu.suite:suite", 200),
    "bad_inputs": Section("G6: bad inputs", "gpu.bad_inputs:bad_inputs", 150),
    "iterating": Section("G8: what a batch is worth", "gpu.iterating:iterating", 90),
    "augmenting": Section(
        "G10: augmentation, and loading beside a step", "gpu.augmenting:augmenting", 150
    ),
    "endurance": Section("G7: 2,000 batches", "gpu.endurance:endurance", 150),
    "processes": Section("G11: worker processes and CUDA", "gpu.processes:processes", 90),
    "flow": Section("G9: optical flow", "gpu.flow:flow", 75),
}
"""By the name that `--only` takes. The limits are for what hangs; their sum is no estimate."""
