"""The grid of tokens that a clip is cut into."""

from typing import NamedTuple

from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES, ModelConfig

__all__ = ["PatchGrid", "token_grid"]


class PatchGrid(NamedTuple):
    """Tokens of a clip: t slices of h x w patches, flattened in the order (t, h, w)."""

    t: int
    h: int
    w: int

    @property
    def num_tokens(self) -> int:
        return self.t * self.h * self.w


def token_grid(config: ModelConfig) -> PatchGrid:
    """The grid of a clip: 16 frames of 224 x 224 pixels are 8 x 14 x 14 tokens."""
    side = config.image_size // PATCH_PIXELS
    return PatchGrid(config.num_frames // TUBELET_FRAMES, side, side)
