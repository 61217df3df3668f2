"""Detecting actions, from AVA's files to mAP: trained, judged, resumed, and on faulty input."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_people import ACTIONS, detection_config, with_file, write_people
from safetensors.torch import load_file
from thread_ranks import on_ranks
from training_runs import losses_of, stopped_before
from typer.testing import CliRunner

from mgm_dali.cli import app
from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models import Detector, build_classifier
from mgm_dali.models.saving import save_weights
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.training.average_precision import average_precisions
from mgm_dali.training.detection_judging import found_actions, judge_detector, score_people
from mgm_dali.training.evaluate import evaluate
from mgm_dali.training.finetune import finetune
from mgm_dali.training.judged_people import people_to_judge
from mgm_dali.training.judging import Watcher
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.world import World
from mgm_dali.video.ava import Moments, read_actions, read_people

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What is trained on, and what is judged."""
    folder = tmp_path_factory.mktemp("people")
    return write_people(folder / "train", 8, 0), write_people(folder / "val", 4, 1)


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    """The folder of a run of thirty steps."""
    train, val = parts
    run = tmp_path_factory.mktemp("run") / "run"
    steps = {"max_steps": 30, "batch_size": 6, "checkpoint_every_steps": 15, "zero_stage": 0}
    finetune(detection_config(train, val, run, evaluate_every_steps=15, **steps))
    return run


def test_it_learns_what_each_box_shows(trained):
    found = json.loads((trained / "evaluation.json").read_text())
    assert found["action_names"] == list(ACTIONS)
    assert found["action_boxes"] == [12, 12, 12]
    assert (found["num_people"], found["num_moments"]) == (24, 12)
    # An answer for the whole clip has one box of two wrong: 50%, chance.
    assert found["mean_average_precision"] > 0.9
    assert found["low"] <= found["mean_average_precision"] <= found["high"]


def test_a_run_that_judges_itself_keeps_the_best(trained):
    judged = {
        m["step"]: m["val/mAP"] for m in read_metrics(trained / "metrics.jsonl") if "val/mAP" in m
    }
    assert list(judged) == [15, 30]
    best = json.loads((trained / "best.json").read_text())
    assert best["value"] == max(judged.values()) and best["measure"] == "val/mAP"


