"""Whether contenders for a pretraining step compute the same as VideoMAE's own network."""

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from official_videomae import OfficialAutoencoder
from step_contenders import (
    BARE,
    COMPILED,
    CONTENDERS,
    DECODED,
    HUGGINGFACE,
    NETWORKS,
    OFFICIAL,
    OURS,
    Inputs,
    Setup,
)
from torch import Tensor

from mgm_dali.errors import UserError

__all__ = ["gradient_failures", "reference_losses", "require_same_loss"]

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-3}
"""Between losses, which are about 1."""
GRADIENT_TOLERANCE = 1e-3
"""Between gradients in float32, of their length."""
TAKEN_BY = {
    HUGGINGFACE: [HUGGINGFACE],
    BARE: [BARE, OURS, COMPILED, DECODED],
}
"""The contenders that train each of those that are compared with VideoMAE's own."""


def reference_losses(setup: Setup, inputs: Inputs) -> dict[str, float]:
    """What each contender's first loss must be: that of VideoMAE's own network in float32."""
    network = OfficialAutoencoder(setup.model)
    network.load_state_dict(setup.network().state_dict())
    network.to(setup.device)
    with torch.no_grad(), _exact_convolutions():
        of_all = float(network(inputs.video, inputs.mask))
        of_half = float(network(inputs.video, inputs.mask, inputs.decoded))
    return {label: of_half if label == DECODED else of_all for label in CONTENDERS}


def require_same_loss(setup: Setup, label: str, loss: float, reference: float) -> None:
    """Raises `UserError` for a contender that does not compute what the others do."""
    if not abs(loss - reference) <= TOLERANCE[setup.precision]:
        raise UserError(
            f"{setup.name}: the loss of {label} is {loss:.6f}, but {OFFICIAL} in float32 finds "
            f"{reference:.6f} for the same weights, clips and masks"
        )


def gradient_failures(setup: Setup) -> dict[str, str]:
    """Why contenders must not be timed: their networks have another gradient than VideoMAE's own.

    In float32 on one clip, of the patch embedding, to which all others contribute: a loss alone
    hardly tells fresh networks apart, not even by their numbers of heads.
    """
    setup = replace(setup, precision="fp32", batch=1)
    inputs = Inputs.of(setup)
    reference = _gradient(OFFICIAL, setup, inputs)
    failures = {}
    for network, labels in TAKEN_BY.items():
        try:
            gradient = _gradient(network, setup, inputs)
        except UserError:
            continue  # said where its time would stand
        far = float((gradient - reference).norm() / reference.norm())
        if not far <= GRADIENT_TOLERANCE:
            reason = (
                f"{setup.name}: the gradient of {network} differs from that of {OFFICIAL} by "
                f"{far:.2%} for the same weights, clip and mask"
            )
            failures |= dict.fromkeys(labels, reason)
    return failures


def _gradient(label: str, setup: Setup, inputs: Inputs) -> Tensor:
    network, loss_of = NETWORKS[label](setup)
    with _exact_convolutions():
        loss_of(inputs.video, inputs.mask).backward()
    embedding = next(p for p in network.parameters() if p.ndim == 5)
    assert embedding.grad is not None, "it is trained"
    return embedding.grad


def _exact_convolutions() -> AbstractContextManager[None]:
    """By default those of a GPU round float32 to ten bits."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
