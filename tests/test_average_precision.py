"""Average precision of boxes with actions: what the rule says, box by box, and how sure it is."""

from fractions import Fraction

import numpy as np
import pytest

from mgm_dali.training.average_precision import (
    MAX_PER_MOMENT,
    average_precisions,
    mean_precision_interval,
    most_certain_rows,
)
from mgm_dali.training.verdict import bootstrap_share
from mgm_dali.video.ava import LabelledBoxes

NUM_ACTIONS, NUM_MOMENTS = 4, 6
A, HALF_OF_A, OFF_A = (0, 0, 0.5, 0.5), (0, 0, 0.25, 0.5), (0.25, 0, 0.75, 0.5)
BELOW_HALF_OF_A = (0, 0, np.nextafter(0.25, 0), 0.5)
LARGER_THAN_A = (0, 0, 0.625, 0.5)  # overlaps A by 4/5
ELSEWHERE, LINE, TURNED = (0.75, 0.75, 1, 1), (0, 0, 0.5, 0), (0.5, 0.5, 0, 0)


def most_certain(found, limit=MAX_PER_MOMENT):
    return found.selected(most_certain_rows(found.moments, found.scores, limit))


def boxes(*rows):
    """Boxes of rows (moment, corners, action, score)."""
    moments, corners, actions, scores = zip(*rows, strict=True) if rows else ([],) * 4
    return LabelledBoxes(
        np.array(moments, np.int64),
        np.array(corners, np.float64).reshape(-1, 4),
        np.array(actions, np.int64),
        np.array(scores, np.float64),
    )


def rows_of(labelled):
    columns = (labelled.moments, labelled.corners, labelled.actions, labelled.scores)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def overlap_of(one, other):
    """Intersection over union, exactly."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = (map(Fraction, corners) for corners in (one, other))
    intersection = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
    areas = (x2 - x1) * (y2 - y1) + max(u2 - u1, 0) * max(v2 - v1, 0)
    return intersection / (areas - intersection)


def precisions_by_the_rule(truth, found, min_overlap=0.5):
    """The rule in plain loops: the mean over true boxes of the best precision from there on."""
    precisions = []
    for action in range(NUM_ACTIONS):
        true_boxes = [row for row in rows_of(truth) if row[2] == action]
        taken, hits = set(), []
        for moment, corners, its_action, _ in sorted(rows_of(found), key=lambda row: -row[3]):
            x1, y1, x2, y2 = corners
            if its_action != action or x1 >= x2 or y1 >= y2:
                continue
            overlaps = {
                place: overlap_of(corners, true_box[1])
                for place, true_box in enumerate(true_boxes)
                if true_box[0] == moment
            }
            best = max(overlaps, key=overlaps.get, default=None)
            hit = best is not None and overlaps[best] >= min_overlap and best not in taken
            if hit:
                taken.add(best)
            hits.append(hit)
        after = [sum(hits[: count + 1]) / (count + 1) for count in range(len(hits))]
        areas = [max(after[place:]) for place, hit in enumerate(hits) if hit]
        precisions.append(sum(areas) / len(true_boxes) if true_boxes else np.nan)
    return np.array(precisions)


def made_boxes(rng, count, *, coarse):
    """Random ones; coarse corners overlap by simple shares, coincide, and may enclose nothing."""
    corners = rng.integers(5, size=(count, 4)) / 4 if coarse else rng.random((count, 4))
    if not coarse or rng.random() < 0.8:
        corners = np.sort(corners.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    moments = rng.integers(rng.integers(1, NUM_MOMENTS + 1), size=count)
    actions = rng.integers(rng.integers(1, NUM_ACTIONS + 1), size=count)
    return LabelledBoxes(moments, corners, actions, rng.permutation(count) / max(count, 1))


def made_sets(count, *, coarse=True):
    """True boxes, and detections of which every other is aimed at one of them."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        truth = made_boxes(rng, rng.choice([0, 5, 15, 30]), coarse=coarse)
        found = made_boxes(rng, rng.choice([0, 1, 20, 60]), coarse=coarse)
        aimed = np.arange(0, len(found) if len(truth) else 0, 2)
        targets = truth.selected(rng.integers(len(truth) or 1, size=len(aimed)))
        found.moments[aimed], found.actions[aimed] = targets.moments, targets.actions
        shifts = rng.choice([0, 0, 0, 0.25], size=targets.corners.shape)
        found.corners[aimed] = targets.corners + shifts * (1 if coarse else rng.random())
        yield rng, truth, found


