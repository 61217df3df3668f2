"""The value that crosses from the data pipeline to masks and models."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from mgm_dali.config import CELL_PIXELS

if TYPE_CHECKING:  # only named here: the processes that decode must not pay for importing torch
    import torch

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ClipBatch"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Red, green, blue in [0, 1]: how the pixels of a batch are normalised."""


@dataclass(frozen=True, repr=False)
class ClipBatch:
    """B clips of T frames with their motion, all on one device; shapes are checked once, here.

    Raises `ValueError` if two fields disagree about a size or live on different devices.
    """

    video: "torch.Tensor"
    """`[B, C, T, H, W]` float, RGB, normalised with ImageNet's mean and deviation."""
    motion: "torch.Tensor"
    """`[B, T, H/8, W/8, 2]` float32, (dx, dy) in pixels of the crop: how far the content of each
    8x8 cell moved since its reference frame, or the clip's frame before (`motion.accumulate`)."""
    motion_valid: "torch.Tensor"
    """`[B, T]` bool, False where the frame carries no vectors (I-frames)."""
    label: "torch.Tensor"
    """`[B]` int64, -1 where the manifest names none."""
    index: "torch.Tensor"
    """`[B]` int64, manifest row of the clip that was asked for; -1 fills up a last batch. Another
    row's clip stands in where that could not be read: `ClipLoader.replaced` tells where."""
    view: "torch.Tensor"
    """`[B]` int64, test view of the video; while training, which of its `augment.repeats`."""
    seed: "torch.Tensor"
    """`[B]` int64, the clip's own draw, from which its mask follows."""
    motion_known: "torch.Tensor" = field(default=cast(Any, None))
    """`[B, T, H/8, W/8]` bool, False where a cell has no vector: in frames that are not valid, and
    in the intra-coded blocks of others. If left out, all cells of valid frames are known."""
    crop: "torch.Tensor | None" = None
    """`[B, 4]` int64 (top, left, bottom, right), the part of the video's frames that a clip shows,
    in their pixels; left and right are swapped if it is mirrored. None if nobody has said."""

    def __post_init__(self) -> None:
        clips, _, frames, height, width = self.video.shape
        cells = (clips, frames, height // CELL_PIXELS, width // CELL_PIXELS)
        if cast(Any, self.motion_known) is None and self.motion_valid.shape == (clips, frames):
            everywhere = self.motion_valid[:, :, None, None].expand(cells)
            object.__setattr__(self, "motion_known", everywhere)
        expected = {
            "motion": (*cells, 2),
            "motion_valid": (clips, frames),
            "motion_known": cells,
            **dict.fromkeys(("label", "index", "view", "seed"), (clips,)),
            **({} if self.crop is None else {"crop": (clips, 4)}),
        }
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"ClipBatch.{name}: shape {tuple(tensor.shape)}, expected {shape}")
            if tensor.device != self.video.device:
                raise ValueError(f"ClipBatch.{name}: on {tensor.device}, not {self.video.device}")

    def __len__(self) -> int:
        return len(self.video)

    def __repr__(self) -> str:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        shapes = ", ".join(f"{n}={list(t.shape)}" for n, t in tensors.items() if t is not None)
        return f"ClipBatch({shapes}, {self.video.dtype}, {self.video.device})"
