"""Judging on another data set: the faults of a map, what counts, and a run from end to end."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import config_for
from typer.testing import CliRunner

from mgm_dali.cli import app
from mgm_dali.config import dump_config
from mgm_dali.errors import UserError
from mgm_dali.training.class_map import read_class_map
from mgm_dali.training.classes import judged_by, with_num_classes
from mgm_dali.training.evaluate import evaluate
from mgm_dali.training.finetune import finetune
from mgm_dali.training.views import merged
from mgm_dali.video.manifest import read_manifest, write_manifest

READY = Path(__file__).parents[1] / "configs" / "class_maps"
TRAINED = ("GolfSwing", "Punch", "BoxingSpeedBag", "PullUps", "Diving")
JUDGED = ("dive", "golf", "punch", "run")


def map_of(folder, text):
    path = folder / "map.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_several_trained_classes_may_mean_one_judged_class(tmp_path):
    text = (
        "# ours\n\ntrained,judged\nPunch,punch\n# two more\nBoxingSpeedBag, punch\nGolfSwing,golf\n"
    )
    found = read_class_map(map_of(tmp_path, text), TRAINED, JUDGED)
    assert found.names == ("punch", "golf")
    assert found.of_trained == {1: 0, 2: 0, 0: 1}
    assert found.of_judged == {2: 0, 1: 1}


def test_a_trained_class_that_means_none_may_be_chosen_and_is_wrong(tmp_path):
    text = "\ufefftrained,note,judged\r\nPullUps,hm,\r\nGolfSwing,,golf\r\n"
    found = read_class_map(map_of(tmp_path, text), TRAINED, JUDGED)
    assert found.names == ("golf", "PullUps")
    assert found.of_trained == {3: 1, 0: 0} and found.of_judged == {1: 0}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"map\.csv: is empty"),
        ("# nothing\n", r"map\.csv: is empty"),
        ("GolfSwing,golf\n", r"map\.csv:1: the header lacks trained and judged"),
        ("trained,target\n", r"map\.csv:1: the header lacks judged"),
        ("trained,judged\n", r"names no judged class"),
        ("trained,judged\nPunch,\n", r"names no judged class"),
        ("trained,judged\nPunch\n", r"map\.csv:2: has 1 field"),
        ("trained,judged\n,golf\n", r"map\.csv:2: names no trained class"),
        ("#\ntrained,judged\ngolfswing,golf\n", r"map\.csv:3: 'golfswing'.*mean 'GolfSwing'\?"),
        ("trained,judged\nGolfSwing,gulf\n", r"'gulf' is no class of the judged.*mean 'golf'\?"),
        ("trained,judged\nqqq,golf\n", r"'qqq' is no class of the trained set; it has 5 others"),
        ("trained,judged\nPunch,golf\nPunch,run\n", r"map\.csv:3: 'Punch' stands in a line above"),
        (b"trained,judged\n\xff\xfe,golf\n", r"is no class of the trained set"),
        (b"trained,judged\nPunch,go\0lf\n", r"map\.csv:2: "),
    ],
)
def test_a_fault_of_a_map_is_told_with_its_line(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem) as told:
        read_class_map(map_of(tmp_path, text), TRAINED, JUDGED)
    assert "\n" not in str(told.value)


def test_a_map_that_is_not_there_or_a_folder_is_told(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            read_class_map(path, TRAINED, JUDGED)


def test_a_name_is_not_both_a_judged_class_and_one_that_is_never_right(tmp_path):
    path = map_of(tmp_path, "trained,judged\nPunch,golf\ngolf,\n")
    with pytest.raises(UserError, match="'golf' is both"):
        read_class_map(path, (*TRAINED, "golf"), JUDGED)


def pairs_of(name):
    with (READY / name).open() as file:
        return {row["trained"]: row["judged"] for row in csv.DictReader(_uncommented(file))}


def _uncommented(lines):
    return (line for line in lines if not line.startswith("#"))


def test_the_ready_maps_train_fourteen_classes_and_judge_the_first_seven_by_name():
    to_hmdb, to_ucf = pairs_of("ucf14_hmdb7.csv"), pairs_of("hmdb14_ucf7.csv")
    for pairs, others in ((to_hmdb, to_ucf), (to_ucf, to_hmdb)):
        assert len(pairs) == 14
        assert sorted(filter(None, pairs.values())) == sorted(others)[:7]
    both = [(a, b) for a, b in to_hmdb.items() if b and to_ucf[b]]
    assert len(both) == 4 and all(to_ucf[b] == a for a, b in both)


@pytest.fixture(scope="module")
def two_sets(moving_shapes, tmp_path_factory):
    """Manifests of the same eight classes under other names, in another order; and a map."""
    folder = tmp_path_factory.mktemp("sets")
    videos, names = list(read_manifest(moving_shapes)), read_manifest(moving_shapes).class_names
    write_manifest(folder / "train.csv", videos, names)
    other = [f"other {name}" for name in reversed(names)]
    judged = [replace(video, label=7 - video.label) for video in videos]
    write_manifest(folder / "val.csv", judged, other)
    lines = ["right,other right", "left,other left", "shake,other right", "up,", "down,other down"]
    (folder / "map.csv").write_text("\n".join(["trained,judged", *lines]) + "\n")
    return folder


def mapped_config(folder, output, **changes):
    config = config_for(folder / "train.csv", output, max_steps=2, evaluate_every_steps=1)
    data = config.data.model_copy(update={"val": folder / "val.csv"})
    evaluation = config.evaluation.model_copy(update={"class_map": folder / "map.csv", **changes})
    return config.model_copy(update={"data": data, "evaluation": evaluation})


def test_only_videos_of_mapped_classes_count_by_the_maps_numbers(two_sets, tmp_path):
    config = with_num_classes(mapped_config(two_sets, tmp_path))
    assert config.model.num_classes == 8
    judged = judged_by(config)
    assert judged.manifest.class_names == ("other right", "other left", "other down", "up")
    whole = read_manifest(two_sets / "val.csv")
    expected = [
        (video.path, judged.manifest.class_names.index(whole.class_names[video.label]))
        for video in whole
        if whole.class_names[video.label] in judged.manifest.class_names
    ]
    assert [(video.path, video.label) for video in judged.manifest] == expected
    assert "3 of the 8 judged classes count, 1 more may be chosen" in judged.left_out
    assert "15 of 24 videos are of other classes" in judged.left_out


def test_what_is_not_mapped_does_not_exist_and_what_means_the_same_is_added(two_sets, tmp_path):
    """Against a softmax over the five trained classes, by their names."""
    judged = judged_by(with_num_classes(mapped_config(two_sets, tmp_path)))
    names = read_manifest(two_sets / "train.csv").class_names
    logits = np.random.default_rng(0).normal(0, 2, 8)
    of_name = dict(zip(names, np.exp(logits).tolist(), strict=True))
    total = sum(of_name[name] for name in ("right", "left", "shake", "up", "down"))
    sums = torch.from_numpy(np.append(logits[judged.outputs], 1.0))[None]
    (found,) = merged(sums, "logits", judged).tolist()
    shares = (of_name["right"] + of_name["shake"], *(of_name[n] for n in ("left", "down", "up")))
    assert found == pytest.approx([share / total for share in shares])


def test_training_and_judged_set_may_name_other_classes_only_with_a_map(two_sets, tmp_path):
    with pytest.raises(UserError, match=r"name different classes.*evaluation\.class_map"):
        finetune(mapped_config(two_sets, tmp_path, class_map=None))
    assert not (tmp_path / "checkpoints").exists()


def test_what_a_map_needs_is_said_before_anything_is_trained(two_sets, tmp_path):
    config = mapped_config(two_sets, tmp_path / "run")

    def told(message, **data):
        other = config.model_copy(update={"data": config.data.model_copy(update=data)})
        with pytest.raises(UserError, match=message):
            finetune(other)

    told(r"data\.val is not set", val=None)
    told(r"set data\.train to it", train=None)
    shutil.copy(two_sets / "val.csv", tmp_path / "nameless.csv")
    told(r"nameless\.csv: has no class names beside it", val=tmp_path / "nameless.csv")
    lines = (two_sets / "val.csv").read_text().splitlines()
    other = [line for line in lines[1:] if line.split(",")[1] == "0"]  # "other shake"
    (tmp_path / "rest.csv").write_text("\n".join([lines[0], *other]) + "\n")
    shutil.copy(two_sets / "val.classes.txt", tmp_path / "rest.classes.txt")
    told(r"rest\.csv holds no video of the judged classes", val=tmp_path / "rest.csv")
    unlabelled = [lines[0], lines[1].replace(",7,", ",,", 1)]
    (tmp_path / "blank.csv").write_text("\n".join(unlabelled) + "\n")
    shutil.copy(two_sets / "val.classes.txt", tmp_path / "blank.classes.txt")
    told(r"blank\.csv: .* has no label", val=tmp_path / "blank.csv")
    assert not (tmp_path / "run").exists()


def test_a_run_is_finetuned_on_one_set_and_judged_on_another(two_sets, tmp_path):
    """The command, its files, and the picture; `evaluate` then finds the same."""
    run = tmp_path / "run"
    config = mapped_config(two_sets, run)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    done = CliRunner().invoke(app, ["finetune", str(tmp_path / "config.yaml")])
    assert done.exit_code == 0, done.output
    found = json.loads((run / "evaluation.json").read_text())
    assert found["num_videos"] == 9 and found["chance"] == 0.25
    assert found["class_videos"] == [3, 3, 3, 0] and found["class_top1"][3] is None
    assert found["class_map"] == str(two_sets / "map.csv") and found["merge"] == "probabilities"
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert len((run / "predictions.csv").read_text().splitlines()) == 10
    assert len((run / "per_class.csv").read_text().splitlines()) == 5
    log = (run / "train.log").read_text()
    assert "15 of 24 videos are of other classes and left out" in log
    again = evaluate(config)
    assert again.confusion == found["confusion"] and again.top1 == found["top1"]
    logits = evaluate(mapped_config(two_sets, run, merge="logits"))
    assert logits.merge == "logits" and logits.num_videos == 9


def test_a_video_that_cannot_be_read_is_listed_with_its_reason(two_sets, tmp_path):
    """Of three judged videos one is empty; the map's rows, not the manifest's, are counted."""
    run = tmp_path / "run"
    config = mapped_config(two_sets, run)
    lines = (two_sets / "val.csv").read_text().splitlines()
    rows = [line for line in lines[1:] if line.split(",")[1] == "7"]  # "other right"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"")
    rows[1] = ",".join([str(broken), *rows[1].split(",")[1:]])
    (tmp_path / "val.csv").write_text("\n".join([lines[0], *rows, lines[-1]]) + "\n")
    shutil.copy(two_sets / "val.classes.txt", tmp_path / "val.classes.txt")
    data = config.data.model_copy(update={"val": tmp_path / "val.csv"})
    config = config.model_copy(update={"data": data})
    weights = finetune(config)
    found = json.loads((run / "evaluation.json").read_text())
    assert found["weights"].startswith(str(weights))
    assert (found["num_videos"], found["num_unreadable"]) == (3, 1)
    ((listed),) = found["unreadable"]
    assert listed["path"] == str(broken) and listed["reason"]
    assert np.sum(found["confusion"]) == 2 and found["top1"] <= 2 / 3
    with (run / "predictions.csv").open() as file:
        line = list(csv.DictReader(file))[1]
    assert (line["path"], line["predicted"], line["views"]) == (str(broken), "", "0")
    assert line["reason"] == listed["reason"]
