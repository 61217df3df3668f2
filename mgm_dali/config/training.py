"""The training section of a configuration: length, batch, optimiser, and what is kept."""

from typing import Literal

from pydantic import Field

from mgm_dali.config.section import Section

__all__ = ["TrainingConfig"]


class TrainingConfig(Section):
    """Length, batch, optimiser and what is kept."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the training videos."""
    max_steps: int | None = Field(None, ge=1)
    """Stops (and ends the schedule) after this many optimiser steps instead of `epochs`."""
    max_minutes: float | None = Field(None, gt=0)
    """Saves and ends after this time, wherever the schedule is; the same command goes on."""
    batch_size: int = Field(8, ge=1)
    """Clips per rank and forward pass."""
    accumulate_steps: int = Field(1, ge=1)
    """Forward passes per optimiser step; global batch = batch_size * accumulate_steps * ranks."""
    global_batch: int | None = Field(None, ge=1)
    """Clips per optimiser step of all ranks together, a multiple of `batch_size` x ranks. If it is
    set, `accumulate_steps` follows from it, so that a run can go on with more or fewer ranks."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Numbers the network computes in; the optimiser always keeps float32 weights. `auto` is bf16
    on a GPU and on CPUs that have instructions for it, else fp32, which is faster there. `fp16`
    (GPUs only) scales the loss, and skips and counts the steps whose gradients overflow."""
    attention_kernel: Literal["auto", "sdpa", "flash", "cudnn", "plain", "float32"] = "auto"
    """What computes attention: a line of `ATTENTION_KERNELS` in mgm_dali/models/kernels.py. `auto`
    measures them at the start of a run and takes the fastest; a resumed run keeps its own. Kernels
    differ in rounding: name one where two runs must agree bit for bit."""
    compile: bool = False
    """Compile the network (torch.compile). Takes a minute or so at the start."""
    checkpoint_activations: bool = False
    """Keep only the input of each block for the backward pass, and compute the rest again: far less
    memory, about a third more time."""
    zero_stage: Literal["auto", 0, 1, 2, 3] = "auto"
    """DeepSpeed ZeRO: 0 nothing sharded, 1 optimiser state, 2 gradients too, 3 weights too. `auto`
    is 1, but 0 for one rank alone in fp32: there is nothing to shard, and a step is up to a third
    shorter."""
    base_lr: float = Field(1.5e-4, gt=0)
    """Peak learning rate for a global batch of 256; scaled linearly with the global batch, in which
    the clips of one decoding (`augment.repeats`) count once."""
    min_lr: float = Field(0.0, ge=0)
    """Learning rate at the end of the cosine, for a global batch of 256."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs of linear warm-up from 0; at most half of the run."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay of matrices; biases, norms and tokens have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moments (pretraining 0.9, 0.95; finetuning 0.9, 0.999)."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning-rate factor from each layer to the one below it while finetuning."""
    gradient_clipping: float = Field(0.0, ge=0)
    """Largest norm of the gradient; 0 is off."""
    max_bad_steps: int = Field(20, ge=1)
    """Steps in a row whose loss or gradient is no number, before the run stops. Each is left out,
    counted, and listed with its clips in RUN/bad_steps.jsonl."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, kept beside them; it is judged, and taken where
    `model.init` names the run. 0 is off (VideoMAE while finetuning, where it is used: 0.9999)."""
    checkpoint_every_steps: int = Field(1000, ge=1)
    """Optimiser steps between two checkpoints; the last step is always kept."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept, and their weights; older ones are removed once a newer one is
    complete."""
    keep_every_steps: int | None = Field(None, ge=1)
    """Checkpoints at multiples of this step are kept for good."""
    evaluate_every_steps: int | None = Field(None, ge=1)
    """Optimiser steps between two judgements on `data.val`; each comes with a checkpoint, and the
    best one is kept. Finetuning is judged by top-1, pretraining by its loss."""
    log_every_steps: int = Field(10, ge=1)
    """Optimiser steps between two lines on the console; metrics.jsonl has every step."""
    pictures_every_steps: int | None = Field(None, ge=1)
    """Optimiser steps between two pictures of a clip, its mask and its reconstruction in
    RUN/tensorboard while pretraining."""
    wandb_project: str | None = None
    """Sends the metrics to this project of Weights & Biases too (`pip install wandb`)."""
    grace_seconds: float = Field(60.0, gt=0)
    """After SIGTERM, the time to finish the step and save. Then the process ends without."""
    hang_seconds: float = Field(900.0, gt=0)
    """When no rank has moved for so long, all stop, and say which was behind. It must be longer
    than the set-up, a wait for clips, a forward and backward pass, a save, or a batch of a
    judgement."""
    changes_on_resume: Literal["refuse", "accept"] = "refuse"
    """What to do if a run is resumed with other values than it began with. Those in `MAY_CHANGE` of
    mgm_dali/training/run_folder.py are always accepted: what is logged, kept and judged, when a run
    ends, what reading and memory take, and how the global batch is split, which has finetuning draw
    other noise."""
