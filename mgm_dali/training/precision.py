"""Which numbers a run computes in, where the config leaves it open."""

import torch

from mgm_dali.config import RunConfig
from mgm_dali.models.attention import CPU_MULTIPLIES_BFLOAT16

__all__ = ["with_precision"]


def with_precision(config: RunConfig, device: torch.device) -> tuple[RunConfig, str]:
    """The config with `training.precision` decided, and the reason for the log."""
    precision = config.training.precision
    if precision != "auto":
        return config, f"{precision}: asked for"
    if device.type == "cuda":
        precision, reason = "bf16", "bf16: a GPU"
    elif CPU_MULTIPLIES_BFLOAT16:
        precision, reason = "bf16", "bf16: this CPU has instructions for it"
    else:
        precision, reason = "fp32", "fp32: this CPU has no instructions for bf16"
    training = config.training.model_copy(update={"precision": precision})
    return config.model_copy(update={"training": training}), reason
