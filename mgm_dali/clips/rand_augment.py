"""RandAugment's draws: which changes a clip goes through, and how strong each is.

The distribution is that of timm's `rand-m7-n4-mstd0.5-inc1`, which VideoMAE finetunes with: each
layer takes one of fifteen operations with equal chances, leaves the clip alone half of the time,
and draws its magnitude from a normal distribution, cut to 0..10. A clip's draws hold for all its
frames. The pixels are changed by `mgm_dali.pipelines.rand_augment`.
"""

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import RandAugmentConfig

__all__ = ["LEVELS", "OPERATIONS", "SIGNED", "draw_layers"]

OPERATIONS = (
    "identity",
    *("auto_contrast", "equalize", "invert", "rotate"),
    *("posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)
"""A drawn operation is a place in this row; the first does nothing."""

SIGNED = frozenset(
    {
        *("rotate", "color", "contrast", "brightness", "sharpness"),
        *("shear_x", "shear_y", "translate_x", "translate_y"),
    }
)
"""What goes either way: turned left or right, more contrast or less."""

LEVELS = 10_000
"""The strongest level; a magnitude of 0 to 10 is a level of 0 to `LEVELS`."""


def draw_layers(
    config: RandAugmentConfig, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The layers of one clip, in order: operations and levels, int32 `[layers]` each.

    Operations are places in `OPERATIONS`, levels lie in -LEVELS..LEVELS and are negative only
    for operations in `SIGNED`; the identity has level 0.
    """
    layers = config.layers
    drawn = rng.integers(1, len(OPERATIONS), layers)
    operations = np.where(rng.random(layers) < config.probability, drawn, 0)
    magnitudes = rng.normal(config.magnitude, config.magnitude_std, layers).clip(0, 10)
    signed = np.array([name in SIGNED for name in OPERATIONS])[operations]
    signs = np.where(signed & (rng.random(layers) < 0.5), -1, 1)
    levels = np.rint(magnitudes / 10 * LEVELS) * signs * (operations > 0)
    return operations.astype(np.int32), levels.astype(np.int32)