def same(precisions, expected):
    np.testing.assert_allclose(precisions, expected, rtol=0, atol=1e-12)


def test_made_sets_of_every_kind_get_what_the_rule_gives():
    partly_right = 0
    for rng, truth, found in made_sets(300):
        min_overlap = rng.choice([0.25, 0.5, 0.75])
        if rng.random() < 0.3:
            found.scores[:] = rng.integers(3, size=len(found)) / 2  # many equal ones
        precisions = average_precisions(truth, found, NUM_ACTIONS, min_overlap)
        same(precisions, precisions_by_the_rule(truth, found, min_overlap))
        partly_right += ((precisions > 0) & (precisions < 1)).sum()
    assert partly_right > 100, "where nothing is right, little is shown"


CASES = {
    # true boxes, detections by falling score (both of moment 0 and action 0), average precision
    "found": ([A], [A], 1),
    "not found": ([A], [], 0),
    "one of two found": ([A, ELSEWHERE], [A], 1 / 2),
    "first wrong, then right": ([A], [ELSEWHERE, A], 1 / 2),
    "first right, then wrong": ([A], [A, ELSEWHERE], 1),
    "found twice: the second is wrong": ([A, ELSEWHERE], [A, A, ELSEWHERE], (1 + 2 / 3) / 2),
    "a later precision, 2/3, lifts an earlier, 1/2": ([A, ELSEWHERE], [OFF_A, A, ELSEWHERE], 2 / 3),
    "exactly half is enough": ([A], [HALF_OF_A], 1),
    "less than half is not": ([A], [BELOW_HALF_OF_A], 0),
    "the best true box is taken, the second best is not asked": ([A, LARGER_THAN_A], [A, A], 1 / 2),
    "the first of true boxes that are equal is meant": ([A, A], [A, A], 1 / 2),
    "a detection without area counts nowhere": ([A], [LINE, TURNED, A], 1),
    "a true box without area is never found": ([A, LINE, TURNED], [A, LINE, TURNED], 1 / 3),
}


@pytest.mark.parametrize("case", CASES)
def test_cases_that_were_worked_out_by_hand(case):
    true_corners, corners, expected = CASES[case]
    truth = boxes(*((0, box, 0, 1.0) for box in true_corners))
    found = boxes(*((0, box, 0, 0.9 - place / 10) for place, box in enumerate(corners)))
    same(average_precisions(truth, found, 1), [expected])


def test_detections_are_held_against_their_own_moment_and_action_alone():
    truth = boxes((0, A, 0, 1), (1, A, 1, 1))
    found = boxes((0, A, 1, 0.9), (1, A, 0, 0.8), (0, A, 0, 0.7), (1, A, 1, 0.6), (5, A, 1, 1))
    same(average_precisions(truth, found, 3), [1 / 2, 1 / 3, np.nan])


def test_of_equal_scores_the_earlier_row_comes_first():
    truth, right, wrong = boxes((1, A, 0, 1)), (1, A, 0, 0.5), (0, A, 0, 0.5)
    same(average_precisions(truth, boxes(right, wrong), 1), [1])
    same(average_precisions(truth, boxes(wrong, right), 1), [1 / 2])


def test_the_order_of_rows_does_not_matter_where_scores_differ():
    for rng, truth, found in made_sets(50, coarse=False):
        shuffled = (boxes.selected(rng.permutation(len(boxes))) for boxes in (truth, found))
        same(
            average_precisions(truth, found, NUM_ACTIONS, 0.25),
            average_precisions(*shuffled, NUM_ACTIONS, 0.25),
        )


