"""Verdicts, against numbers worked out by hand and plain loops."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from mgm_dali.errors import UserError
from mgm_dali.training.verdict import (
    bootstrap_class_mean,
    bootstrap_share,
    judge,
    verdict_in_words,
    wilson_interval,
)
from mgm_dali.training.verdict_tables import class_lines, per_class_csv

NAN = np.nan


def labels(*numbers):
    return np.array(numbers, np.int64)


def test_an_unreadable_video_counts_as_wrong():
    means = np.array([[0.6, 0.4], [0.3, 0.7], [NAN, NAN], [0.9, 0.1]])
    verdict = judge(means, labels(0, 1, 0, 1))
    assert (verdict.top1, verdict.top5, verdict.num_videos) == (0.5, 0.75, 4)
    assert verdict.num_unreadable == 1 and verdict.class_videos == [2, 2]
    assert verdict.class_top1 == [0.5, 0.5] and verdict.class_mean == 0.5
    assert verdict.confusion == [[1, 0], [1, 1]] and verdict.chance == 0.5


def test_a_test_of_which_nothing_can_be_read_is_all_wrong():
    verdict = judge(np.full((3, 4), NAN), labels(0, 1, 3))
    assert (verdict.top1, verdict.top5, verdict.class_mean) == (0.0, 0.0, 0.0)
    assert verdict.num_unreadable == 3 and verdict.class_top1 == [0.0, 0.0, None, 0.0]


def test_top_five_takes_five_and_with_fewer_classes_all():
    ranked = np.array([[6.0, 5, 4, 3, 2, 1, 0]] * 7) / 21
    verdict = judge(ranked, np.arange(7))
    assert verdict.top1 == pytest.approx(1 / 7) and verdict.top5 == pytest.approx(5 / 7)
    few = judge(ranked[:3, :3], labels(2, 1, 0))
    assert few.top5 == 1.0


def test_a_single_class_and_a_single_video_are_judged():
    verdict = judge(np.ones((1, 1)), labels(0))
    assert verdict.top1 == verdict.top5 == verdict.class_mean == verdict.chance == 1.0


def test_of_equal_probabilities_the_lower_class_wins():
    assert judge(np.ones((2, 3)), labels(0, 1)).confusion == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_classes_without_names_are_called_by_their_numbers():
    assert judge(np.eye(3), labels(0, 1, 2)).class_names == ["0", "1", "2"]


def test_a_class_without_videos_has_no_accuracy_and_is_not_in_the_mean():
    verdict = judge(np.eye(4)[[0, 0, 1, 3]], labels(0, 0, 3, 3))
    assert verdict.class_top1 == [1.0, None, None, 0.5] and verdict.class_mean == 0.75
    assert verdict.class_videos == [2, 0, 0, 2]
    assert "null" in json.dumps(asdict(verdict), allow_nan=False)


@pytest.mark.parametrize(("label", "found"), [(3, "label 3"), (-1, "label -1")])
def test_a_label_that_is_no_class_is_refused_by_its_row(label, found):
    with pytest.raises(UserError, match=rf"video 1 .* {found}, but there are 3 classes"):
        judge(np.eye(3), labels(0, label, 2))


def test_a_test_without_videos_is_refused():
    with pytest.raises(UserError, match="no video"):
        judge(np.empty((0, 3)), labels())


def test_a_verdict_equals_plain_loops():
    rng = np.random.default_rng(0)
    scores, truth = rng.random((200, 9)), rng.integers(0, 9, 200)
    scores[rng.choice(200, 7, replace=False)] = NAN
    verdict = judge(scores, truth)
    top1 = top5 = 0
    right_of = {number: [] for number in range(9)}
    for row, label in zip(scores, truth.tolist(), strict=True):
        order = sorted(range(9), key=lambda number: -row[number])
        readable = not np.isnan(row).any()
        right_of[label].append(readable and order[0] == label)
        top1 += right_of[label][-1]
        top5 += readable and label in order[:5]
    assert (verdict.top1, verdict.top5) == (top1 / 200, top5 / 200)
    shares = [np.mean(right) for right in right_of.values()]
    assert verdict.class_top1 == pytest.approx(shares)
    assert verdict.class_mean == pytest.approx(np.mean(shares))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (10, 10, 0.722, 1.0), (81, 263, 0.255, 0.366)],
)
def test_the_interval_is_wilsons(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-3)


def resampled(right, truth, times=4000):
    """The bootstrap as it is told: draw videos, look at each; shares and means over classes."""
    rng = np.random.default_rng(1)
    shares, means = [], []
    for _ in range(times):
        drawn = rng.integers(0, len(right), len(right))
        shares.append(right[drawn].mean())
        of_class = [right[drawn][truth[drawn] == label].mean() for label in np.unique(truth[drawn])]
        means.append(np.mean(of_class))
    return np.percentile(shares, (2.5, 97.5)), np.percentile(means, (2.5, 97.5))


def test_the_bootstrap_draws_videos_with_replacement():
    rng = np.random.default_rng(0)
    truth = rng.choice(4, 120, p=[0.6, 0.2, 0.15, 0.05])
    right = rng.random(120) < np.array([0.9, 0.5, 0.3, 0.6])[truth]
    share, mean = resampled(right, truth)
    found = bootstrap_share(int(right.sum()), 120, np.random.default_rng(2))
    assert found == pytest.approx(share, abs=0.01)
    videos, hits = np.bincount(truth), np.bincount(truth[right])
    found = bootstrap_class_mean(hits, videos, np.random.default_rng(2))
    assert found == pytest.approx(mean, abs=0.012)


def test_the_two_intervals_agree_in_between_and_part_where_all_are_right():
    rng = np.random.default_rng(0)
    for right in (300, 500, 700):
        bootstrap = bootstrap_share(right, 1000, rng)
        assert bootstrap == pytest.approx(wilson_interval(right, 1000), abs=0.003)
    assert bootstrap_share(20, 20, rng) == (1.0, 1.0)
    assert wilson_interval(20, 20)[0] == pytest.approx(0.839, abs=1e-3)


def test_intervals_follow_from_the_seed_alone():
    rng = np.random.default_rng(0)
    scores, truth = rng.random((50, 3)), rng.integers(0, 3, 50)
    assert judge(scores, truth, seed=1) == judge(scores, truth, seed=1)
    assert judge(scores, truth, seed=1) != judge(scores, truth, seed=2)


def test_each_class_has_a_row_that_says_what_it_is_taken_for():
    predicted = [0, 1, 1, 2, 2, 2]
    means = np.vstack([np.eye(4)[predicted], np.full((1, 4), NAN)])
    verdict = judge(means, labels(0, 0, 0, 1, 2, 2, 2), ["run", "a,b", "walk", "none"])
    assert per_class_csv(verdict).splitlines() == [
        "class,videos,correct,top1,taken_for,taken_for_videos",
        'run,3,1,0.333333,"a,b",2',
        '"a,b",1,0,0.000000,walk,1',
        "walk,3,2,0.666667,,",
        "none,0,0,,,",
    ]
    assert class_lines(verdict) == [
        "class  videos   top-1  mostly taken for",
        "run         3   33.3%  a,b (2)",
        "a,b         1    0.0%  walk (1)",
        "walk        3   66.7%  -",
        "none        0       -  -",
    ]
    assert "1 of them unreadable" in verdict_in_words(verdict)


@pytest.mark.parametrize(("num_classes", "is_said"), [(2, False), (5, False), (6, True)])
def test_top_five_is_said_where_there_are_more_than_five_classes(num_classes, is_said):
    words = verdict_in_words(judge(np.eye(num_classes), np.arange(num_classes)))
    assert ("top-5" in words) == is_said


def test_many_classes_are_not_printed():
    assert class_lines(judge(np.eye(21), np.arange(21))) == []
