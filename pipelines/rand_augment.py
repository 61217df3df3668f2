"""RandAugment on the frames of a clip, inside the DALI graph; the feed has drawn what to do.

Every operation takes uint8 FHWC pixels of any size and the clip's signed level, and does the same
to all frames. They are timm's operations of the same name in their increasing form, without a
random number of their own; tests/test_rand_augment.py holds the two together.

The graph that calls `rand_augment` must be a function under
`pipeline_def(enable_conditionals=True)`: a clip then pays only for the operations it drew.
"""

from collections.abc import Callable

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.auto_aug.core import select
from nvidia.dali.data_node import DataNode

from mgm_dali.clips.rand_augment import LEVELS

__all__ = ["OPERATIONS", "rand_augment"]

GRAY = 128
"""What is shown where a frame was moved away, as in VideoMAE (timm's default too)."""
LUMA = np.array((0.299, 0.587, 0.114), np.float32)
ONE = 2**16
"""The number 1 in fixed point."""
SMOOTH = np.array(((1, 1, 1), (1, 5, 1), (1, 1, 1)), np.float32) / 13
CENTER = np.array(((0, 0, 0), (0, 1, 0), (0, 0, 0)), np.float32)


def rand_augment(
    pixels: DataNode, operations: DataNode, levels: DataNode, num_layers: int
) -> DataNode:
    """The clip after `num_layers` operations: uint8 FHWC, of the size it had.

    `operations` and `levels` are int32 `[num_layers]` on the host, as `draw_layers` gives them;
    `pixels` may lie on either device.
    """
    functions = list(OPERATIONS.values())
    for layer in range(num_layers):
        pixels = select(functions, operations[layer], pixels, levels[layer])
    return pixels


def identity(pixels: DataNode, level: DataNode) -> DataNode:
    """Nothing changes."""
    del level
    return pixels


def auto_contrast(pixels: DataNode, level: DataNode) -> DataNode:
    """Each channel of each frame is stretched to 0..255; a flat channel stays."""
    del level
    low = fn.reductions.min(pixels, axis_names="HW", keep_dims=True)
    high = fn.reductions.max(pixels, axis_names="HW", keep_dims=True)
    flat = high == low
    lifted = pixels - low * (high != low)
    stretched = lifted * np.int32(255) // (high - low + flat * np.uint8(255))
    return fn.cast_like(stretched, pixels)


def equalize(pixels: DataNode, level: DataNode) -> DataNode:
    """Each channel of each frame gets a flat histogram."""
    del level
    return fn.equalize(pixels)


def invert(pixels: DataNode, level: DataNode) -> DataNode:
    """Negative."""
    del level
    return pixels ^ np.uint8(255)


