"""Random erasing of a batch: in some clips one box is filled with noise, the same in all frames.

Zhong et al. 2017 (arXiv 1708.04896) with the ranges of timm's `RandomErasing`; that all frames of
a clip lose the same box, each to noise of its own, is VideoMAE's form.
"""

import math

import torch
from torch import Tensor

from mgm_dali.uniforms import uniform_integers, uniforms

__all__ = ["erase"]

BOX_STREAM, NOISE_STREAM, WINDOW_STREAM = 5, 6, 7  # masks take theirs from streams 0 to 2

AREAS = (0.02, 1 / 3)
"""Of the box, as a share of the frame."""
LOG_ASPECTS = (math.log(0.3), math.log(1 / 0.3))
"""Height to width."""
TRIES = 10


@torch.no_grad()
def erase(video: Tensor, seed: Tensor, probability: float) -> Tensor:
    """`video [B, C, T, H, W]`, normalised, with a box of normal noise in some of the clips.

    `seed [B]` int64 on the video's device: a clip's box and noise follow from its own alone. Boxes
    are the same on every device, noise up to rounding.
    """
    if probability == 0:
        return video
    inside = _boxes(seed, probability, *video.shape[3:])
    return torch.where(inside[:, None, None], _noise(seed, video), video)


def _boxes(seed: Tensor, probability: float, height: int, width: int) -> Tensor:
    """Which pixels are erased: bool `[B, H, W]`.

    timm draws sizes until one is smaller than the frame, ten times at the most, and then leaves
    the clip as it is. Here all ten are drawn and the first that fits is taken: the same
    distribution, without waiting for the device. float64 keeps what two devices may differ by in
    `exp` and `sqrt` far away from the rounding to whole pixels.
    """
    numbers = uniforms(seed, BOX_STREAM, 3 + 2 * TRIES).double()
    chosen, down, right = numbers[:, :3].unbind(1)
    areas, aspects = numbers[:, 3:].view(-1, 2, TRIES).unbind(1)
    least, most = (areas.new_full((), area) for area in AREAS)  # `new_tensor` waits for a GPU
    area = torch.lerp(least, most, areas)
    aspect = (LOG_ASPECTS[0] + (LOG_ASPECTS[1] - LOG_ASPECTS[0]) * aspects).exp()
    heights = (area * height * width * aspect).sqrt().round()
    widths = (area * height * width / aspect).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(1, keepdim=True)
    box_height, box_width = heights.gather(1, first), widths.gather(1, first)
    top = (down[:, None] * (height - box_height + 1)).floor()
    left = (right[:, None] * (width - box_width + 1)).floor()
    rows = torch.arange(height, device=seed.device)
    columns = torch.arange(width, device=seed.device)
    erased = (chosen < probability) & fits.any(1)
    in_rows = (rows >= top) & (rows < top + box_height) & erased[:, None]
    in_columns = (columns >= left) & (columns < left + box_width)
    return in_rows[:, :, None] & in_columns[:, None]


def _noise(seed: Tensor, video: Tensor) -> Tensor:
    """Normal noise of the shape and type of `video [B, C, T, H, W]`.

    A hash for every pixel would cost more than decoding the clip. So each clip has one row of
    noise, twice as long as a frame, and each channel of each frame shows a window of it that
    begins at a random place: independent within a channel of a frame, shifted between them.
    """
    batch, channels, frames, height, width = video.shape
    pixels = height * width
    row = _normals(uniforms(seed, NOISE_STREAM, 2 * pixels))
    starts = uniform_integers(seed, WINDOW_STREAM, 0, pixels, channels * frames)
    clips = torch.arange(batch, device=seed.device)[:, None]
    return row.unfold(1, pixels, 1)[clips, starts].view_as(video).to(video.dtype)


def _normals(numbers: Tensor) -> Tensor:
    """Normal from uniform numbers `[B, even]`, two from each two (Box and Muller 1958)."""
    first, second = numbers.chunk(2, dim=1)
    radius, angle = (-2 * torch.log1p(-first)).sqrt(), 2 * math.pi * second
    return torch.cat((radius * angle.cos(), radius * angle.sin()), 1)
