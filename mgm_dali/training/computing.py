"""How a run's network is computed: in which numbers, by which kernel, compiled, and what is kept.

What the configuration leaves open is decided once, before the first step, and said in the log.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError

from mgm_dali.config import RunConfig, load_config
from mgm_dali.errors import UserError
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.models.attention import use_kernel
from mgm_dali.models.autoencoder import Decoder
from mgm_dali.models.kernels import (
    ATTENTION_KERNELS,
    CPU_MULTIPLIES_BFLOAT16,
    AttentionShape,
    measure_kernels,
    why_unusable,
)
from mgm_dali.models.vit import TokenTrunk
from mgm_dali.training.checkpoint import complete_steps
from mgm_dali.training.engine import World

__all__ = ["DTYPES", "compiling", "prepare", "with_kernel", "with_precision"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def with_precision(config: RunConfig, world: World) -> tuple[RunConfig, str]:
    """The config with `training.precision` and `zero_stage` decided, and the reason for the log.

    Raises `UserError` for fp16 on a CPU or without ZeRO.
    """
    config, reason = _with_precision(config, world.device)
    if config.training.zero_stage == "auto":
        alone = world.size == 1 and config.training.precision == "fp32"
        config = _with_training(config, zero_stage=0 if alone else 1)
    if config.training.compile:
        reason += "; compiled: the first step takes a minute or so"
    if config.training.checkpoint_activations:
        reason += "; activations are computed again for the backward pass"
    return config, reason


def _with_precision(config: RunConfig, device: torch.device) -> tuple[RunConfig, str]:
    precision = config.training.precision
    if precision == "fp16" and device.type == "cpu":
        raise UserError("training.precision: fp16 needs a GPU; take bf16 or fp32 on a CPU")
    if precision == "fp16" and config.training.zero_stage == 0:
        raise UserError(
            "training.zero_stage: without ZeRO, DeepSpeed divides fp16's gradients by a loss scale "
            "that it has not multiplied them with; take training.zero_stage=1"
        )
    if precision != "auto":
        return config, f"{precision}: asked for"
    if device.type == "cuda":
        precision, reason = "bf16", "bf16: a GPU"
    elif CPU_MULTIPLIES_BFLOAT16:
        precision, reason = "bf16", "bf16: this CPU has instructions for it"
    else:
        precision, reason = "fp32", "fp32: this CPU has no instructions for bf16"
    return _with_training(config, precision=precision), reason


def with_kernel(
    config: RunConfig, shapes: Sequence[AttentionShape], world: World, dropped_tokens: bool
) -> tuple[RunConfig, str]:
    """The config with `training.attention_kernel` decided, and the reason for the log.

    `auto` is what the run's checkpoints were made with, else the fastest for `shapes` on the first
    rank's device, if it is clearly faster than torch's own choice. `dropped_tokens`: the network
    sees only some of a clip's tokens. Raises `UserError` for a kernel that cannot be used here.
    """
    asked, device = config.training.attention_kernel, world.device
    dtype = DTYPES[config.training.precision]
    masked = dropped_tokens and config.model.attention == "divided"
    if asked != "auto":
        if reason := why_unusable(asked, dtype, device, masked):
            raise UserError(f"training.attention_kernel: {asked} cannot be used here: {reason}")
        return config, f"{asked}: asked for"
    chosen, reason = "sdpa", "divided attention on some of the tokens takes a mask"
    if (kept := _kept_kernel(config)) is not None:
        chosen, reason = kept, "this run's checkpoints were made with it"
    elif world.is_first and not masked:
        chosen, found = measure_kernels(tuple(shapes), dtype, device)
        reason = "a step's attention takes " + ", ".join(
            f"{name} {taken:.0f} ms a clip" if isinstance(taken, float) else f"{name}: {taken}"
            for name, taken in found.items()
        )
    names = list(ATTENTION_KERNELS)
    decided = torch.tensor(names.index(chosen) if world.is_first else 0, device=device)
    chosen = names[int(world.sum(decided))]
    return _with_training(config, attention_kernel=chosen), f"{chosen}: {reason}"


def _kept_kernel(config: RunConfig) -> str | None:
    written = config.output_dir / "config.yaml"
    if not written.exists() or not complete_steps(config.output_dir):
        return None
    kept: str = load_config(written).training.attention_kernel
    return None if kept == "auto" else kept


def prepare(network: Autoencoder | Classifier, config: RunConfig) -> None:
    """Sets the network up as the decided config says."""
    use_kernel(network, config.training.attention_kernel)
    for module in network.modules():
        if isinstance(module, TokenTrunk | Decoder):
            module.checkpoint_activations = config.training.checkpoint_activations
    if config.training.compile:
        # The method alone: names of parameters stay, and DeepSpeed's hooks are not compiled.
        network.forward = torch.compile(network.forward, dynamic=False)  # type: ignore[method-assign]


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
