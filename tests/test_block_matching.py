"""Block matching: finds how things moved where the codec does not say."""

import numpy as np
import pytest
from videos import CLIPS, Clip, shared

from mgm_dali.motion import block_matching, codec
from mgm_dali.video.reader import probe


@pytest.mark.parametrize("kind", ["vp9", "hevc", "h264", "h264 in avi", "h264 of odd size in mkv"])
def test_the_square_and_the_background_move_as_they_were_made_to(kind: str) -> None:
    clip = CLIPS[kind]
    field = block_matching.read_motion(clip.path())
    assert field.vectors.shape[0] == clip.num_frames
    assert not field.valid[0] and field.valid[1:].all()
    for number in range(1, clip.num_frames):
        pixels = field.pixels()[number]
        square = np.median(pixels[clip.inside(number)], axis=0)
        background = np.median(pixels[clip.outside(number)], axis=0)
        assert square.tolist() == list(clip.velocity), f"frame {number}"
        assert background.tolist() == [0, 0], f"frame {number}"


@pytest.mark.parametrize("velocity", [(5, 0), (0, 4), (12, 3), (-12, -3)])
def test_fast_motion_is_found_in_any_direction(velocity: tuple[int, int]) -> None:
    start = (100 if velocity[0] < 0 else 4, 50 if velocity[1] < 0 else 4)
    clip = Clip(
        *("libvpx-vp9", "webm"),
        num_frames=6,
        start=start,
        velocity=velocity,
        grain_pixels=8,
    )
    field = block_matching.read_motion(clip.path())
    for number in range(1, clip.num_frames):
        square = np.median(field.pixels()[number][clip.inside(number)], axis=0)
        assert square.tolist() == list(velocity), f"frame {number}"


@pytest.mark.parametrize("kind", ["vp9", "hevc", "h264 in avi", "mpeg4 with B-frames"])
def test_a_frame_has_the_same_field_whatever_else_is_asked_for(kind: str) -> None:
    path = CLIPS[kind].path()
    whole = block_matching.read_motion(path)
    for numbers in ([0], [7], [23, 5, 5, 6], list(range(1, 20, 4))):
        field = block_matching.read_motion(path, numbers)
        assert np.array_equal(field.vectors, whole.vectors[numbers])
        assert np.array_equal(field.valid, whole.valid[numbers])


def test_it_agrees_with_the_vectors_of_an_encoder() -> None:
    clip = CLIPS["h264"]
    estimated = block_matching.read_motion(clip.path())
    exported = codec.read_motion(clip.path())
    both = estimated.valid & exported.valid
    distance = np.abs(estimated.pixels()[both] - exported.pixels()[both]).max(axis=-1)
    assert (distance <= 0.5).mean() > 0.8


def test_the_border_that_no_whole_block_covers_moves_like_its_neighbour() -> None:
    clip = Clip("libvpx-vp9", "webm", width=172, height=124, pan=(2, 1), start=(50, 50))
    field = block_matching.read_motion(clip.path(), [3, 9])
    assert field.vectors.shape == (2, 16, 22, 2)
    assert np.array_equal(field.vectors[:, :, 20], field.vectors[:, :, 19])
    assert np.array_equal(field.vectors[:, :, 21], field.vectors[:, :, 19])
    assert np.array_equal(field.vectors[:, 15], field.vectors[:, 13])
    assert field.vectors[:, 15, 21].any()


@pytest.mark.parametrize(
    "name",
    [
        "hostile/pixfmt/mozilla_video_colr_nclx_rgb.mp4",  # 2x2, less than one block
        "hostile/odd_dims/-video-with-dash-.mp4",
        "hostile/pixfmt/fate_vp9_vp93-2-20-10bit-yuv422.mp4",
        "hostile/pixfmt/meta-pytorch_h265_10bits.mp4",
        "hostile/very_short/mozilla_tiny_av1.mp4",
    ],
)
def test_odd_pictures_are_matched_or_not_valid(name: str) -> None:
    path = shared(name)
    facts = probe(path)
    field = block_matching.read_motion(path)
    assert len(field.valid) == facts.num_frames
    assert field.valid[1:].all() == (min(facts.width, facts.height) >= 16)