def test_the_most_certain_of_each_moment_stay_in_their_order():
    for rng, _, found in made_sets(100):
        limit = int(rng.integers(8))
        found.scores[:] = rng.integers(4, size=len(found))
        rows = rows_of(found)
        places = range(len(rows))
        kept = {
            place
            for moment in range(NUM_MOMENTS)
            for place in sorted(
                (place for place in places if rows[place][0] == moment),
                key=lambda place: (-rows[place][3], place),
            )[:limit]
        }
        expected = [rows[place] for place in places if place in kept]
        assert rows_of(most_certain(found, limit)) == expected


def test_fifty_boxes_of_a_moment_are_judged_all_actions_together():
    rows = [(moment, A, place % 3, place) for place in range(70) for moment in (0, 1)]
    kept = most_certain(boxes(*rows, (2, A, 0, -1)))
    assert rows_of(kept) == rows_of(boxes(*rows[40:], (2, A, 0, -1)))
    assert MAX_PER_MOMENT == 50


def copied(labelled, weights):
    """Each moment as often as its weight says, under numbers of their own."""
    return boxes(
        *(
            (moment + NUM_MOMENTS * copy, *rest)
            for moment, *rest in rows_of(labelled)
            for copy in range(weights[moment])
        )
    )


def test_a_moment_of_weight_three_counts_as_three_moments():
    for rng, truth, found in made_sets(100):
        weights = rng.integers(4, size=NUM_MOMENTS)
        same(
            average_precisions(truth, found, NUM_ACTIONS, weights=weights),
            precisions_by_the_rule(copied(truth, weights), copied(found, weights)),
        )
        same(
            average_precisions(truth, found, NUM_ACTIONS, weights=np.ones(NUM_MOMENTS, np.int64)),
            average_precisions(truth, found, NUM_ACTIONS),
        )


def test_the_interval_of_two_videos_reaches_from_one_alone_to_the_other():
    widths = []
    groups = np.array([7, 3, 3, 7, 3, 7])
    for _, truth, found in made_sets(60):
        draws = [2 * (groups == 7), 2 * (groups == 3), np.ones(NUM_MOMENTS, int)]
        means = [
            precisions[~np.isnan(precisions)].mean()
            for precisions in (
                precisions_by_the_rule(copied(truth, draw), copied(found, draw)) for draw in draws
            )
            if not np.isnan(precisions).all()
        ]
        interval = mean_precision_interval(truth, found, groups, NUM_ACTIONS, seed=0)
        same(interval, (min(means), max(means)) if means else (np.nan, np.nan))
        widths.append(interval[1] - interval[0])
    assert np.nanmax(widths) > 0.05


def test_an_action_that_is_not_drawn_is_left_out_of_that_mean():
    truth, found = boxes((0, A, 0, 1), (1, A, 1, 1)), boxes((0, A, 0, 0.5), (0, A, 1, 0.5))
    assert mean_precision_interval(truth, found, np.array([0, 1]), 3, seed=0) == (0, 1)


def test_where_every_detection_is_right_the_interval_is_that_of_a_share():
    videos = np.arange(200)
    truth = boxes(*((video, A, 0, 1) for video in videos))
    interval = mean_precision_interval(truth, truth.selected(videos < 150), videos, 1, seed=0)
    expected = bootstrap_share(150, 200, np.random.default_rng(0))
    np.testing.assert_allclose(interval, expected, atol=0.015)


def test_the_interval_is_about_videos_and_its_seed_alone():
    _, truth, found = max(made_sets(20, coarse=False), key=lambda made: len(made[1]) * len(made[2]))
    mean = np.nanmean(average_precisions(truth, found, NUM_ACTIONS))
    one_video, many = np.zeros(NUM_MOMENTS, np.int64), np.arange(NUM_MOMENTS)
    same(mean_precision_interval(truth, found, one_video, NUM_ACTIONS, 1), (mean, mean))
    first, again, other = (
        mean_precision_interval(truth, found, many, NUM_ACTIONS, seed) for seed in (1, 1, 2)
    )
    assert first == again != other
