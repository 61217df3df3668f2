"""Which hidden tokens are predicted: decoder masking (VideoMAEv2, Wang et al., CVPR 2023).

    slice 0   . .   slice 1   . #   slice 2   # #   slice 3   # .       # is predicted, where
              # #             # .             . .             . #         it is hidden at all

A cell of 2x2 places is repeated over the slice and runs on by one place from slice to slice, so
that all of a thing is predicted at some time. It is less work, not another mask: the encoder sees
the same tokens.
"""

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.masking.checks import require_tensor
from mgm_dali.masking.selection import hide_highest
from mgm_dali.uniforms import scale_bits, uniform_bits

__all__ = ["decoded_count", "decoded_tokens"]

DECODING_STREAM = 2


def decoded_count(num_hidden: int, share: float) -> int:
    """How many of a clip's hidden tokens are predicted: at least one."""
    return max(1, int(share * num_hidden + 1e-6))


@torch.no_grad()
def decoded_tokens(mask: Tensor, seed: Tensor, grid: PatchGrid, num_decoded: int) -> Tensor:
    """bool `[B, N]`, True = predicted: of each row of `mask [B, N]` exactly `num_decoded` tokens.

    VideoMAEv2 predicts half of all places, visible ones included, and leaves those out of the loss.
    We take hidden ones only, and the same count in every clip: where the running cell offers too
    few or too many, the places it comes to next are added or the last ones left out. Raises
    ValueError if masks are not of this grid, or for fewer than 1 or more than all tokens; that no
    more are predicted than are hidden is not checked, as it would wait for the device.
    """
    t, h, w = grid = PatchGrid(*grid)
    require_tensor("seed", seed, (len(mask),), torch.int64)
    require_tensor("mask", mask, (len(mask), grid.num_tokens), torch.bool)
    if not 0 < num_decoded <= grid.num_tokens:
        raise ValueError(f"num_decoded: found {num_decoded}, expected 1 to {grid.num_tokens}")
    slices, rows, columns = (torch.arange(size, device=mask.device) for size in grid)
    in_cell = 2 * (rows % 2)[:, None] + columns % 2
    bits = uniform_bits(seed, DECODING_STREAM, 1 + t * h * w)
    start = scale_bits(bits[:, :1], 0, 3)[..., None, None]
    turn = (in_cell + slices[:, None, None] + start) % 4
    first = torch.where(mask.view(-1, t, h, w), turn, -1).flatten(1)
    return hide_highest(first[:, None], t * h * w - num_decoded, bits[:, 1:], None)[:, 0]
