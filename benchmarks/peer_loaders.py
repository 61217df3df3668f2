"""Loaders of others, as their users write them: a PyTorch data set of clips, read and cropped.

Each gives float32 `[3, 16, 224, 224]` a clip, normalised with ImageNet's mean and deviation. Both
were written for this comparison from descriptions of what is done, with no more work than that.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

__all__ = [
    "crop_with_pillow",
    "crop_with_torchvision",
    "read_with_decord",
    "read_with_torchcodec",
    "torch_batches",
    "tube_mask",
]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
MASK_RATIO = 0.9

Box = Sequence[int]
"""(top, left, height, width) in pixels of the source."""
Read = Callable[[dict[str, Any]], tuple[torch.Tensor, ...]]


class _Clips(Dataset[tuple[torch.Tensor, ...]]):
    def __init__(self, clips: Sequence[dict[str, Any]], read: Read) -> None:
        self.clips, self.read = clips, read

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
        return self.read(self.clips[number])


def torch_batches(
    clips: Sequence[dict[str, Any]],
    read: Read,
    batch_size: int,
    num_workers: int,
    *,
    pin_memory: bool = False,
) -> Iterator[list[torch.Tensor]]:
    """Batches of PyTorch's own loader, else with its defaults; the clips in the order given."""
    data, pinned = _Clips(clips, read), pin_memory
    return iter(
        DataLoader(data, batch_size, num_workers=num_workers, pin_memory=pinned, drop_last=True)
    )


def read_with_decord(clip: dict[str, Any], size: int) -> tuple[torch.Tensor, ...]:
    """VideoMAE's way: frames by decord, cropped as pictures, and a tube mask."""
    from decord import VideoReader, cpu

    reader = VideoReader(clip["path"], num_threads=1, ctx=cpu(0))
    pixels = reader.get_batch(clip["frames"]).asnumpy()
    return crop_with_pillow(pixels, clip["box"], size), tube_mask(len(pixels) // 2, size // 16)


def read_with_torchcodec(
    clip: dict[str, Any], size: int, antialias: bool
) -> tuple[torch.Tensor, ...]:
    """torchcodec's way: exact frames as a tensor, cropped by torchvision."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(clip["path"], num_ffmpeg_threads=1, seek_mode="exact")
    pixels = decoder.get_frames_at(clip["frames"]).data
    return (crop_with_torchvision(pixels, clip["box"], size, antialias),)


def crop_with_pillow(pixels: NDArray[np.uint8], box: Box, size: int) -> torch.Tensor:
    """uint8 `[T, H, W, 3]` to float32 `[3, T, size, size]`, one picture after the other."""
    top, left, height, width = box
    corners = (left, top, left + width, top + height)
    pictures = [
        Image.fromarray(frame).crop(corners).resize((size, size), Image.Resampling.BILINEAR)
        for frame in pixels
    ]
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    scaled = stacked.permute(3, 0, 1, 2).contiguous().float().div_(255)
    return scaled.sub_(_of_channels(MEAN)).div_(_of_channels(STD))


def crop_with_torchvision(
    pixels: torch.Tensor, box: Box, size: int, antialias: bool
) -> torch.Tensor:
    """uint8 `[T, 3, H, W]` to float32 `[3, T, size, size]`, all frames at once."""
    from mgm_dali.torchvision_ops import import_torchvision

    import_torchvision()
    from torchvision.transforms.v2 import functional

    cropped = functional.resized_crop(pixels, *box, [size, size], antialias=antialias)
    scaled = functional.to_dtype(cropped, torch.float32, scale=True)
    return functional.normalize(scaled, MEAN, STD, inplace=True).transpose(0, 1)


def tube_mask(num_slices: int, side: int) -> torch.Tensor:
    """bool `[num_slices * side * side]`, True where hidden: the same patches in every slice."""
    hidden = np.zeros(side * side, np.bool_)
    hidden[: int(MASK_RATIO * side * side)] = True
    np.random.default_rng().shuffle(hidden)
    return torch.from_numpy(np.tile(hidden, num_slices))


def _of_channels(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values).view(3, 1, 1, 1)
