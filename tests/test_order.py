"""The row of samples: every clip once an epoch, however many ranks read it."""

from collections import Counter

import numpy as np
import pytest

from mgm_dali.clips.order import (
    epoch_permutation,
    first_sample,
    shuffled_video,
    view_of_video,
)


def samples_of_rank(rank, world_size, batch_size, forwards):
    starts = (first_sample(f, batch_size, rank, world_size) for f in range(forwards))
    return [start + place for start in starts for place in range(batch_size)]


def test_the_picture_in_the_docstring_is_true():
    assert samples_of_rank(0, world_size=2, batch_size=2, forwards=3) == [0, 1, 4, 5, 8, 9]
    assert samples_of_rank(1, world_size=2, batch_size=2, forwards=3) == [2, 3, 6, 7, 10, 11]


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("num_videos", [1, 7, 24])
def test_ranks_together_see_each_clip_exactly_once_an_epoch(world_size, num_videos):
    batch_size, epochs = 3, 4
    forwards = -(-epochs * num_videos // (batch_size * world_size))
    seen = Counter()
    for rank in range(world_size):
        for sample in samples_of_rank(rank, world_size, batch_size, forwards):
            seen[shuffled_video(sample, num_videos, seed=5)] += 1
    for epoch in range(epochs):
        assert all(seen[epoch, index] == 1 for index in range(num_videos))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_a_global_batch_holds_the_same_clips_for_any_world_size(world_size):
    global_batch = 12
    share = global_batch // world_size
    for step in range(5):
        clips = set()
        for rank in range(world_size):
            start = first_sample(step, share, rank, world_size)
            clips.update(range(start, start + share))
        assert clips == set(range(step * global_batch, (step + 1) * global_batch))


def test_epochs_differ_and_the_same_seed_repeats_them():
    first, second = epoch_permutation(1, 0, 100), epoch_permutation(1, 1, 100)
    assert not np.array_equal(first, second)
    epoch_permutation.cache_clear()
    assert np.array_equal(first, epoch_permutation(1, 0, 100))
    assert not np.array_equal(first, epoch_permutation(2, 0, 100))


def test_the_views_of_a_video_follow_one_another():
    assert [view_of_video(sample, 3) for sample in range(7)] == [
        *((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)),
    ]
