"""What a profile reads: whose clips count, how much of their files, and what bad files leave."""

from dataclasses import replace

import numpy as np
import pytest
from feeds import TreacherousFeed
from small_videos import manifest_of, write_video

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.share import Share
from mgm_dali.profiling.apart import reading_apart
from mgm_dali.profiling.feeds import NUM_REMEMBERED, first_samples
from mgm_dali.profiling.prepared import read_prepared
from mgm_dali.profiling.reading import first_videos, measure_reading

CONFIG = RunConfig.model_validate(
    {"clip": {"stride_frames": 2}, "model": {"num_frames": 8, "image_size": 64}}
)
SECONDS = 0.5


def feed_of(manifest, make_feed=ClipFeed, **data):
    config = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update=data)})
    return make_feed(manifest, config, "pretrain", Share(2), motion_source="codec")


def videos_named(folder, *names):
    return manifest_of(folder / "videos.csv", [write_video(folder / name) for name in names])


GOOD = tuple(f"{number}.mp4" for number in range(4))


def test_only_clips_of_the_videos_asked_for_are_handed_over_again(tmp_path):
    manifest = videos_named(tmp_path, *GOOD, "spoiled.mp4")
    (tmp_path / "spoiled.mp4").write_bytes(b"no video")
    feed = feed_of(manifest)
    with reading_apart(feed) as there:
        samples = first_samples(there)
    assert len(samples) == NUM_REMEMBERED
    reasons = [sample[feed.outputs.index("reason")] for sample in samples]
    assert not any(reason.any() for reason in reasons), "a stand-in has a reason"


def test_bad_videos_are_refused_counted_and_not_met_again(tmp_path):
    manifest = videos_named(tmp_path, "crashes_0.mp4", "hangs_1.mp4", *GOOD)
    feed = feed_of(manifest, TreacherousFeed, clip_timeout_seconds=0.3)
    with reading_apart(feed) as there:
        found = measure_reading(there, 6 * SECONDS)
        assert read_prepared(there, SECONDS, tmp_path) is not None
    assert sorted(feed.refused) == [0, 1]
    assert "SIGSEGV" in feed.refused[0] and "given up" in feed.refused[1]
    assert found.unreadable >= 2 and found.num_clips >= 3
    assert {video.path.name for video in first_videos(feed, 99)} == set(GOOD)


def test_if_nothing_can_be_read_the_last_file_is_named_with_its_reason(tmp_path):
    manifest = videos_named(tmp_path, "crashes_0.mp4", "crashes_1.mp4")
    with (
        reading_apart(feed_of(manifest, TreacherousFeed)) as there,
        pytest.raises(UserError, match=r"crashes_\d.mp4: the process .* killed by SIGSEGV"),
    ):
        measure_reading(there, SECONDS)


def test_of_a_video_all_is_read_of_a_film_of_many_clips_what_each_needs(tmp_path):
    noisy = {"grain_pixels": 1, "options": (("crf", "10"),)}
    path = write_video(tmp_path / "film.mp4", 1, num_frames=600, gop=12, **noisy)
    size = path.stat().st_size
    assert size > 8 * 32768, "libavformat reads blocks of 32 kB"
    video = manifest_of(tmp_path / "videos.csv", [path])
    moments = video.selected(np.zeros(5, np.int64))
    film = replace(moments, keyframes=np.array([50, 150, 250, 350, 450]))
    for manifest, least, most in ((video, size, size), (film, 1, size / 2)):
        with reading_apart(feed_of(manifest)) as there:
            found = measure_reading(there, SECONDS)
        assert least <= found.file_bytes <= most
        assert found.video_bytes_a_frame == pytest.approx(size / 600)
        assert found.steps["read"].seconds > 0
