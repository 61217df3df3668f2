"""How many tokens a mask hides."""

import math

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.errors import UserError

__all__ = ["hidden_per_slice"]


def hidden_per_slice(ratio: float, grid: PatchGrid) -> int:
    """Tokens hidden in each slice: 147 of 196 at 0.75, 176 at 0.9, as in VideoMAE.

    An integer fixed once, for all masks: rounding a share in two places has made published
    implementations disagree by a token. The small term undoes products such as 0.7 * 10 < 7.

    Raises `UserError` if it would hide nothing, or everything.
    """
    places = grid.h * grid.w
    hidden = math.floor(ratio * places + 1e-6)
    if not 0 < hidden < places:
        raise UserError(
            f"mask.ratio: {ratio} hides {hidden} of the {places} tokens of a slice; "
            "at least one must be hidden and one visible"
        )
    return hidden
