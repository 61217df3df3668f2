"""Block matching: what is its own, beside the tests that every source passes."""

import numpy as np
from videos import Clip

from mgm_dali.motion import block_matching


def test_the_border_that_no_whole_block_covers_moves_like_its_neighbour() -> None:
    clip = Clip("libvpx-vp9", "webm", width=172, height=124, pan=(2, 1), start=(50, 50))
    field = block_matching.read_motion(clip.path(), [3, 9])
    assert field.vectors.shape == (2, 16, 22, 2)
    assert np.array_equal(field.vectors[:, :, 20], field.vectors[:, :, 19])
    assert np.array_equal(field.vectors[:, :, 21], field.vectors[:, :, 19])
    assert np.array_equal(field.vectors[:, 15], field.vectors[:, 13])
    assert field.vectors[:, 15, 21].any()
