"""Video to tokens and back: one token is a tubelet of 2 x 16 x 16 pixels of 3 channels.

Letters: B clips, C = 3 channels, T frames, H W pixels, N = t * h * w tokens in (t, h, w) order,
K visible tokens, M = N - K hidden tokens, P = 1536 values of a token in (p0, p1, p2, c) order:

    P index:    0  1  2 | 3  4  5 | ...            frame p0 of 2, row p1 of 16, column p2 of 16,
                R  G  B | R  G  B |                 channel fastest
                (0,0,0) | (0,0,1) |
"""

import torch
from torch import Tensor

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES

__all__ = [
    "CHANNELS",
    "TOKEN_VALUES",
    "normalised_pixels",
    "patch_statistics",
    "patchify",
    "split_tokens",
    "take_tokens",
    "unit_pixels",
    "unpatchify",
]

CHANNELS = 3
TOKEN_VALUES = TUBELET_FRAMES * PATCH_PIXELS * PATCH_PIXELS * CHANNELS


def patchify(video: Tensor) -> Tensor:
    """`[B, C, T, H, W]` to `[B, N, P]`: cuts a video into tokens; any dtype, values untouched."""
    batch, channels, frames, height, width = video.shape
    t, h, w = frames // TUBELET_FRAMES, height // PATCH_PIXELS, width // PATCH_PIXELS
    tubelets = video.reshape(
        batch, channels, t, TUBELET_FRAMES, h, PATCH_PIXELS, w, PATCH_PIXELS
    )  # [B C t p0 h p1 w p2]
    return tubelets.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, t * h * w, -1)


def unpatchify(patches: Tensor, grid: PatchGrid) -> Tensor:
    """`[B, N, P]` back to `[B, C, T, H, W]`: undoes `patchify`."""
    t, h, w = grid
    tubelets = patches.reshape(
        -1, t, h, w, TUBELET_FRAMES, PATCH_PIXELS, PATCH_PIXELS, CHANNELS
    )  # [B t h w p0 p1 p2 C]
    return tubelets.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(
        -1, CHANNELS, t * TUBELET_FRAMES, h * PATCH_PIXELS, w * PATCH_PIXELS
    )


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each token's pixels in [0, 1]: `[B, N, 1, C]` float32 each.

    Takes `[B, N, P]` patches of a video normalised with the ImageNet mean and deviation. Each
    channel has its own two numbers over the token's 512 pixels, with the unbiased variance. To
    picture a prediction: `prediction.reshape(B, N, 512, 3) * deviation + mean`; this borrows the
    true brightness and contrast of the hidden tokens, and a picture made so must say it.
    """
    variance, mean = torch.var_mean(unit_pixels(patches), dim=2, keepdim=True, correction=1)
    return mean, variance.sqrt()


def normalised_pixels(patches: Tensor) -> Tensor:
    """What the decoder must predict for these `[B, M, P]` patches: `[B, M, P]` float32.

    Every token and channel is brought to mean 0 and deviation 1 (MAE, section 4.1 "per-patch
    normalization"; per channel as in VideoMAE). The 1e-6 is added to the deviation of pixels in
    [0, 1]: hence the way back through the ImageNet normalisation.
    """
    mean, deviation = patch_statistics(patches)
    return ((unit_pixels(patches) - mean) / (deviation + 1e-6)).flatten(2)


def split_tokens(mask: Tensor, num_hidden: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices of the visible `[B, K]` and of the hidden `[B, M]` tokens, ascending, int64.

    `mask` is `[B, N]` bool, True = hidden, with the same count in every row. Counting them makes
    the host wait for the device and checks that the rows agree (ValueError); who knows the count
    passes `num_hidden`, which is trusted.
    """
    if num_hidden is None:
        counts = mask.sum(dim=1).tolist()
        if len(set(counts)) != 1:
            raise ValueError(f"mask: every row must hide the same number of tokens, found {counts}")
        num_hidden = int(counts[0])
    # A stable sort of 0 (visible) and 1 (hidden) keeps each kind in index order. Its length is
    # known beforehand, where boolean indexing would ask the device how many are True.
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask.shape[1] - num_hidden
    return order[:, :num_visible], order[:, num_visible:]


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` `[B, K]` of `tokens` `[B, N, D]`: `[B, K, D]`."""
    batch, num_tokens = tokens.shape[:2]
    first = torch.arange(batch, device=index.device).unsqueeze(1) * num_tokens
    # One flat copy of whole rows; `torch.gather` would read an index per value.
    rows = tokens.flatten(0, 1).index_select(0, (first + index).flatten())
    return rows.reshape(*index.shape, -1)


def unit_pixels(patches: Tensor) -> Tensor:
    """`[B, N, P]` normalised to `[B, N, 512, C]` float32 in [0, 1]."""
    mean, deviation = _on_device(IMAGENET_MEAN, patches), _on_device(IMAGENET_STD, patches)
    return patches.float().reshape(*patches.shape[:2], -1, CHANNELS) * deviation + mean


def _on_device(values: tuple[float, ...], like: Tensor) -> Tensor:
    """`[C]` float32, made on the device: a tensor of Python's numbers would wait for it."""
    return torch.stack([like.new_full((), value, dtype=torch.float32) for value in values])
