"""From predictions to pictures, without borrowing from the hidden patches.

The network predicts pixels normalised patch by patch; to show them, each patch needs a brightness
and a contrast. Taking the true ones, as is often done, puts the hidden patch's mean colour into
the picture and makes any network look good. Here they are guessed from the visible patches.

Letters: B clips, N tokens, K visible, M hidden, P = 1536 values, C = 3 channels.
"""

import torch
from torch import Tensor

from mgm_dali.models.autoencoder import Autoencoder
from mgm_dali.models.patches import (
    patch_statistics,
    patchify,
    split_tokens,
    take_tokens,
    unit_pixels,
    unpatchify,
)

__all__ = ["reconstructed_frames"]


def reconstructed_frames(
    autoencoder: Autoencoder, video: Tensor, mask: Tensor, leak_statistics: bool = False
) -> Tensor:
    """The clip with its hidden tokens predicted: `[B, C, T, H, W]` in [0, 1].

    `video` is normalised, `mask [B, N]` True where hidden. With `leak_statistics` the true
    brightness and contrast of every hidden patch are used instead of guesses.
    """
    patches = patchify(video)
    visible, hidden = split_tokens(mask)
    mean, deviation = patch_statistics(patches)  # [B, N, 1, C]
    if not leak_statistics:
        weights = _nearness(autoencoder, hidden, visible)  # [B, M, K]
        mean = _spread(mean, weights, hidden, visible)
        deviation = _spread(deviation, weights, hidden, visible)
    made = autoencoder.reconstruct(video, mask)
    made = made.reshape(*hidden.shape, -1, video.shape[1])  # [B, M, 512, C]
    index = hidden[..., None, None]
    made = made * deviation.take_along_dim(index, 1) + mean.take_along_dim(index, 1)
    pixels = unit_pixels(patches).flatten(2)
    pixels = pixels.scatter(1, hidden[..., None].expand(-1, -1, pixels.shape[-1]), made.flatten(2))
    return unpatchify(pixels, autoencoder.grid)


def _nearness(autoencoder: Autoencoder, hidden: Tensor, visible: Tensor) -> Tensor:
    """Weight of each visible token for each hidden one, `[B, M, K]`: inverse square distance."""
    t, h, w = autoencoder.grid
    sides = (torch.arange(n, dtype=torch.float32, device=hidden.device) for n in (t, h, w))
    places = torch.cartesian_prod(*sides)
    weights = torch.cdist(places[hidden], places[visible]).pow(-2)
    return weights / weights.sum(-1, keepdim=True)


def _spread(statistic: Tensor, weights: Tensor, hidden: Tensor, visible: Tensor) -> Tensor:
    """`[B, N, 1, C]` with the hidden tokens' values replaced by guesses from the visible ones."""
    flat = statistic.flatten(2)
    guesses = weights @ take_tokens(flat, visible)
    flat = flat.scatter(1, hidden[..., None].expand_as(guesses), guesses)
    return flat.view_as(statistic)
