"""How the settings of a probe are chosen: on training videos that none of them has seen."""

import numpy as np
import pytest
import torch
from made_features import examples_of, fitting_for, table_of

from mgm_dali.errors import UserError
from mgm_dali.training.probe_choice import Probe, choose, classified, held_out


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_each_class_gives_its_share_of_held_out_videos_and_keeps_some(share):
    labels = np.repeat(np.arange(5), [1, 2, 3, 20, 100])
    kept_back = held_out(labels, share, 0)
    assert (kept_back == held_out(labels, share, 0)).all()
    assert (kept_back != held_out(labels, share, 1)).any()
    counts = np.bincount(labels[kept_back], minlength=5)
    assert counts[0] == 0 and counts[1] == 1 and 1 <= counts[2] <= 2
    assert counts[3] == min(round(20 * share), 19) and counts[4] == round(100 * share)


def test_nothing_to_hold_out_is_said():
    with pytest.raises(UserError, match="none of the 3 classes has two videos"):
        held_out(np.arange(3), 0.5, 0)


def by_hand(held_out_top1):
    """A grid whose accuracies on videos of one class are given; None diverges."""

    def fit(settings, train, fitting):
        del train, fitting

        def classify(table, rows):
            del table
            found = torch.zeros(len(settings), len(rows), 2, dtype=torch.float64)
            for place, setting in enumerate(settings):
                if setting is None:
                    found[place] = torch.nan
                else:
                    right = torch.arange(len(rows)) < round(setting * len(rows))
                    found[place, right, 0] = 1.0
                    found[place, ~right, 1] = 1.0
            return found

        return classify

    return Probe(lambda _: held_out_top1, fit)


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ([0.1, 0.9, 0.3], 1),
        ([0.3, 0.9, 0.9], 1),
        ([None, 0.0, 0.0], 1),
        ([None, None, 0.2], 2),
    ],
)
def test_the_first_of_the_most_accurate_is_chosen_and_never_one_that_diverged(accuracies, best):
    train = examples_of(table_of(np.zeros((20, 1, 3))), np.zeros(20, np.int64))
    fitting = fitting_for(2, held_out_share=0.5)
    choice = choose(by_hand(accuracies), train, fitting)
    assert (choice.best, choice.num_held_out) == (best, 10)
    assert choice.held_out_top1 == [accuracy or 0.0 for accuracy in accuracies]


def test_a_grid_that_diverges_as_a_whole_is_refused():
    train = examples_of(table_of(np.zeros((20, 1, 3))), np.zeros(20, np.int64))
    with pytest.raises(UserError, match="none of the 2 settings, such as None, gives numbers"):
        choose(by_hand([None, None]), train, fitting_for(2))


def test_a_chosen_setting_that_diverges_on_all_videos_is_refused():
    train = examples_of(table_of(np.zeros((20, 1, 3))), np.zeros(20, np.int64))
    classify = by_hand([None]).fit([None], train, fitting_for(2))
    with pytest.raises(UserError, match="no numbers when it is trained on all"):
        classified(classify, train.table, 2, lambda: None)


def test_settings_are_compared_on_videos_that_none_of_them_has_seen():
    seen = {}

    def fit(settings, train, fitting):
        del fitting
        seen["trained"] = set(train.rows)

        def classify(table, rows):
            del table
            seen.setdefault("judged", set()).update(rows)
            return torch.ones(len(settings), len(rows), 2, dtype=torch.float64)

        return classify

    train = examples_of(table_of(np.zeros((3000, 1, 3))), np.arange(3000) % 2)
    choose(Probe(lambda _: [1, 2], fit), train, fitting_for(2, held_out_share=0.4))
    assert not seen["trained"] & seen["judged"]
    assert seen["trained"] | seen["judged"] == set(range(3000)) and len(seen["judged"]) == 1200
