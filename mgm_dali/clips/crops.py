"""Which part of the frame a clip shows: drawn once, then applied to pixels and motion alike.

A crop is a box in pixels of the source frame, `(top, left, bottom, right)`, and whether it is
mirrored left to right. The DALI graph scales the box to the clip's square size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mgm_dali.config import AugmentConfig

__all__ = ["CROPS", "Crop", "random_crop", "view_crop", "whole_frame"]


@dataclass(frozen=True)
class Crop:
    """A box in whole source pixels, mirrored or not."""

    top: int
    left: int
    bottom: int
    right: int
    flip: bool = False

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


def random_crop(
    config: AugmentConfig, height: int, width: int, image_size: int, rng: np.random.Generator
) -> Crop:
    """The crop of a training clip of a `height` by `width` video."""
    top, left, crop_height, crop_width = CROPS[config.crop](config, height, width, image_size, rng)
    flip = config.flip and bool(rng.random() < 0.5)
    return Crop(top, left, top + crop_height, left + crop_width, flip)


def view_crop(height: int, width: int, crop: int, num_crops: int) -> Crop:
    """Test crop `crop` of `num_crops`: the largest square, spread evenly over the longer side."""
    side = min(height, width)
    share = crop / (num_crops - 1) if num_crops > 1 else 0.5
    top, left = int(share * (height - side)), int(share * (width - side))
    return Crop(top, left, top + side, left + side)


def whole_frame(height: int, width: int) -> Crop:
    """All of it, so that its sides are scaled unlike."""
    return Crop(0, 0, height, width)


Box = tuple[int, int, int, int]
"""(top, left, height, width) in source pixels."""


def _center(
    config: AugmentConfig, height: int, width: int, image_size: int, rng: np.random.Generator
) -> Box:
    del config, image_size, rng
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _whole(
    config: AugmentConfig, height: int, width: int, image_size: int, rng: np.random.Generator
) -> Box:
    del config, image_size, rng
    return 0, 0, height, width


SCALES = (1.0, 0.875, 0.75, 0.66)
QUARTERS = (  # (down, right) in quarters of the room that is left: corners, centre, edges, between
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)),
)


def _multi_scale(
    config: AugmentConfig, height: int, width: int, image_size: int, rng: np.random.Generator
) -> Box:
    """VideoMAE's pretraining crop: sides from four scales of the short side, thirteen positions.

    The two sides differ by one step of scale at the most; a side within 3 pixels of the clip's
    size becomes that size, so that no needless resampling happens.
    """
    del config
    sides = [int(min(height, width) * scale) for scale in SCALES]
    sides = [image_size if abs(side - image_size) < 3 else side for side in sides]
    limit = (height, width)
    pairs = [
        (min(sides[i], limit[0]), min(sides[j], limit[1]))
        for i in range(len(SCALES))
        for j in range(len(SCALES))
        if abs(i - j) <= 1
    ]
    crop_height, crop_width = pairs[int(rng.integers(len(pairs)))]
    down, right = QUARTERS[int(rng.integers(len(QUARTERS)))]
    top = (height - crop_height) // 4 * down
    left = (width - crop_width) // 4 * right
    return top, left, crop_height, crop_width


def _random_resized(
    config: AugmentConfig, height: int, width: int, image_size: int, rng: np.random.Generator
) -> Box:
    """A box of random area and aspect ratio, as usual in finetuning; ten tries, then centre."""
    area = height * width
    for _ in range(10):
        target = area * rng.uniform(config.min_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_height, crop_width = round(math.sqrt(target / ratio)), round(math.sqrt(target * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(rng.integers(0, height - crop_height, endpoint=True))
            left = int(rng.integers(0, width - crop_width, endpoint=True))
            return top, left, crop_height, crop_width
    return _center(config, height, width, image_size, rng)


CROPS: dict[str, Callable[[AugmentConfig, int, int, int, np.random.Generator], Box]] = {
    "multi_scale": _multi_scale,
    "random_resized": _random_resized,
    "center": _center,
    "whole": _whole,
}
