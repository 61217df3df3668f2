"""Verdicts, against numbers worked out by hand."""

import numpy as np
import pytest

from mgm_dali.config import RunConfig
from mgm_dali.training.evaluate import _means, judge, wilson_interval


class Labels:
    """As much of a manifest as a verdict looks at."""

    def __init__(self, labels, names=()):
        self.labels, self.class_names = np.array(labels), names

    def __len__(self):
        return len(self.labels)


def test_a_video_is_judged_by_the_mean_of_its_readable_views():
    sums = np.array([[1.2, 0.8, 2.0], [0.3, 0.7, 1.0], [0.0, 0.0, 0.0]])
    means = _means(sums)
    np.testing.assert_allclose(means[:2], [[0.6, 0.4], [0.3, 0.7]])
    assert np.isnan(means[2]).all()


def test_an_unreadable_video_counts_as_wrong():
    means = np.array([[0.6, 0.4], [0.3, 0.7], [np.nan, np.nan], [0.9, 0.1]])
    verdict = judge(means, Labels([0, 1, 0, 1]), RunConfig(), "weights")
    assert (verdict.top1, verdict.num_videos, verdict.num_unreadable) == (0.5, 4, 1)
    assert verdict.confusion == [[1, 0], [1, 1]]
    assert verdict.chance == 0.5 and verdict.views_per_video == 15


def test_top_five_takes_five_and_with_fewer_classes_all():
    ranked = np.array([[6.0, 5, 4, 3, 2, 1, 0]] * 7) / 21
    verdict = judge(ranked, Labels(range(7)), RunConfig(), "weights")
    assert verdict.top1 == pytest.approx(1 / 7) and verdict.top5 == pytest.approx(5 / 7)
    few = judge(ranked[:3, :3], Labels([2, 1, 0]), RunConfig(), "weights")
    assert few.top5 == 1.0


def test_classes_without_names_are_called_by_their_numbers():
    verdict = judge(np.eye(3), Labels([0, 1, 2]), RunConfig(), "weights")
    assert verdict.class_names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (10, 10, 0.722, 1.0), (81, 263, 0.255, 0.366)],
)
def test_the_interval_is_wilsons(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-3)
