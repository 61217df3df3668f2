"""Frame numbers of clips."""

import math

import numpy as np
import pytest

from mgm_dali.clips.sampling import SAMPLERS, VIEWS, random_frames, stride_of, view_frames
from mgm_dali.config import ClipConfig

RATES = [15.0, 25.0, 30000 / 1001, 30.0, 50.0, 60.0]


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("video_frames", [1, 5, 15, 16, 17, 63, 64, 65, 300])
@pytest.mark.parametrize(
    ("sampling", "target_fps"),
    [*((name, None) for name in SAMPLERS), ("dense", 7.5), ("dense", 30.0)],
)
def test_frames_exist_and_never_go_back(sampling, video_frames, target_fps):
    config = ClipConfig(sampling=sampling, stride_frames=4, target_fps=target_fps)
    generator = rng()
    for _ in range(50):
        frames = random_frames(config, 16, video_frames, 25.0, generator)
        assert frames.shape == (16,) and frames.dtype == np.int64
        assert frames.min() >= 0 and frames.max() < video_frames
        assert (np.diff(frames) >= 0).all()


def test_a_dense_clip_keeps_its_stride_and_reaches_both_ends():
    config = ClipConfig(stride_frames=4)
    generator = rng()
    clips = [random_frames(config, 16, 70, 25.0, generator) for _ in range(500)]
    assert all((np.diff(clip) == 4).all() for clip in clips)
    assert {int(clip[0]) for clip in clips} == set(range(70 - 64 + 1))


def test_a_short_video_repeats_its_last_frame():
    frames = random_frames(ClipConfig(stride_frames=4), 8, 10, 25.0, rng())
    assert frames.tolist() == [0, 4, 8, 9, 9, 9, 9, 9]


def test_segments_take_one_frame_from_each_equal_part():
    config = ClipConfig(sampling="segments")
    generator = rng()
    for _ in range(100):
        frames = random_frames(config, 4, 40, 25.0, generator)
        assert (frames // 10).tolist() == [0, 1, 2, 3]


def test_dense_views_are_spread_from_the_first_start_to_the_last():
    config = ClipConfig(stride_frames=4)
    starts = [int(view_frames(config, 16, 300, 25.0, k, 5)[0]) for k in range(5)]
    assert starts == [0, 59, 118, 177, 236]
    assert view_frames(config, 16, 300, 25.0, 4, 5)[-1] == 236 + 60


def test_one_view_takes_the_middle():
    frames = view_frames(ClipConfig(stride_frames=2), 4, 28, 25.0, 0, 1)
    assert frames.tolist() == [10, 12, 14, 16]


def test_two_segment_views_take_the_starts_and_the_centres():
    config = ClipConfig(sampling="segments")
    assert view_frames(config, 4, 40, 25.0, 0, 2).tolist() == [0, 10, 20, 30]
    assert view_frames(config, 4, 40, 25.0, 1, 2).tolist() == [5, 15, 25, 35]


@pytest.mark.parametrize("fps", RATES)
def test_clips_last_as_long_whatever_the_rate_of_the_video(fps):
    config = ClipConfig(stride_frames=4, target_fps=30.0)
    generator = rng()
    for _ in range(100):
        frames = random_frames(config, 16, 1000, fps, generator)
        seconds = (frames - frames[0]) / fps
        # 15 steps of 4/30 s; each frame is the nearest one
        assert np.abs(seconds - np.arange(16) * 4 / 30).max() <= 0.5 / fps + 1e-9
    views = [view_frames(config, 16, 1000, fps, k, 3) for k in range(3)]
    assert all((view - view[0] == frames - frames[0]).all() for view in views)


def test_a_fractional_stride_takes_the_nearest_frame():
    config = ClipConfig(stride_frames=1, target_fps=24.0)
    frames = view_frames(config, 8, 10, 30.0, 0, 2)  # strides of 1.25
    assert frames.tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    half = ClipConfig(stride_frames=1, target_fps=20.0)
    assert view_frames(half, 5, 100, 30.0, 0, 2).tolist() == [0, 2, 3, 5, 6]  # halves go up


def test_a_video_slower_than_the_target_shows_frames_more_than_once():
    config = ClipConfig(stride_frames=1, target_fps=30.0)
    frames = view_frames(config, 8, 100, 10.0, 0, 2)  # strides of 1/3
    assert frames.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]


