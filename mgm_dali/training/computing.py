"""How a run's network is computed: in which numbers, by which kernel, compiled, and what is kept.

What the configuration leaves open is decided once, before the first step, and said in the log.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError

from mgm_dali.config import RunConfig, TrainingConfig, load_config
from mgm_dali.errors import UserError
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.models.attention import use_kernel
from mgm_dali.models.autoencoder import Decoder
from mgm_dali.models.kernels import (
    ATTENTION_KERNELS,
    CPU_MULTIPLIES_BFLOAT16,
    AttentionShape,
    measure_kernels,
    usual_kernel,
    why_unusable,
)
from mgm_dali.models.vit import TokenTrunk
from mgm_dali.runs.checkpoint_files import complete_steps
from mgm_dali.training.world import World

__all__ = [
    "DTYPES",
    "compiling",
    "measured_clips",
    "prepare",
    "with_kernel",
    "with_precision",
]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def with_precision(config: RunConfig, world: World) -> tuple[RunConfig, str]:
    """The config with `training.precision` and `zero_stage` decided, and the reason for the log.

    What is `auto` is decided by the first rank. All ranks must call it. Raises `UserError`, on all
    of them, for fp16 on a CPU or without ZeRO.
    """
    precision, reason = _precision(config.training.precision, world.device)
    precision = _of_first(world, list(DTYPES), precision)
    stage = world.of_first(_zero_stage(config, precision, world))
    world.require(_why_not_fp16(stage, world.device) if precision == "fp16" else None)
    return _with_training(config, precision=precision, zero_stage=stage), f"{precision}: {reason}"


def _precision(asked: str, device: torch.device) -> tuple[str, str]:
    if asked != "auto":
        return asked, "asked for"
    if device.type == "cuda":
        return "bf16", "a GPU"
    if CPU_MULTIPLIES_BFLOAT16:
        return "bf16", "this CPU has instructions for it"
    return "fp32", "this CPU has no instructions for bf16"


def _zero_stage(config: RunConfig, precision: str, world: World) -> int:
    """What is asked for, here or in DeepSpeed's own section; what a run to be resumed has; by rule.

    Whoever gives DeepSpeed options of ZeRO wants ZeRO.
    """
    asked = config.training.zero_stage
    if asked != "auto":
        return asked
    users = config.deepspeed.get("zero_optimization")
    if users:
        stage = users.get("stage", 1) if isinstance(users, dict) else None
        if stage not in (0, 1, 2, 3):
            raise UserError(
                f"deepspeed.zero_optimization.stage: found {stage!r}, not 0, 1, 2 or 3; say it as "
                "training.zero_stage"
            )
        return int(stage)
    kept = _kept(config) if world.is_first else None
    if kept is not None and kept.zero_stage != "auto":
        return kept.zero_stage
    return 0 if world.size == 1 and precision == "fp32" else 1


def _why_not_fp16(stage: int, device: torch.device) -> str | None:
    if device.type == "cpu":
        return "training.precision: fp16 needs a GPU; take bf16 or fp32 on a CPU"
    if stage == 0:
        return (
            "training.zero_stage: without ZeRO, DeepSpeed divides fp16's gradients by a loss scale "
            "that it has not multiplied them with; take training.zero_stage=1"
        )
    return None


def with_kernel(
    config: RunConfig, shapes: Sequence[AttentionShape], world: World, dropped_tokens: bool
) -> tuple[RunConfig, str]:
    """The config with `training.attention_kernel` decided, and the reason for the log.

    `auto` is what the run's checkpoints were made with, else the fastest for `shapes` on the first
    rank's device, if it is clearly faster than torch's own choice. `dropped_tokens`: the network
    sees only some of a clip's tokens. All ranks must call it. Raises `UserError`, on all of them,
    for a kernel that cannot be used here.
    """
    chosen: str = config.training.attention_kernel
    reason = "asked for"
    masked = dropped_tokens and config.model.attention == "divided"
    if chosen == "auto":
        dtype = DTYPES[config.training.precision]
        if world.is_first:
            chosen, reason = _open_kernel(config, shapes, (dtype, world.device), masked)
        chosen = _of_first(world, list(ATTENTION_KERNELS), chosen)
    problem = why_unusable(chosen, DTYPES[config.training.precision], world.device, masked)
    refusal = f"training.attention_kernel: {chosen} cannot be used here: {problem}"
    world.require(refusal if problem else None)
    return _with_training(config, attention_kernel=chosen), f"{chosen}: {reason}"


def _open_kernel(
    config: RunConfig,
    shapes: Sequence[AttentionShape],
    numbers: tuple[torch.dtype, torch.device],
    masked: bool,
) -> tuple[str, str]:
    """The kernel where none is named, and why; decided by the first rank."""
    kept = _kept(config)
    if kept is not None and kept.attention_kernel != "auto":
        return kept.attention_kernel, "this run's checkpoints were made with it"
    if masked:
        return usual_kernel(*numbers), "divided attention on some tokens takes a mask"
    chosen, found = measure_kernels(tuple(shapes), *numbers)
    timed = ", ".join(
        f"{name} {taken:.0f} ms" if isinstance(taken, float) else f"{name}: {taken}"
        for name, taken in found.items()
    )
    return chosen, f"a step's attention on {shapes[0].batch} clip(s) takes {timed}"


def measured_clips(config: RunConfig, device: torch.device) -> int:
    """Clips on which kernels are measured: a batch, but few on a CPU, where it takes seconds."""
    batch = config.training.batch_size
    return batch if device.type == "cuda" else min(batch, 2)


def _kept(config: RunConfig) -> TrainingConfig | None:
    """The training section of the run that would be resumed, with all that was decided."""
    written = config.output_dir / "config.yaml"
    if not written.exists() or not complete_steps(config.output_dir):
        return None
    return load_config(written).training


def _of_first(world: World, names: list[str], chosen: str) -> str:
    """What the first rank has chosen, on all ranks."""
    return names[world.of_first(names.index(chosen) if world.is_first else 0)]


def prepare(network: Autoencoder | Classifier, config: RunConfig) -> list[str]:
    """Sets the network up as the decided config says; lines for the log on what is unusual."""
    use_kernel(network, config.training.attention_kernel)
    said = []
    if config.training.checkpoint_activations:
        said.append("memory     activations are computed again for the backward pass")
        for module in network.modules():
            if isinstance(module, TokenTrunk | Decoder):
                module.checkpoint_activations = True
    if config.training.compile:
        said.append("compiler   the first step takes a minute or more")
        # The method alone: names of parameters stay, and DeepSpeed's hooks are not compiled.
        network.forward = torch.compile(network.forward, dynamic=False)  # type: ignore[method-assign]
    return said


@contextmanager
def compiling(key: str) -> Iterator[None]:
    """Turns a compiler's failure into a `UserError` that names the key that asked for it."""
    try:
        yield
    except (InductorError, TorchDynamoException) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{key}: PyTorch cannot compile here ({reason}); set {key}=false, or install a C++ "
            "compiler"
        ) from error


def _with_training(config: RunConfig, **changes: object) -> RunConfig:
    training = config.training.model_copy(update=changes)
    return config.model_copy(update={"training": training})
