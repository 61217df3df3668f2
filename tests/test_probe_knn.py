"""The nearest-neighbour probe, against plain loops."""

import math

import numpy as np
import pytest
import torch
from made_features import examples_of, fitting_for, table_of

from mgm_dali.config.probe import ProbeConfig
from mgm_dali.training import probe_knn
from mgm_dali.training.probe_knn import (
    KnnSetting,
    fit_knn,
    knn_settings,
    nearest,
    with_fewer_neighbours,
)

torch.set_num_threads(1)

CLASSES, WIDTH = 4, 6


def made(num_rows, seed, views=3):
    rng = np.random.default_rng(seed)
    is_read = rng.random((num_rows, views)) < 0.7
    is_read[:, 0] |= ~is_read.any(axis=1)
    features = rng.normal(size=(num_rows, views, WIDTH)).astype(np.float32)
    return features * is_read[:, :, None], is_read, rng.integers(0, CLASSES, num_rows)


def plain(known, labels, asked, count, temperature):
    """One judged video after another, one training video after another."""
    shares = []
    for features, is_read in asked:
        mean = features[is_read].astype(float).mean(0)
        cosines = []
        for row, (other, other_read) in enumerate(known):
            its = other[other_read].astype(float).mean(0)
            cosine = mean @ its / (math.dist(mean, 0 * mean) * math.dist(its, 0 * its))
            cosines.append((-cosine, row))
        votes = [0.0] * CLASSES
        for negative, row in sorted(cosines)[:count]:
            votes[labels[row]] += math.exp(-negative / temperature)
        shares.append([vote / sum(votes) for vote in votes])
    return shares


@pytest.mark.parametrize("count", [1, 5, 20, 500])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_those_of_plain_loops(count, temperature, monkeypatch):
    monkeypatch.setattr(probe_knn, "COSINES_AT_ONCE", 200)  # several parts
    monkeypatch.setattr(probe_knn, "ROWS_AT_ONCE", 17)
    features, is_read, labels = made(60, 0)
    asked, asked_read, _ = made(25, 1)
    train = examples_of(table_of(features, is_read), labels)
    classify = fit_knn([KnnSetting(count, temperature)], train, fitting_for(CLASSES))
    found = classify(table_of(asked, asked_read), np.arange(25))[0]
    pairs = [list(zip(f, r, strict=True)) for f, r in ((features, is_read), (asked, asked_read))]
    np.testing.assert_allclose(
        found, plain(pairs[0], labels, pairs[1], count, temperature), atol=1e-4
    )


def test_several_numbers_of_neighbours_are_each_as_alone():
    features, is_read, labels = made(60, 0)
    train = examples_of(table_of(features, is_read), labels)
    settings = knn_settings(ProbeConfig.model_validate({"knn": {"neighbours": [1, 7, 20]}}))
    rows = np.arange(60)
    together = fit_knn(settings, train, fitting_for(CLASSES))(train.table, rows)
    for place, setting in enumerate(settings):
        alone = fit_knn([setting], train, fitting_for(CLASSES))(train.table, rows)[0]
        assert torch.equal(together[place], alone)


@pytest.mark.parametrize(
    ("num_videos", "left"), [(1, [1]), (6, [6, 1]), (7, [7, 1]), (19, [19, 7, 1]), (20, [20, 7, 1])]
)
def test_no_more_neighbours_are_asked_than_there_are_videos(num_videos, left):
    config = ProbeConfig.model_validate({"knn": {"neighbours": [20, 7, 1]}})
    fewer = with_fewer_neighbours(config, num_videos)
    assert [setting.neighbours for setting in knn_settings(fewer)] == left
    assert fewer.linear == config.linear


def test_every_video_is_its_own_nearest_neighbour():
    features, is_read, labels = made(60, 0)
    train = examples_of(table_of(features, is_read), labels)
    votes = fit_knn([KnnSetting(1, 0.07)], train, fitting_for(CLASSES))(train.table, train.rows)[0]
    assert (votes.argmax(1).numpy() == labels).all() and (votes.max(1).values == 1).all()


def test_of_equally_near_videos_the_first_in_the_manifest_vote():
    cosines = torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2]])
    assert nearest(cosines, 3).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert nearest(cosines, 1).tolist() == [[1], [0]]


def test_of_classes_with_equal_votes_the_lower_wins():
    features = np.ones((4, 1, WIDTH))
    train = examples_of(table_of(features), np.array([3, 1, 1, 3]))
    votes = fit_knn([KnnSetting(4, 0.07)], train, fitting_for(CLASSES))(train.table, np.array([0]))
    assert votes[0, 0].tolist() == [0, 0.5, 0, 0.5] and int(votes.argmax()) == 1


def test_features_of_length_zero_are_no_reason_to_stop():
    train = examples_of(table_of(np.zeros((4, 1, WIDTH))), np.array([0, 1, 2, 3]))
    votes = fit_knn([KnnSetting(2, 0.07)], train, fitting_for(CLASSES))(train.table, np.array([3]))
    assert votes[0, 0].tolist() == [0.5, 0.5, 0, 0]
