"""The picture of a clip in training: its frames, their motion, what the network sees and makes.

    frames           [0] [2] [4] [6]       a column for each of at most 8 slices
    motion           [0] [2] [4] [6]       where there is any
    seen             [0] [2] [4] [6]       hidden patches in grey
    reconstruction   [0] [2] [4] [6]       hidden patches as predicted

Letters: B clips, T frames, H W pixels, N tokens in t slices of h x w, n columns.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD, ClipBatch
from mgm_dali.clips.overlays import cover_hidden, direction_colours, fastest_shown, striped
from mgm_dali.config import TUBELET_FRAMES
from mgm_dali.models import Autoencoder
from mgm_dali.models.reconstruction import reconstructed_frames

__all__ = ["picture_of"]

Frames = NDArray[np.uint8]

MAX_COLUMNS = 8
MAX_SIDE_PIXELS = 128
"""Larger frames are halved: the whole picture is seen at once, and is quickly written."""
GAP_PIXELS = 4
LABEL_PIXELS = 82
"""Room for the names of the rows."""
WHITE, BLACK = 255, 0


@torch.no_grad()
def picture_of(network: Autoencoder, batch: ClipBatch, mask: Tensor) -> Frames:
    """The first clip of a batch, uint8 `[height, width, 3]`.

    `mask [B, N]`, True = hidden. Brightness and contrast of hidden patches are guessed from the
    visible ones, as `mgm-dali show` does; what is predicted as no number is black. The network is
    asked in evaluation mode, for this one clip; it is left in the mode that it was in, and no
    generator of random numbers is used. Under ZeRO 3 all ranks must call it.
    """
    t, h, w = network.grid
    video, mask = batch.video[:1].float(), mask[:1]
    with _evaluating(network):
        made = reconstructed_frames(network, video, mask)[0]
    slices = range(0, t, -(-t // MAX_COLUMNS))
    times = [TUBELET_FRAMES * number for number in slices]
    mean, deviation = (video.new_tensor(v).view(3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    frames = _to_bytes(video[0, :, times] * deviation + mean)
    rows = {"frames": frames}
    known = batch.motion_known[0].cpu().numpy()
    if known.any():
        vectors, known, fastest = _strongest(batch.motion[0].float().cpu().numpy(), known)
        colours = striped(direction_colours(vectors[slices], fastest), known[slices])
        rows[f"motion\n(full colour:\n{fastest:.0f} pixels)"] = colours
    hidden = mask.view(t, h, w).cpu().numpy()
    rows[f"seen\n({hidden.mean():.0%} hidden)"] = cover_hidden(frames, hidden[slices])
    rows["reconstruction"] = _to_bytes(made[:, times])
    return _sheet(rows)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Without stochastic depth; afterwards every part is in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _strongest(
    vectors: NDArray[np.float32], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], float]:
    """The fastest vector of each slice's frames, which masks look at, and the scale's end.

    `[T, H/8, W/8, 2]` and `[T, H/8, W/8]` to those of t slices; a cell is known in a slice if it
    is in one of its frames.
    """
    slices = (-1, TUBELET_FRAMES, *known.shape[1:])
    speed = (np.linalg.norm(vectors, axis=-1) * known).astype(np.float32)
    fastest = fastest_shown(speed)
    vectors, known, speed = (
        vectors.reshape(*slices, 2),
        known.reshape(slices),
        speed.reshape(slices),
    )
    chosen = speed.argmax(axis=1)[:, None, ..., None]
    return np.take_along_axis(vectors, chosen, axis=1)[:, 0], np.asarray(known.any(axis=1)), fastest


def _to_bytes(video: Tensor) -> Frames:
    """`[C, n, H, W]` in [0, 1] as uint8 `[n, H, W, C]`."""
    pixels = (video.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    array: Frames = pixels.permute(1, 2, 3, 0).cpu().numpy()
    return array


def _sheet(rows: Mapping[str, Frames]) -> Frames:
    """Rows of n frames `[n, H, W, 3]` below each other, with their names before them."""
    lines = [_line(frames) for frames in rows.values()]
    height, width = lines[0].shape[:2]
    sheet = Image.new("RGB", (LABEL_PIXELS + width, len(rows) * height), (WHITE,) * 3)
    labels = ImageDraw.Draw(sheet)
    for number, (label, line) in enumerate(zip(rows, lines, strict=True)):
        sheet.paste(Image.fromarray(line), (LABEL_PIXELS, number * height))
        labels.multiline_text((GAP_PIXELS, number * height + GAP_PIXELS), label, fill=(BLACK,) * 3)
    return np.asarray(sheet)


def _line(frames: Frames) -> Frames:
    """n frames beside each other, as small as need be."""
    while frames.shape[2] > MAX_SIDE_PIXELS:
        wide = frames.astype(np.uint16)
        wide = wide[:, ::2] + wide[:, 1::2]
        frames = ((wide[:, :, ::2] + wide[:, :, 1::2] + 2) // 4).astype(np.uint8)
    gaps = ((0, 0), (0, GAP_PIXELS), (0, GAP_PIXELS), (0, 0))
    return np.concatenate(list(np.pad(frames, gaps, constant_values=WHITE)), axis=1)