def test_a_clip_as_long_as_the_video_reaches_its_end():
    config = ClipConfig(stride_frames=1, target_fps=10.0)
    for fps in RATES:
        length = math.ceil(16 * fps / 10)
        generator = rng()
        for _ in range(20):
            frames = random_frames(config, 16, length, fps, generator)
            assert frames[0] == 0 and (np.diff(frames) > 0).all()


@pytest.mark.parametrize("fps", [0.0, 25.0])
def test_without_a_rate_frames_are_counted(fps):
    counted = ClipConfig(stride_frames=3)
    timed = ClipConfig(stride_frames=3, target_fps=12.5)
    assert stride_of(timed, 0.0) == stride_of(counted, fps) == 3
    assert stride_of(timed, 25.0) == 6
    unknown = random_frames(timed, 8, 90, 0.0, rng())
    assert (unknown == random_frames(counted, 8, 90, fps, rng())).all()


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_the_rate_changes_nothing_where_frames_are_counted(sampling):
    config = ClipConfig(sampling=sampling)
    by_rate = [random_frames(config, 8, 90, fps, rng()) for fps in (0.0, *RATES)]
    assert all((frames == by_rate[0]).all() for frames in by_rate)


def every_stride(start, stride, num_frames, video_frames):
    """The same in a plain loop."""
    frames = []
    for step in range(num_frames):
        whole, rest = divmod(step * stride, 1)
        frames.append(min(start + int(whole) + (rest >= 0.5), video_frames - 1))
    return frames


def possible_starts(stride, num_frames, video_frames):
    """Where a clip can start and not run out of the video; 0 if it is too short."""
    starts = [0]
    while starts[-1] + 1 + stride * num_frames <= video_frames:
        starts.append(starts[-1] + 1)
    return starts


def test_dense_clips_and_views_equal_plain_loops_in_a_thousand_cases():
    generator, shifted, cases = rng(), 0, 0
    while cases < 1000:
        num_frames, video_frames = int(generator.integers(1, 33)), int(generator.integers(1, 400))
        fps = float(generator.choice([0.0, *RATES, generator.uniform(1, 120)]))
        target = float(generator.choice([8.0, 15.0, 24.0, 30.0]))
        stride_frames = int(generator.integers(1, 7))
        config = ClipConfig(stride_frames=stride_frames, target_fps=target)
        stride = stride_frames * fps / target if fps else stride_frames
        span = stride * num_frames
        if span != round(span) and abs(span - round(span)) < 1e-9:
            continue  # whether the last start is possible is up to rounding
        cases += 1
        starts = possible_starts(stride, num_frames, video_frames)

        clip = random_frames(config, num_frames, video_frames, fps, generator)
        assert clip[0] in starts
        assert clip.tolist() == every_stride(int(clip[0]), stride, num_frames, video_frames)

        views = int(generator.integers(1, 8))
        for view in range(views):
            share = view / (views - 1) if views > 1 else 0.5
            start = starts[int(share * (len(starts) - 1))]
            found = view_frames(config, num_frames, video_frames, fps, view, views)
            assert found.tolist() == every_stride(start, stride, num_frames, video_frames)
            shifted += start > 0
    assert shifted > 500


def test_segments_equal_plain_loops_in_a_thousand_cases():
    generator = rng()
    config = ClipConfig(sampling="segments")
    for _ in range(1000):
        num_frames, video_frames = int(generator.integers(1, 33)), int(generator.integers(1, 400))
        clip = random_frames(config, num_frames, video_frames, 25.0, generator)
        for part, frame in enumerate(clip.tolist()):
            begin, end = (video_frames * k / num_frames for k in (part, part + 1))
            assert math.floor(begin) <= frame < max(end, begin + 1)
        views = int(generator.integers(1, 8))
        for view in range(views):
            found = view_frames(config, num_frames, video_frames, 25.0, view, views)
            for part, frame in enumerate(found.tolist()):
                # in whole numbers: (part + view / views) * video_frames / num_frames
                exact = (part * views + view) * video_frames, num_frames * views
                below, rest = divmod(*exact)
                assert frame == below or (rest == 0 and frame == below - 1)  # rounding


def test_the_tables_know_the_same_names_as_the_config():
    names = set(ClipConfig.model_fields["sampling"].annotation.__args__)
    assert set(SAMPLERS) == set(VIEWS) == names
