"""Block matching: what is its own, beside the tests that every source passes."""

import numpy as np
import pytest
from videos import Clip, medians

from mgm_dali.motion import block_matching, codec
from mgm_dali.video.reader import probe


def test_the_border_that_no_whole_block_covers_moves_like_its_neighbour() -> None:
    clip = Clip("libvpx-vp9", "webm", width=172, height=124, pan=(2, 1), start=(50, 50))
    field = block_matching.read_motion(clip.path(), [3, 9])
    assert field.vectors.shape == (2, 16, 22, 2)
    assert np.array_equal(field.vectors[:, :, 20], field.vectors[:, :, 19])
    assert np.array_equal(field.vectors[:, :, 21], field.vectors[:, :, 19])
    assert np.array_equal(field.vectors[:, 15], field.vectors[:, 13])
    assert field.vectors[:, 15, 21].any()


@pytest.mark.parametrize(
    ("encoder", "container", "pixel_format"),
    [
        ("libx265", "mp4", "yuv420p"),
        ("libvpx", "webm", "yuv420p"),
        ("libvpx-vp9", "webm", "yuv420p"),
        ("libsvtav1", "mkv", "yuv420p"),
        ("mjpeg", "avi", "yuvj420p"),
    ],
)
def test_codecs_without_vectors_have_motion_all_the_same(
    encoder: str, container: str, pixel_format: str
) -> None:
    clip = Clip(encoder, container, num_frames=8, pixel_format=pixel_format)
    assert probe(clip.path()).codec not in codec.CODECS_WITH_VECTORS
    field = block_matching.read_motion(clip.path())
    assert field.valid[1:].all()
    for number in range(1, clip.num_frames):
        square, background = medians(clip, field, number)
        assert np.abs(square - clip.velocity).max() <= 1, f"frame {number}"
        assert np.abs(background).max() <= 0.5, f"frame {number}"
