"""Masks of others, written from their papers' and programs' description, not from their code.

Letters: B clips, T frames, t slices, h w patches, S pixels of a frame's side.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES

__all__ = ["mgmae_warp", "smooth_flows", "videomae_tubes"]


def videomae_tubes(batch: int, grid: PatchGrid, hidden: int, rng: np.random.Generator) -> Tensor:
    """VideoMAE's tubes as people run them, bool `[B, t*h*w]`.

    One call a sample, in numpy, as its data set does; a collate function stacks what came, and the
    training step makes it bool.
    """
    samples = [_tube(grid, hidden, rng) for _ in range(batch)]
    return torch.stack([torch.from_numpy(sample) for sample in samples]).to(torch.bool)


def _tube(grid: PatchGrid, hidden: int, rng: np.random.Generator) -> NDArray[np.float64]:
    of_slice = np.concatenate((np.zeros(grid.h * grid.w - hidden), np.ones(hidden)))
    rng.shuffle(of_slice)
    return np.tile(of_slice, grid.t)


def mgmae_warp(flows: Tensor, grid: PatchGrid, hidden: int, generator: torch.Generator) -> Tensor:
    """MGMAE's mask (Huang et al., ICCV 2023) of clips whose optical flow is known.

    `flows [B, 2, T-1, S, S, 2]`, (dx, dy) in pixels: for each pair of neighbouring frames from the
    later to the earlier one, and back. Bool `[B, t*h*w]`, True = hidden.

    The middle frame has a map of Gaussians, one patch wide, around random tokens. It is warped
    backward, frame by frame, to both ends of the clip; what comes from outside is taken from the
    map it began with. The tokens of a slice that cover most of it are visible.
    """
    batch, _, pairs = flows.shape[:3]
    first = _gaussians(batch, grid, grid.h * grid.w - hidden, generator)
    maps = {(pairs + 1) // 2: first}
    for frame in range(min(maps) + 1, pairs + 1):
        maps[frame] = _warp(maps[frame - 1], flows[:, 0, frame - 1], first)
    for frame in reversed(range((pairs + 1) // 2)):
        maps[frame] = _warp(maps[frame + 1], flows[:, 1, frame], first)
    clip = torch.stack([maps[frame] for frame in range(pairs + 1)], 2)
    cube = (TUBELET_FRAMES, PATCH_PIXELS, PATCH_PIXELS)
    tokens = F.avg_pool3d(clip, cube).view(batch, grid.t, -1)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask.scatter_(2, tokens.topk(grid.h * grid.w - hidden).indices, value=False)
    return mask.flatten(1)


def _gaussians(batch: int, grid: PatchGrid, count: int, generator: torch.Generator) -> Tensor:
    """`[B, 1, S, S]`, the largest of `count` Gaussians at every pixel."""
    device = generator.device
    noise = torch.rand(batch, grid.h * grid.w, generator=generator, device=device)
    tokens = noise.argsort(1)[:, :count]
    of_axes = []
    for place, patches in ((tokens // grid.w, grid.h), (tokens % grid.w, grid.w)):
        pixels = torch.arange(patches * PATCH_PIXELS, device=device) + 0.5
        off = (pixels - (place[..., None] + 0.5) * PATCH_PIXELS) / PATCH_PIXELS
        of_axes.append(torch.exp(-off.square() / 2))  # [B, count, S]
    along_y, along_x = of_axes
    largest = along_y[:, 0, :, None] * along_x[:, 0, None, :]
    for number in range(1, count):
        one = along_y[:, number, :, None] * along_x[:, number, None, :]
        torch.maximum(largest, one, out=largest)
    return largest[:, None]


def _warp(image: Tensor, flow: Tensor, otherwise: Tensor) -> Tensor:
    """Backward: every pixel of `[B, 1, S, S]` looks where `flow [B, S, S, 2]` says."""
    side = image.shape[-1]
    pixels = torch.arange(side, device=image.device) + 0.5
    own = torch.stack(torch.meshgrid(pixels, pixels, indexing="xy"), -1)
    places = (own + flow) * (2 / side) - 1
    warped = F.grid_sample(image, places, align_corners=False)
    inside = (places.abs() <= 1).all(-1)[:, None]
    return torch.where(inside, warped, otherwise)


def smooth_flows(batch: int, grid: PatchGrid, generator: torch.Generator) -> Tensor:
    """Flows as `mgmae_warp` takes them, of some pixels a frame; their values cost no time."""
    frames, side = TUBELET_FRAMES * grid.t, grid.h * PATCH_PIXELS
    coarse = torch.randn(
        2 * batch * (frames - 1), 2, 7, 7, generator=generator, device=generator.device
    )
    flows = F.interpolate(3 * coarse, (side, side), mode="bilinear")
    return flows.permute(0, 2, 3, 1).reshape(batch, 2, frames - 1, side, side, 2)
