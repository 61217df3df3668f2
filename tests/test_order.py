"""The row of samples: every clip once an epoch, however many ranks read it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mgm_dali.clips.draw import training_decoding
from mgm_dali.clips.order import (
    epoch_permutation,
    first_sample,
    row_at,
    shuffled_video,
    view_of_video,
)
from mgm_dali.config import AugmentConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.share import Share
from mgm_dali.video.manifest import Video, read_manifest, write_manifest


def samples_of_rank(rank, world_size, batch_size, forwards):
    starts = (first_sample(f, batch_size, rank, world_size) for f in range(forwards))
    return [start + place for start in starts for place in range(batch_size)]


def test_the_picture_in_the_docstring_is_true():
    assert samples_of_rank(0, world_size=2, batch_size=2, forwards=3) == [0, 1, 4, 5, 8, 9]
    assert samples_of_rank(1, world_size=2, batch_size=2, forwards=3) == [2, 3, 6, 7, 10, 11]


@pytest.mark.parametrize("world_size", range(1, 17))
@pytest.mark.parametrize("num_videos", [1, 7, 24])
def test_ranks_together_see_each_clip_exactly_once_an_epoch(world_size, num_videos):
    epochs = 4
    for batch_size in (1, 3, 8):
        forwards = -(-epochs * num_videos // (batch_size * world_size))
        seen = Counter()
        for rank in range(world_size):
            for sample in samples_of_rank(rank, world_size, batch_size, forwards):
                seen[shuffled_video(sample, num_videos, seed=5)] += 1
        for epoch in range(epochs):
            assert all(seen[epoch, index] == 1 for index in range(num_videos))
        assert set(seen.values()) == {1}


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_a_global_batch_holds_the_same_clips_for_any_world_size(world_size):
    global_batch = 12
    share = global_batch // world_size
    for step in range(5):
        clips = set()
        for rank in range(world_size):
            start = first_sample(step, share, rank, world_size)
            clips.update(range(start, start + share))
        assert clips == set(range(step * global_batch, (step + 1) * global_batch))


def facts_of(manifest, repeats, share, forwards):
    """(row, view, seed) of every clip that a rank's feed gives, forward pass by forward pass."""
    config = RunConfig(
        data=DataConfig(train=manifest.path),
        model=ModelConfig(num_frames=2, image_size=32),
        augment=AugmentConfig(repeats=repeats),
        training=TrainingConfig(batch_size=share.batch_size),
        seed=3,
    )
    feed = ClipFeed(manifest, config, "pretrain", share)
    count = feed.decodings_per_batch
    for forward in range(forwards):
        facts = []
        for place in range(forward * count, (forward + 1) * count):
            number = feed.number_of(place)
            epoch, row = shuffled_video(number, len(manifest), config.seed)
            cuts = training_decoding(config, manifest[row], row, row, epoch).cuts
            facts += [(row, cut.view, cut.seed) for cut in cuts]
        yield facts


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Eleven videos that nobody reads."""
    path = tmp_path_factory.mktemp("order") / "videos.csv"
    rows = [Video(Path(f"{row}.mp4"), None, 40, 25.0, 64, 48, "h264", 1.6) for row in range(11)]
    write_manifest(path, rows, ())
    return read_manifest(path)


WORLD_SIZES = (1, 2, 3, 4, 7, 12, 16)
SPLITS = [(size, world) for world in range(1, 17) for size in range(1, 49) if size * world == 48]


@pytest.mark.parametrize("repeats", [1, 2, 3, 4])
def test_the_same_global_batch_is_the_same_clips_however_it_is_split(manifest, repeats):
    forwards, compared = 2, 0
    alone = list(facts_of(manifest, repeats, Share(48), forwards))
    for batch_size, world_size in SPLITS:
        if batch_size % repeats:
            continue
        ranks = [
            list(facts_of(manifest, repeats, Share(batch_size, rank, world_size), forwards))
            for rank in range(world_size)
        ]
        for forward in range(forwards):
            together = [clip for rank in ranks for clip in rank[forward]]
            assert together == alone[forward]
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("repeats", [1, 2, 3, 4])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_every_clip_of_every_repeat_comes_once_an_epoch(manifest, repeats, world_size):
    for decodings in (1, 3):
        share = decodings * repeats
        forwards = -(-2 * len(manifest) // (decodings * world_size))
        seen = Counter()
        for rank in range(world_size):
            for facts in facts_of(manifest, repeats, Share(share, rank, world_size), forwards):
                seen.update((row, view) for row, view, _ in facts)
        clips = forwards * share * world_size
        epochs, more = divmod(clips, len(manifest) * repeats)
        assert epochs >= 2
        for row in range(len(manifest)):
            for view in range(repeats):
                assert epochs <= seen[row, view] <= epochs + (more > 0)


def test_epochs_differ_and_the_same_seed_repeats_them():
    first, second = epoch_permutation(1, 0, 100), epoch_permutation(1, 1, 100)
    assert not np.array_equal(first, second)
    epoch_permutation.cache_clear()
    assert np.array_equal(first, epoch_permutation(1, 0, 100))
    assert not np.array_equal(first, epoch_permutation(2, 0, 100))


@pytest.mark.parametrize("num_videos", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_an_order_without_a_table_has_every_row_once(num_videos):
    rows = [row_at(place, num_videos, seed=3, epoch=1) for place in range(num_videos)]
    assert sorted(rows) == list(range(num_videos))


def test_an_order_without_a_table_is_another_for_every_seed_and_epoch_and_looks_drawn():
    num_videos = 4097
    orders = np.array(
        [
            [row_at(place, num_videos, seed, epoch) for place in range(num_videos)]
            for seed, epoch in ((0, 0), (0, 1), (1, 0))
        ]
    )
    alike = np.corrcoef([*orders, np.arange(num_videos), np.roll(orders[0], 1)])
    # Of drawn orders these are 0 +- 0.016.
    assert np.abs(alike - np.eye(len(alike))).max() < 0.08


def test_ten_million_videos_take_no_table(monkeypatch):
    monkeypatch.setattr("mgm_dali.clips.order.epoch_permutation", None)
    found = [shuffled_video(sample, 10_000_000, seed=5) for sample in range(9_999_000, 10_001_000)]
    assert len(set(found)) == 2000
    assert [epoch for epoch, _ in found] == [0] * 1000 + [1] * 1000
    assert all(0 <= row < 10_000_000 for _, row in found)


def test_the_views_of_a_video_follow_one_another():
    assert [view_of_video(sample, 3) for sample in range(7)] == [
        *((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)),
    ]
