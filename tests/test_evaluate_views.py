"""Views over several ranks: nothing lost, nothing twice, and the same as plain loops."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from thread_ranks import on_ranks
from training_runs import config_for

from mgm_dali.config import RunConfig
from mgm_dali.training.classes import Judged, judged_by
from mgm_dali.training.verdict import judge
from mgm_dali.training.verdict_tables import predictions_csv
from mgm_dali.training.views import MergedViews, merge_views, merged, open_views, summed_views
from mgm_dali.training.world import World
from mgm_dali.video.manifest import read_manifest

NUM_OUTPUTS, NUM_CLASSES = 6, 4


class Loader:
    """A rank's views of made videos: row by row, fillers behind the last, stand-ins where bad."""

    def __init__(self, share, num_videos, num_views, bad):
        self.manifest = range(num_videos)
        self.placement = SimpleNamespace(device=torch.device("cpu"))
        self.views = [(row, view) for row in range(num_videos) for view in range(num_views)]
        self.share, self.bad = share, bad
        self.reasons, self.replaced = {}, []

    def __iter__(self):
        rank, size, batch = self.share
        for start in range(rank * batch, len(self.views), size * batch):
            samples = [*self.views[start : start + batch]]
            rows = [row for row, _ in samples] + [-1] * (batch - len(samples))
            video = [self.video(*sample) for sample in samples]
            video += [torch.full((NUM_OUTPUTS,), 1e3)] * (batch - len(samples))
            self.replaced = [place for place, sample in enumerate(samples) if sample in self.bad]
            for place in self.replaced:
                row = samples[place][0]
                self.reasons[row] = f"row {row}, rank {rank}"
                video[place] = torch.full((NUM_OUTPUTS,), -1e3)
            yield SimpleNamespace(index=torch.tensor(rows), video=torch.stack(video))

    @staticmethod
    def video(row, view):
        """What the network will say of a view."""
        return torch.from_numpy(np.random.default_rng((row, view)).normal(0, 3, NUM_OUTPUTS))


JUDGED = Judged(
    manifest=None,
    outputs=np.array([4, 0, 1, 2, 5]),  # output 3 does not exist for the judgement
    classes=np.array([0, 1, 1, 2, 3]),  # outputs 0 and 1 mean the same
    num_classes=NUM_CLASSES,
    left_out="",
)


def softmax(values):
    shifted = np.exp(values - values.max())
    return shifted / shifted.sum()


def by_plain_loops(num_videos, num_views, bad, merge):
    """Mean over views of softmax, or softmax of the mean, of the outputs that are looked at."""
    found = np.full((num_videos, NUM_CLASSES), np.nan)
    for row in range(num_videos):
        views = [view for view in range(num_views) if (row, view) not in bad]
        says = [Loader.video(row, view).numpy()[JUDGED.outputs] for view in views]
        if not says:
            continue
        if merge == "logits":
            means = softmax(np.mean(says, axis=0))
        else:
            means = np.mean([softmax(values) for values in says], axis=0)
        found[row] = 0
        for share, number in zip(means, JUDGED.classes, strict=True):
            found[row, number] += share
    return found


