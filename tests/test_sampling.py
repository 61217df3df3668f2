"""Frame numbers of clips."""

import numpy as np
import pytest

from mgm_dali.clips.sampling import SAMPLERS, VIEWS, random_frames, view_frames
from mgm_dali.config import ClipConfig


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("sampling", SAMPLERS)
@pytest.mark.parametrize("video_frames", [1, 5, 15, 16, 17, 63, 64, 65, 300])
def test_frames_exist_and_never_go_back(sampling, video_frames):
    config = ClipConfig(sampling=sampling, stride_frames=4)
    generator = rng()
    for _ in range(50):
        frames = random_frames(config, 16, video_frames, generator)
        assert frames.shape == (16,)
        assert frames.min() >= 0 and frames.max() < video_frames
        assert (np.diff(frames) >= 0).all()


def test_a_dense_clip_keeps_its_stride_and_reaches_both_ends():
    config = ClipConfig(stride_frames=4)
    generator = rng()
    clips = [random_frames(config, 16, 70, generator) for _ in range(500)]
    assert all((np.diff(clip) == 4).all() for clip in clips)
    assert {int(clip[0]) for clip in clips} == set(range(70 - 64 + 1))


def test_a_short_video_repeats_its_last_frame():
    frames = random_frames(ClipConfig(stride_frames=4), 8, 10, rng())
    assert frames.tolist() == [0, 4, 8, 9, 9, 9, 9, 9]


def test_segments_take_one_frame_from_each_equal_part():
    config = ClipConfig(sampling="segments")
    generator = rng()
    for _ in range(100):
        frames = random_frames(config, 4, 40, generator)
        assert (frames // 10).tolist() == [0, 1, 2, 3]


def test_dense_views_are_spread_from_the_first_start_to_the_last():
    config = ClipConfig(stride_frames=4)
    starts = [int(view_frames(config, 16, 300, k, 5)[0]) for k in range(5)]
    assert starts == [0, 59, 118, 177, 236]
    assert view_frames(config, 16, 300, 4, 5)[-1] == 236 + 60


def test_one_view_takes_the_middle():
    assert view_frames(ClipConfig(stride_frames=2), 4, 28, 0, 1).tolist() == [10, 12, 14, 16]


def test_two_segment_views_take_the_starts_and_the_centres():
    config = ClipConfig(sampling="segments")
    assert view_frames(config, 4, 40, 0, 2).tolist() == [0, 10, 20, 30]
    assert view_frames(config, 4, 40, 1, 2).tolist() == [5, 15, 25, 35]


def test_the_tables_know_the_same_names_as_the_config():
    names = set(ClipConfig.model_fields["sampling"].annotation.__args__)
    assert set(SAMPLERS) == set(VIEWS) == names
