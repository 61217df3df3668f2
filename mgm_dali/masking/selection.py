"""From scores to a mask: each slice hides its highest, exactly so many, and noise breaks ties.

Letters: B clips, t slices, P = h * w places in a slice.
"""

import torch
from torch import Tensor

from mgm_dali.uniforms import BITS

__all__ = ["hide_highest"]

NOISE_BITS = 16


def hide_highest(scores: Tensor, visible: int, ties: Tensor, count_change: Tensor | None) -> Tensor:
    """bool `[B, t, P]`, True = hidden: all but the lowest of `scores [B, t, P]`, whole numbers.

    `visible` tokens of a slice are shown; `count_change [B, t]`, from -1 to 1, are hidden on top.

    Equal scores are common (all tokens on one rim of a rectangle); noise decides between them, the
    24 bits of `ties [B, P]`: the same in all slices, so that a place that ties twice is not hidden
    now and shown then.
    """
    places = scores.shape[2]
    keys = _unique_keys(scores, ties)
    shown = torch.full_like(keys[..., :1], visible)
    if count_change is not None:
        shown = shown - count_change[..., None]
    if keys.is_cuda and torch.compiler.is_compiling():
        # A slice's own numbers are few enough to compare each with each: one kernel, and no sort.
        lower = (keys[..., None, :] < keys[..., None]).sum(-1)
        return lower >= shown
    lowest = keys.topk(min(visible + 2, places), largest=False).values
    return keys >= lowest.gather(2, shown)


def _unique_keys(scores: Tensor, ties: Tensor) -> Tensor:
    """int64 `[B, t, P]` in the order of the scores, no two of a slice alike.

    Below the score are 16 bits of the noise, and below them the place, which decides where even
    those are equal: between two given places once in 65,536 clips.
    """
    places = scores.shape[2]
    place_bits = (places - 1).bit_length()
    noise = ties >> (BITS - NOISE_BITS)
    below = (noise << place_bits) + torch.arange(places, device=ties.device)
    return torch.add(below[:, None], scores.long(), alpha=1 << (NOISE_BITS + place_bits))