def test_the_detections_written_are_those_of_the_score(trained, parts):
    val = parts[1]
    actions, moments = read_actions(val.actions), Moments()
    truth = read_people(val.people, actions, moments).actions()
    with (trained / "detections.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 24 * 3
    place_of = {action.number: place for place, action in enumerate(actions)}
    found = replace(
        truth,
        moments=np.array([moments.numbers[row[0], float(row[1])] for row in rows]),
        corners=np.array([[float(value) for value in row[2:6]] for row in rows]),
        actions=np.array([place_of[int(row[6])] for row in rows]),
        scores=np.array([float(row[7]) for row in rows]),
    )
    report = json.loads((trained / "evaluation.json").read_text())
    precisions = average_precisions(truth, found, 3)
    assert precisions.tolist() == pytest.approx(report["average_precisions"])
    with (trained / "per_action.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["action"] for row in table] == ["1", "4", "7"]
    assert [float(row["average_precision"]) for row in table] == pytest.approx(
        precisions.tolist(), abs=1e-6
    )


def test_from_the_command_line_a_trained_run_is_judged_again_and_drawn(trained):
    before = json.loads((trained / "evaluation.json").read_text())
    result = CliRunner().invoke(app, ["evaluate", str(trained / "config.yaml")])
    assert result.exit_code == 0, result.output
    assert json.loads((trained / "evaluation.json").read_text()) == before
    assert (trained / "per_action.png").stat().st_size > 5000
    assert not (trained / "confusion.png").exists()
    assert f"mAP {before['mean_average_precision']:.1%}" in (trained / "train.log").read_text()


def test_a_resumed_run_is_the_run_that_was_not_interrupted(parts, tmp_path, monkeypatch):
    train, val = parts
    steps = {"max_steps": 4, "batch_size": 4, "checkpoint_every_steps": 2, "zero_stage": 0}
    whole = detection_config(train, val, tmp_path / "whole", **steps)
    cut = detection_config(train, val, tmp_path / "cut", **steps)
    finetune(whole)
    with monkeypatch.context() as patch:
        stopped_before(3, patch, lambda: finetune(cut))
    finetune(cut)
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")


def test_a_run_does_not_go_on_with_other_people(parts, tmp_path, monkeypatch):
    train, val = parts
    people = tmp_path / "people.csv"
    people.write_text(train.people.read_text())
    steps = {"max_steps": 4, "batch_size": 4, "checkpoint_every_steps": 2, "zero_stage": 0}
    config = detection_config(train, val, tmp_path / "run", detection={"train": people}, **steps)
    with monkeypatch.context() as patch:
        stopped_before(3, patch, lambda: finetune(config))
    people.write_text("".join(people.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(UserError, match="was written with another manifest"):
        finetune(config)


def test_the_loss_does_not_depend_on_how_a_step_is_cut_up(parts, tmp_path):
    """Of clips that show nobody, one person or two."""
    lonely = write_people(tmp_path / "people", 6, 3, lonely=3)
    losses = []
    for clips, passes in ((6, 1), (2, 3), (1, 6)):
        run = tmp_path / f"{clips}x{passes}"
        steps = {"max_steps": 3, "batch_size": clips, "accumulate_steps": passes, "zero_stage": 0}
        config = detection_config(lonely, parts[1], run, **steps)
        augment = config.augment.model_copy(update={"crop": "random_resized", "min_area": 0.05})
        data = config.data.model_copy(update={"val": None})
        finetune(config.model_copy(update={"augment": augment, "data": data}))
        losses.append(losses_of(run))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def scores_on(ranks, config):
    """Of a network that has learned nothing, from each rank."""
    judged = people_to_judge(config, read_actions(config.detection.actions))
    torch.manual_seed(0)
    network = Detector(config.model, 3, 3).eval()
    network.head.weight.data.mul_(1000)

    def work(world):
        share = Share(5, world.rank, world.size)
        manifest = judged.keyframes.manifest
        with ClipLoader(config, "evaluate", share, needs_motion=False, manifest=manifest) as loader:
            return score_people(config, network, world, loader, judged, lambda _: None)

    return judged, on_ranks(ranks, work)


def test_three_ranks_score_as_one_does(parts, tmp_path):
    config = detection_config(*parts, tmp_path)
    judged, (alone,) = scores_on(1, config)
    assert alone.shape == (24, 3) and len(np.unique(alone)) == alone.size
    for scores in scores_on(3, config)[1]:
        np.testing.assert_allclose(scores, alone, atol=1e-6)
    found = found_actions(judged, alone)
    assert len(found) == alone.size
    np.testing.assert_array_equal(found.scores.reshape(24, 3), alone)


def test_people_of_an_unreadable_video_count_as_not_found_and_are_listed(parts, trained, tmp_path):
    train, val = parts
    whole = json.loads((trained / "evaluation.json").read_text())
    bad = with_file(val, "v2.mp4", b"no video", tmp_path / "bad")
    config = detection_config(train, bad, tmp_path / "run")
    model = config.model.model_copy(update={"init": trained})
    found = evaluate(config.model_copy(update={"model": model}))
    assert [place["video"] for place in found.unreadable] == ["v2"] * 3
    assert [place["second"] for place in found.unreadable] == ["1", "2", "3"]
    assert all("cannot be" in place["reason"] for place in found.unreadable)
    assert found.num_boxes == sum(whole["action_boxes"]), "their boxes still count"
    # Three quarters of the boxes can be found, at full precision at best.
    assert all(value <= 0.75 for value in found.average_precisions)
    assert found.mean_average_precision > 0.6


@pytest.fixture
def unreadable(parts, trained, tmp_path):
    """The config of a trained run in a folder of its own; no video that is judged can be read."""
    train, val = parts
    folder = tmp_path / "bad"
    bad = with_file(val, "v0.mp4", b"no video", folder)
    for path in folder.glob("*.mp4"):
        path.write_bytes(b"no video")
    config = detection_config(train, bad, tmp_path / "run")
    return config.model_copy(
        update={"model": config.model.model_copy(update={"init": trained, "num_classes": 3})}
    )


def test_a_set_of_which_nothing_can_be_read_is_no_result(unreadable):
    with pytest.raises(
        UserError, match=r"none of its 12 moments .*first is second 1 of v0: .*No result"
    ):
        evaluate(unreadable)
    assert [path.name for path in unreadable.output_dir.iterdir()] == ["train.log"]


def test_while_training_it_is_said_that_nothing_can_be_read(unreadable, trained):
    judged = people_to_judge(unreadable, read_actions(unreadable.detection.actions))
    weights, said = load_file(trained / "weights" / "step-30.safetensors"), []
    world = World(0, 1, torch.device("cpu"))
    watcher = Watcher(said.append, lambda: None)
    assert judge_detector(judged, unreadable, world, weights, watcher) == {"val/mAP": 0.0}
    assert "none of its 12 moments could be judged; the first is" in said[0]
    assert said[1] == "mAP 0.0% on 12 moments, 12 of them unreadable"


def test_a_judgement_of_other_people_says_which_one_it_replaces(parts, trained, tmp_path):
    train, val = parts
    config = detection_config(train, val, tmp_path / "run")
    model = config.model.model_copy(update={"init": trained})
    evaluate(config.model_copy(update={"model": model}))
    people = tmp_path / "people.csv"
    people.write_text("v0,0001,0.1,0.1,0.9,0.9,,0.99\n")
    other = detection_config(train, val, tmp_path / "run", detection={"people": people})
    evaluate(other.model_copy(update={"model": model}))
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("replaces") == 1
    assert f"replaces   the judgement of {val.manifest} (people {val.people})" in log
    assert not (tmp_path / "run" / "skipped.csv").exists()


def test_a_video_that_is_not_there_counts_too_and_is_said(parts, trained, tmp_path):
    train, val = parts
    lines = [line for line in val.manifest.read_text().splitlines() if "v1.mp4" not in line]
    (val.manifest.parent / "fewer.csv").write_text("\n".join(lines))
    fewer = replace(val, manifest=val.manifest.parent / "fewer.csv")
    config = detection_config(train, fewer, tmp_path / "run")
    model = config.model.model_copy(update={"init": trained})
    found = evaluate(config.model_copy(update={"model": model}))
    assert (found.num_people, found.num_moments, found.num_boxes) == (18, 9, 36)
    assert found.unreadable == []
    assert [(place["video"], place["second"]) for place in found.not_shown] == [
        ("v1", str(second)) for second in (1, 2, 3)
    ]
    assert all(value <= 0.75 for value in found.average_precisions)
    log = (tmp_path / "run" / "train.log").read_text()
    assert "not to be seen: 3 moments: the manifest has no video of that name" in log


def test_excluded_moments_do_not_count(parts, tmp_path):
    train, val = parts
    excluded = tmp_path / "excluded.csv"
    excluded.write_text("".join(f"v{n},0002\n" for n in range(4)))
    config = detection_config(train, val, tmp_path / "run", detection={"excluded": excluded})
    judged = people_to_judge(config, read_actions(val.actions))
    assert len(judged.keyframes.moments) == 8 and len(judged.truth) == 24
    assert "4 moments with people are excluded" in judged.notes


def test_found_people_are_looked_at_in_place_of_the_true_ones(parts, trained, tmp_path):
    """One box is exact, one misses, one is unsure, and one is where nobody is listed."""
    train, val = parts
    true = [line.split(",") for line in val.people.read_text().splitlines()]
    exact = [",".join([*row[:6], "", "0.95"]) for row in true if row[0] == "v0" and row[6] != "7"]
    others = ["v1,0001,0.9,0.9,1,1,,0.99", "v1,0002,0.1,0.1,0.9,0.9,,0.79", "v2,0000,0,0,1,1,,0.9"]
    people = tmp_path / "people.csv"
    people.write_text("\n".join(exact + others))
    config = detection_config(train, val, tmp_path / "run", detection={"people": people})
    model = config.model.model_copy(update={"init": trained})
    found = evaluate(config.model_copy(update={"model": model}))
    assert (found.num_people, found.num_moments, found.num_boxes) == (8, 5, 36)
    assert found.people == str(people)
    # Six of 24 people have a right box: at most a quarter of what each action's boxes are.
    assert all(0 < value <= 0.25 for value in found.average_precisions)
    log = (tmp_path / "run" / "train.log").read_text()
    assert "1 boxes are left out, below detection.min_person_score" in log


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("augment", {"rand_augment": {"layers": 4}}, "boxes would stay"),
        ("augment", {"mixup": 0.8}, "boxes would be of one"),
        ("augment", {"label_smoothing": 0.1}, "people do several things"),
        ("clip", {"sampling": "segments"}, "set dense"),
        ("evaluation", {"num_segments": 5, "num_crops": 3}, "a moment has one view"),
        ("training", {"compile": True}, "training.compile"),
    ],
)
def test_what_would_part_clips_from_their_boxes_is_refused(
    parts, tmp_path, section, value, message
):
    values = detection_config(*parts, tmp_path).model_dump()
    values[section] |= value
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(values)


@pytest.mark.parametrize(
    ("detection", "message"),
    [
        ({"train": None}, "detection.train is not set"),
        ({"val": None}, "detection.val is not set"),
        ({"first_second": 900}, "no moment of it is in a video"),
        ({"train": "EMPTY"}, "empty.csv: nobody does any of the actions"),
        ({"val": "EMPTY"}, "empty.csv: nobody does any of the actions"),
        ({"people": "EMPTY"}, "empty.csv: nobody is left to look at"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_read(parts, tmp_path, detection, message):
    (tmp_path / "empty.csv").write_text("")
    values = detection_config(*parts, tmp_path).model_dump()
    values["detection"] |= {
        key: tmp_path / "empty.csv" if value == "EMPTY" else value
        for key, value in detection.items()
    }
    with pytest.raises(UserError, match=message):
        finetune(RunConfig.model_validate(values))


def test_files_without_their_list_of_actions_are_refused(parts):
    with pytest.raises(ValueError, match="train: needs the list of actions"):
        RunConfig.model_validate({"detection": {"train": parts[0].people}})


def test_weights_without_a_detectors_head_are_not_judged(parts, tmp_path):
    config = detection_config(*parts, tmp_path / "run")
    model = config.model.model_copy(update={"num_classes": 3, "init": tmp_path / "w.safetensors"})
    save_weights(build_classifier(model), model, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="has no head for these 3 classes; finetune it first"):
        evaluate(config.model_copy(update={"model": model}))
