"""Probes of what cannot be read or makes no sense: told in a line, listed, never a traceback."""

import json
import shutil

import numpy as np
import pytest
import torch
from feature_runs import one_of_each_class, probe_config, write_networks

from mgm_dali.config import RunConfig
from mgm_dali.config.probe import ProbeConfig
from mgm_dali.errors import UserError
from mgm_dali.training.probe import probe

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("weights"))["autoencoder"]


def test_unreadable_videos_are_listed_not_learned_from_and_wrong(moving_shapes, weights, tmp_path):
    shutil.copytree(moving_shapes.parent, tmp_path / "set")
    manifest = tmp_path / "set/videos.csv"
    bad = [line.split(",")[0] for line in manifest.read_text().splitlines()[2:4]]
    for name in bad:
        (manifest.parent / name).write_bytes(b"no video")
    (result,) = probe(probe_config(manifest, tmp_path / "run", weights, kinds=("knn",)))
    report = json.loads((tmp_path / "run/probe.json").read_text())
    for split in ("train", "val"):
        listed = report[split]["unreadable"]
        assert [video["path"] for video in listed] == [str(manifest.parent / name) for name in bad]
        assert all("cannot be decoded" in video["reason"] for video in listed)
        assert report[split]["incomplete"] == []
    assert result.verdict.num_unreadable == 2 and result.verdict.num_videos == 24
    assert np.sum(result.verdict.confusion) == 22
    said = (tmp_path / "run/train.log").read_text()
    assert "unreadable 2 of 24 videos of train" in said and "They count as wrong" in said


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_set_of_which_nothing_can_be_read_is_refused(moving_shapes, weights, tmp_path, split):
    shutil.copytree(moving_shapes.parent, tmp_path / "set")
    for path in (tmp_path / "set").rglob("*.mp4"):
        path.write_bytes(b"")
    config = probe_config(moving_shapes, tmp_path / "run", weights)
    data = config.data.model_copy(update={split: tmp_path / "set/videos.csv"})
    told = rf"24 of 24 videos of {split} cannot be read, the first is .*: .*remove .*/{split}-"
    with pytest.raises(UserError, match=told):
        probe(config.model_copy(update={"data": data}))
    assert not (tmp_path / "run/probe.json").exists()


def test_no_more_neighbours_vote_than_there_are_and_the_report_says_how_many(
    moving_shapes, weights, tmp_path
):
    keys = {"kinds": ("knn",), "knn": {"neighbours": [500, 20, 3]}}
    (result,) = probe(probe_config(moving_shapes, tmp_path / "run", weights, **keys))
    (entry,) = json.loads((tmp_path / "run/probe.json").read_text())["probes"]
    assert [setting["neighbours"] for setting in entry["grid"]] == [16, 3]
    assert entry["setting"]["neighbours"] == result.setting["neighbours"] in (16, 3)
    said = (tmp_path / "run/train.log").read_text()
    assert "asks for 500, and 16 videos are there beside those held out: 16 vote" in said


def refusal(config):
    with pytest.raises(UserError) as caught:
        probe(config)
    return str(caught.value)


def test_what_a_probe_cannot_do_is_said_in_a_line(moving_shapes, weights, tmp_path):
    config = probe_config(moving_shapes, tmp_path / "run", weights)
    no_weights = config.model.model_copy(update={"init": None})
    assert "model.init: not set" in refusal(config.model_copy(update={"model": no_weights}))
    no_train = config.data.model_copy(update={"train": None})
    assert "data.train is not set" in refusal(config.model_copy(update={"data": no_train}))
    mapped = config.evaluation.model_copy(update={"class_map": tmp_path / "map.csv"})
    assert "evaluation.class_map" in refusal(config.model_copy(update={"evaluation": mapped}))
    logits = config.evaluation.model_copy(update={"merge": "logits"})
    assert "evaluation.merge: logits" in refusal(config.model_copy(update={"evaluation": logits}))
    uneven = {"kinds": ["attentive"], "attentive": {"num_heads": 5}}
    odd = config.model_copy(update={"probe": ProbeConfig.model_validate(uneven)})
    assert "probe.attentive.num_heads: 5 heads cannot share the 128 channels" in refusal(odd)
    single = one_of_each_class(moving_shapes)
    lonely = config.model_copy(update={"data": config.data.model_copy(update={"train": single})})
    assert "none of the 8 classes has two videos" in refusal(lonely)
    assert not (tmp_path / "run/features").exists()  # all this is said before anything is encoded
    (tmp_path / "run/weights").mkdir(parents=True)
    shutil.copy(weights, tmp_path / "run/weights/step-1.safetensors")
    assert f"model.init={tmp_path / 'run'}" in refusal(config)


@pytest.mark.parametrize(
    "keys",
    [
        {"kinds": []},
        {"kinds": ["linear", "linear"]},
        {"kinds": ["forest"]},
        {"held_out_share": 0},
        {"held_out_share": 1},
        {"linear": {"sgd_rates": []}},
        {"linear": {"lars_rates": [-1.0]}},
        {"linear": {"batch_size": 2}},
        {"attentive": {"rates": [0.0]}},
        {"knn": {"neighbours": [0]}},
        {"knn": {"temperature": 0}},
    ],
    ids=str,
)
def test_a_grid_that_makes_no_sense_is_refused(keys):
    with pytest.raises(ValueError, match=next(iter(keys))):
        RunConfig.model_validate({"probe": keys})