@pytest.mark.parametrize("merge", ["probabilities", "logits"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(("num_videos", "num_views"), [(7, 6), (5, 1), (1, 2), (10, 15)])
def test_ranks_judge_each_video_by_all_its_views_once(ranks, num_videos, num_views, merge):
    bad = {(0, 0)} if num_views > 1 else set()
    bad |= {(num_videos // 2, view) for view in range(num_views)}
    config = RunConfig.model_validate({"evaluation": {"merge": merge}})

    def work(world):
        loader = Loader((world.rank, world.size, 4), num_videos, num_views, bad)
        return merge_views(config, torch.nn.Identity(), world, loader, JUDGED, lambda _: None)

    expected = by_plain_loops(num_videos, num_views, bad, merge)
    for views in on_ranks(ranks, work):
        np.testing.assert_allclose(views.probabilities, expected, atol=1e-12)
        numbers = [sum((row, v) not in bad for v in range(num_views)) for row in range(num_videos)]
        assert views.num_views.tolist() == numbers
        assert list(views.reasons) == [num_videos // 2]
        lowest = min((num_videos // 2 * num_views + view) // 4 % ranks for view in range(num_views))
        assert views.reasons[num_videos // 2] == f"row {num_videos // 2}, rank {lowest}"


def test_probabilities_of_judged_classes_add_up_to_one_and_nothing_read_is_nan():
    sums = torch.tensor([[1.2, 0.6, 0.1, 0.1, 0.0, 2.0], [0.0] * 6], dtype=torch.float64)
    found = merged(sums, "probabilities", JUDGED)
    assert found[0].tolist() == pytest.approx([0.6, 0.35, 0.05, 0.0])
    assert found[1].isnan().all()


def test_the_two_ways_to_merge_can_disagree():
    """One sure view against two that lean the other way."""
    logits = torch.tensor([[8.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    two = Judged(None, np.arange(2), np.arange(2), 2, "")
    ones = torch.ones(1, 1) * 3
    means = merged(torch.cat((logits.softmax(-1).sum(0, True), ones), 1), "probabilities", two)
    outputs = merged(torch.cat((logits.sum(0, True), ones), 1), "logits", two)
    assert means[0, 0] == pytest.approx(0.51, abs=0.01) and outputs[0, 0] > 0.85


def test_a_network_that_gives_no_number_is_said_and_counts_as_wrong():
    def work(world):
        loader = Loader((0, 1, 4), 3, 2, set())
        network = torch.nn.Identity()
        network.forward = lambda video: torch.full_like(video, torch.nan)
        return merge_views(RunConfig(), network, world, loader, JUDGED, lambda _: None)

    (views,) = on_ranks(1, work)
    assert set(views.reasons.values()) == {"the network's output for it is no number"}
    verdict = judge(views.probabilities, np.array([0, 1, 2]))
    assert verdict.top1 == 0 and verdict.num_unreadable == 3


class Colours(torch.nn.Module):
    """A classifier that can be told by hand: the mean of each channel, times numbers."""

    def forward(self, video):
        means = video.double().mean((2, 3, 4))
        return means @ torch.linspace(-2, 2, 24, dtype=torch.float64).view(3, 8)


@pytest.mark.parametrize("crops", [1, 3])
def test_three_shares_of_real_videos_equal_one(moving_shapes, tmp_path, crops):
    config = config_for(moving_shapes, tmp_path)
    model = config.model.model_copy(update={"num_classes": 8})
    evaluation = config.evaluation.model_copy(update={"num_crops": crops, "batch_size": 4})
    config = config.model_copy(update={"model": model, "evaluation": evaluation})
    rows = np.r_[0:10, 20:23]  # 13 videos, 26 or 78 views, shares of 4
    whole = judged_by(config)
    judged = Judged(whole.manifest.selected(rows), np.arange(8), np.arange(8), 8, "")

    def summed(rank, size):
        with open_views(config, judged, World(rank, size, torch.device("cpu"))) as loader:
            return summed_views(config, Colours(), loader, judged, lambda _: None)

    alone = summed(0, 1)
    assert alone[:, -1].tolist() == [2 * crops] * 13
    together = sum(summed(rank, 3) for rank in range(3))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_rows_of_a_manifest_are_selected_with_their_paths(moving_shapes):
    whole = read_manifest(moving_shapes)
    rows = np.array([5, 0, 23, 7])
    part = whole.selected(rows)
    assert [part[row] for row in range(4)] == [whole[row] for row in rows.tolist()]


def rows_of(table):
    return list(csv.DictReader(io.StringIO(table)))


def test_predictions_name_the_five_likeliest_and_why_there_are_none(moving_shapes):
    manifest = read_manifest(moving_shapes).selected(np.array([0, 20]))
    probabilities = np.array([[0.1, 0.4, 0.05, 0.2, 0.15, 0.06, 0.04, 0.0], [np.nan] * 8])
    views = MergedViews(probabilities, np.array([2, 0]), {1: "is empty"})
    names = manifest.class_names
    first, second = rows_of(predictions_csv(manifest, views, names))
    assert first["path"] == str(manifest[0].path) and first["label_name"] == names[0]
    assert (first["predicted"], first["predicted_name"]) == ("1", names[1])
    assert [first[f"name_{place}"] for place in (2, 3, 4, 5)] == [names[i] for i in (3, 4, 0, 5)]
    shares = [first["probability"], *(first[f"probability_{place}"] for place in (2, 3, 4, 5))]
    assert [float(share) for share in shares] == [0.4, 0.2, 0.15, 0.1, 0.06]
    assert (first["views"], first["reason"]) == ("2", "")
    assert (second["predicted"], second["probability"], second["name_2"]) == ("", "", "")
    assert (second["views"], second["reason"]) == ("0", "is empty")


def test_predictions_of_two_classes_leave_the_other_places_empty(moving_shapes):
    manifest = read_manifest(moving_shapes).selected(np.array([0]))
    views = MergedViews(np.array([[0.3, 0.7]]), np.array([1]), {})
    (line,) = rows_of(predictions_csv(manifest, views, ["left", "right"]))
    assert (line["predicted_name"], line["name_2"], line["name_3"]) == ("right", "left", "")