def posterize(pixels: DataNode, level: DataNode) -> DataNode:
    """Keeps the upper 4 bits, then 3, 2 and 1; none (a black clip) is not for timm either."""
    masks = types.Constant(np.array((0xF0, 0xE0, 0xC0, 0x80, 0x80), np.uint8))
    return pixels & masks[level * 4 // LEVELS]


def solarize(pixels: DataNode, level: DataNode) -> DataNode:
    """Inverts what is at least as bright as a threshold, from 256 down to 0."""
    threshold = 256 - level * 256 // LEVELS
    return pixels ^ (pixels >= threshold) * np.uint8(255)


def solarize_add(pixels: DataNode, level: DataNode) -> DataNode:
    """Lightens what is darker than 128, by up to 110."""
    added = fn.cast(level * 110 // LEVELS, dtype=types.UINT8)
    return pixels + (pixels < 128) * added


def color(pixels: DataNode, level: DataNode) -> DataNode:
    """Colours from a tenth to 1.9 times as strong."""
    gray = fn.color_space_conversion(pixels, image_type=types.RGB, output_type=types.GRAY)
    return _blend(pixels, gray, _factor(level))


def contrast(pixels: DataNode, level: DataNode) -> DataNode:
    """Contrast from a tenth to 1.9 times as strong, around the mean brightness of each frame."""
    means = fn.reductions.mean(pixels, axis_names="HW", keep_dims=True)
    mean = fn.reductions.sum(means * types.Constant(LUMA), axis_names="C", keep_dims=True)
    return _blend(pixels, fn.cast(mean, dtype=types.INT32), _factor(level))


def brightness(pixels: DataNode, level: DataNode) -> DataNode:
    """From a tenth to 1.9 times as bright."""
    return fn.brightness(pixels, brightness=_factor(level))


def sharpness(pixels: DataNode, level: DataNode) -> DataNode:
    """From nearly smoothed to sharpened."""
    factor = _factor(level)
    kernel = factor * types.Constant(CENTER) + (1 - factor) * types.Constant(SMOOTH)
    return fn.filter(pixels, kernel.gpu() if pixels.device == "gpu" else kernel)


def rotate(pixels: DataNode, level: DataNode) -> DataNode:
    """Turned about the middle by up to 30 degrees."""
    size = pixels.shape(dtype=types.FLOAT)
    middle = fn.stack(size[2], size[1]) / np.float32(2)
    return _warp(pixels, fn.transforms.rotation(angle=30 * _share(level), center=middle))


def shear_x(pixels: DataNode, level: DataNode) -> DataNode:
    """Rows pushed sideways, by up to 0.3 of how far down they are."""
    shear = 0.3 * _share(level)
    return _warp(pixels, fn.transforms.shear(shear=fn.stack(shear, shear * 0)))


def shear_y(pixels: DataNode, level: DataNode) -> DataNode:
    """Columns pushed up or down, by up to 0.3 of how far right they are."""
    shear = 0.3 * _share(level)
    return _warp(pixels, fn.transforms.shear(shear=fn.stack(shear * 0, shear)))


def translate_x(pixels: DataNode, level: DataNode) -> DataNode:
    """Moved sideways by up to 0.45 of the width."""
    return _move(pixels, level, axis=2)


def translate_y(pixels: DataNode, level: DataNode) -> DataNode:
    """Moved up or down by up to 0.45 of the height."""
    return _move(pixels, level, axis=1)


OPERATIONS: dict[str, Callable[[DataNode, DataNode], DataNode]] = {
    function.__name__: function
    for function in (
        identity,
        *(auto_contrast, equalize, invert, rotate),
        *(posterize, solarize, solarize_add),
        *(color, contrast, brightness, sharpness),
        *(shear_x, shear_y, translate_x, translate_y),
    )
}
"""In the order of `mgm_dali.clips.rand_augment.OPERATIONS`."""


def _share(level: DataNode) -> DataNode:
    """-1..1."""
    return level / np.float32(LEVELS)


def _factor(level: DataNode) -> DataNode:
    """0.1..1.9, where 1 leaves things as they are."""
    return 1 + 0.9 * _share(level)


def _blend(pixels: DataNode, other: DataNode, factor: DataNode) -> DataNode:
    """`factor` times the pixels and the rest of `other`; a factor over 1 moves away from it.

    In fixed point, which rounds alike on both devices and costs half of what floats do.
    """
    share = fn.cast(factor * ONE, dtype=types.INT32)
    return fn.cast_like((pixels * share + other * (ONE - share)) // ONE, pixels)


def _warp(pixels: DataNode, matrix: DataNode) -> DataNode:
    """Each pixel is read at `matrix` times its place; gray beyond the frame.

    A frame of gray around the picture, read by clamped coordinates, costs half of what
    `warp_affine` takes for its own `fill_value`.
    """
    size = pixels.shape(dtype=types.INT32)[1:3]
    framed = fn.slice(
        pixels,
        start=(-1, -1),
        shape=size + 2,
        axis_names="HW",
        out_of_bounds_policy="pad",
        fill_values=GRAY,
    )
    matrix = fn.transforms.translation(matrix, offset=(1, 1))
    return fn.warp_affine(framed, matrix=matrix, size=fn.cast(size, dtype=types.FLOAT))


def _move(pixels: DataNode, level: DataNode, axis: int) -> DataNode:
    """Moved by whole pixels, which costs a tenth of moving by parts of them."""
    size = pixels.shape(dtype=types.INT32)[axis]
    start = fn.cast(0.45 * _share(level) * size, dtype=types.INT32)
    return fn.slice(
        pixels,
        start=fn.stack(start),
        shape=fn.stack(size),
        axes=(axis,),
        out_of_bounds_policy="pad",
        fill_values=GRAY,
    )
