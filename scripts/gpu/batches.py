"""Pretraining steps by batch: clips a second, memory, share of what the GPU's products reach."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from gpu.best import product_tflops
from gpu.findings import Findings
from gpu.measuring import rate_of, synchronizer
from gpu.setting import Setting
from gpu.stepping import Stepper, free_memory

__all__ = ["VARIANTS", "Variant", "batches"]

RATIOS, BATCHES = (0.75, 0.9), (16, 32, 64, 128, 256)
SECONDS = 1.5


@dataclass(frozen=True)
class Variant:
    """How a network is trained, and on which batches that is measured."""

    network: str
    name: str
    stage: int = 1
    """Of ZeRO; `training.zero_stage: auto` takes 1 for bf16."""
    zero: Mapping[str, object] = field(default_factory=dict)
    """DeepSpeed's own options of ZeRO."""
    kernel: str = "auto"
    """What computes attention; `auto` measures them."""
    ratios: Sequence[float] = RATIOS
    batches: Sequence[int] = BATCHES


of_vit_base = partial(Variant, "vit_base", ratios=(0.75,), batches=(32,))
VARIANTS = (
    Variant("vit_base", "ZeRO 1"),
    of_vit_base("ZeRO 1, attention by flash", kernel="flash"),
    of_vit_base("ZeRO 1, attention by cudnn", kernel="cudnn"),
    Variant("vit_large", "ZeRO 1", batches=(32, 64, 128)),
    of_vit_base(
        "ZeRO 1, buckets of 50 million numbers, nothing overlapped",
        zero={"overlap_comm": False, "reduce_bucket_size": 50_000_000},
    ),
    of_vit_base("ZeRO 0", stage=0),
)
TINY = Variant("vit_base", "ZeRO 1", ratios=(0.75,), batches=(2,))
"""For a rehearsal."""


def batches(setting: Setting, findings: Findings) -> None:
    """Ours, in bf16 by DeepSpeed, not compiled; doubled until the memory is full."""
    reached = product_tflops(torch.device(setting.device))
    findings.figure("one large product", {"numbers": "bfloat16", "TFLOP/s": reached})
    for variant in setting.pick(VARIANTS, (TINY,)):
        _measure(setting, findings, variant, reached)
        free_memory()


def _measure(setting: Setting, findings: Findings, variant: Variant, reached: float) -> None:
    known = {"network": variant.network, "how": variant.name}
    steppers: list[Stepper] = []
    with findings.claim(f"{variant.network}, {variant.name}: the loss falls") as found:
        stepper = Stepper.of(
            setting,
            variant.network,
            deepspeed={"zero_optimization": dict(variant.zero)} if variant.zero else {},
            zero_stage=variant.stage,
            attention_kernel=variant.kernel,
            precision="bf16",
        )
        steppers.append(stepper)
        _require_learning(setting, stepper, found)
    for stepper in steppers:  # none if it cannot even be made
        for kernel, taken in stepper.kernels.items():
            attention = {**known, "kernel": kernel, "ms": taken}
            findings.figure("attention of a step, 0.75 hidden", attention)
        for ratio in variant.ratios:
            _double(setting, findings, (variant, stepper), ratio, reached)
        stepper.close()


def _double(
    setting: Setting,
    findings: Findings,
    which: tuple[Variant, Stepper],
    ratio: float,
    reached: float,
) -> None:
    """A row for each batch, up to the first that fails: the next has twice as many clips."""
    variant, stepper = which
    known = {"network": variant.network, "how": variant.name, "hidden": ratio}
    for batch in variant.batches:
        with findings.row("steps by batch", {**known, "batch": batch}) as row:
            row |= _columns(setting, stepper, (batch, ratio), reached)
        free_memory()
        if "not measured" in row:
            break


def _require_learning(setting: Setting, stepper: Stepper, found: list[str]) -> None:
    step = stepper.step(setting.pick(8, 2), 0.75)
    for group in stepper.engine.parameter_groups:
        group["lr"] = 1e-3
    losses = [float(step()) for _ in range(setting.pick(12, 3))]
    for group in stepper.engine.parameter_groups:
        group["lr"] = 1e-6  # for the many steps on noise that follow
    found.append(f"{losses[0]:.4f} to {losses[-1]:.4f}; attention {stepper.kernel}")
    if not losses[-1] < losses[0]:
        raise ValueError("it does not fall")


def _columns(
    setting: Setting, stepper: Stepper, which: tuple[int, float], reached: float
) -> dict[str, object]:
    batch, ratio = which
    step = stepper.step(batch, ratio)

    def clips() -> Iterator[int]:
        while True:
            step()
            yield batch

    stream = clips()
    for _ in range(setting.pick(3, 1)):
        next(stream)
    held = 0
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    rate = rate_of(stream, setting.pick(SECONDS, 0.1), synchronizer(setting))
    tflops = rate.clips_per_second * stepper.step_gflops(ratio) / 1e3
    columns = {**rate.columns(), "ms/step": 1e3 * batch / rate.clips_per_second}
    columns |= {"TFLOP/s": tflops, "share of one large product": tflops / reached}
    if setting.on_gpu:
        peak = torch.cuda.max_memory_allocated()
        columns |= {"MB held": held / 1e6, "MB of a step": (peak - held) / 1e6}
    return columns
