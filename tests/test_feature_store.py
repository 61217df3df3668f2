"""Features on disk: computed once, nothing half, and new ones only for a reason."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_runs import SIDE, config_with, made, write_networks
from made_features import table_of
from safetensors import safe_open
from safetensors.torch import save_file

from mgm_dali.errors import UserError
from mgm_dali.training import feature_store, features
from mgm_dali.training.feature_store import open_table
from mgm_dali.training.frozen import FrozenEncoder

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("weights"))


@pytest.mark.usefixtures("small_shards")
def test_a_killed_run_goes_on_behind_the_shards_that_are_there(
    eight_videos, weights, tmp_path, monkeypatch
):
    whole, _ = made(config_with(eight_videos, tmp_path / "whole", weights["autoencoder"]))
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    written = []
    original = features.write_shard

    def write_two(folder, spec, number, tensors, reasons):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(number)
        original(folder, spec, number, tensors, reasons)

    monkeypatch.setattr(features, "write_shard", write_two)
    with pytest.raises(KeyboardInterrupt):
        made(config)
    folder = next((tmp_path / "run/features").glob("train-*"))
    (folder / ".00002.safetensors.host.1.partial").write_bytes(b"half")
    written.clear()
    monkeypatch.setattr(features, "write_shard", lambda *a: (written.append(a[2]), original(*a)))
    tables, said = made(config)
    assert written == [2, 3, 0, 1, 2, 3]
    assert "2 of 4 parts are there" in said and not list(folder.glob(".*"))
    for table, other in zip(tables, whole, strict=True):
        assert torch.equal(table.take("mean", np.arange(8)), other.take("mean", np.arange(8)))


def with_other(path, **changed):
    """Writes a shard anew with other tensors, and all that it says of itself."""
    with safe_open(path, "pt") as file:
        said = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    save_file(tensors | changed, path, said)


@pytest.mark.parametrize(
    "damage", ["cut off", "another's", "no safetensors", "other numbers", "none read", "gone"]
)
@pytest.mark.usefixtures("small_shards")
def test_a_damaged_shard_is_made_again_and_no_other(
    eight_videos, weights, tmp_path, monkeypatch, damage
):
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    (before, _), _ = made(config)
    expected = before.take("mean", np.arange(8))
    folder = next((tmp_path / "run/features").glob("train-*"))
    path = folder / "00002.safetensors"
    if damage == "cut off":
        os.truncate(path, path.stat().st_size - 9)
    elif damage == "another's":
        shutil.copy(folder / "00001.safetensors", path)
    elif damage == "no safetensors":
        path.write_bytes(b"\xff" * 100)
    elif damage == "other numbers":
        with_other(path, mean=torch.randn(2, 2, 128))
    elif damage == "none read":
        with_other(path, state=torch.ones(2, 2, dtype=torch.uint8))
    else:
        path.unlink()
    made_again = []
    original = features.write_shard
    monkeypatch.setattr(features, "write_shard", lambda *a: (made_again.append(a[2]), original(*a)))
    (after, _), said = made(config)
    assert made_again == [2] and torch.equal(after.take("mean", np.arange(8)), expected)
    assert (f"made again: {path}" in said) == (damage != "gone")
    if damage in ("other numbers", "none read"):
        assert f"{path}: is not what was written" in said


@pytest.mark.usefixtures("small_shards")
def test_each_shard_is_read_against_its_checksum_once(eight_videos, weights, tmp_path, monkeypatch):
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    made(config)
    original, looked_at = feature_store._why_damaged, []
    monkeypatch.setattr(
        feature_store, "_why_damaged", lambda *a: (looked_at.append(a[::2]), original(*a))[1]
    )
    made(config)
    assert len(looked_at) == len(set(looked_at)) == 2 * 4


def test_features_are_taken_as_they_are_where_nothing_has_changed(
    eight_videos, weights, tmp_path, monkeypatch
):
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    made(config)
    monkeypatch.setattr(FrozenEncoder, "__call__", lambda *_: pytest.fail("encoded again"))
    _, said = made(config)
    assert said.count("all are there and are taken as they are") == 2
    learning = {"probe": {**config.probe.model_dump(), "held_out_share": 0.3}, "seed": 5}
    made(type(config).model_validate(config.model_dump() | learning))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clip": {"stride_frames": 1}}, "clip.stride_frames: 2 -> 1"),
        ({"model": {"num_frames": 4, "position_frames": 8}}, "model.num_frames: 8 -> 4"),
        ({"model": {"init": "classifier"}}, "weights: "),
        ({"probe": {"train_segments": 1}}, "segments: 2 -> 1"),
    ],
    ids=str,
)
def test_another_setting_makes_new_features_says_why_and_keeps_the_old(
    eight_videos, weights, tmp_path, change, reason
):
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    made(config)
    before = set((tmp_path / "run/features").glob("train-*"))
    values = config.model_dump()
    for section, keys in change.items():
        values[section] |= {k: weights.get(v, v) for k, v in keys.items()}
    _, said = made(type(config).model_validate(values))
    assert f"made anew: {before.copy().pop().name} was made with another" in said
    assert reason in said
    assert len(set((tmp_path / "run/features").glob("train-*")) - before) == 1
    assert before.pop().exists()


def test_other_labels_are_no_other_features(eight_videos, weights, tmp_path, monkeypatch):
    shutil.copytree(eight_videos.parent, tmp_path / "set")
    manifest = tmp_path / "set/eight.csv"
    config = config_with(manifest, tmp_path / "run", weights["autoencoder"])
    made(config)
    lines = [line.split(",") for line in manifest.read_text().splitlines()]
    for line in lines[1:]:
        line[1] = str((int(line[1]) + 1) % 8)
    manifest.write_text("\n".join(map(",".join, lines)) + "\n")
    monkeypatch.setattr(FrozenEncoder, "__call__", lambda *_: pytest.fail("encoded again"))
    made(config)
    lines[3][2] = "7"  # another length: other frames
    manifest.write_text("\n".join(map(",".join, lines)) + "\n")
    monkeypatch.undo()
    assert "made with another videos: " in made(config)[1]


def test_features_with_tokens_serve_who_needs_none(eight_videos, weights, tmp_path, monkeypatch):
    init = weights["autoencoder"]
    both = config_with(eight_videos, tmp_path / "run", init, kinds=("linear", "attentive"))
    (fuller, _), said = made(both)
    assert f"{4 * SIDE**2} tokens in float16" in said
    monkeypatch.setattr(FrozenEncoder, "__call__", lambda *_: pytest.fail("encoded again"))
    (train, _), _ = made(config_with(eight_videos, tmp_path / "run", init))
    rows = np.arange(8)
    assert torch.equal(train.take("mean", rows), fuller.take("mean", rows))


def test_a_disk_without_room_is_refused_before_a_video_is_read(
    eight_videos, weights, tmp_path, monkeypatch
):
    config = config_with(
        eight_videos, tmp_path / "run", weights["autoencoder"], kinds=("attentive",)
    )
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"need 147 kB, and the disk has 100 kB free.*per_side"):
        made(config)
    assert not (tmp_path / "run/features").exists()


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_is_one_line_and_loses_nothing(eight_videos, weights, tmp_path, monkeypatch):
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    original, count = feature_store.save, itertools.count()

    def full_at_the_third(tensors, metadata):
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        return original(tensors, metadata)

    monkeypatch.setattr(feature_store, "save", full_at_the_third)
    with pytest.raises(UserError, match=r"00002\.safetensors: cannot be written \(No space left"):
        made(config)
    assert "2 of 4 parts are there" in made(config)[1]


def test_a_shard_is_mapped_into_memory_and_says_what_it_is(eight_videos, weights, tmp_path):
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    (train, _), _ = made(config)
    folder = next((tmp_path / "run/features").glob("train-*"))
    with safe_open(folder / "00000.safetensors", "pt") as file:
        said = file.metadata()
        checksum = said.pop("checksum")
        assert said == {"key": train.spec.digest, "shard": "0", "unreadable": "{}"}
        assert len(bytes.fromhex(checksum)) == 16
        assert file.get_slice("mean").get_shape() == [8, 2, 128]
    assert json.loads((folder / "key.json").read_text()) == train.spec.key
    expected = {"precision": "fp32", "decode": "cpu", "segments": 2, "model.image_size": 64}
    assert expected.items() <= train.spec.key.items()
    again = open_table(folder, train.spec)
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert any(str(folder / "00000") in line for line in maps) and again.is_read.all()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("held_bytes", [0, 8192, 2**31])
def test_rows_in_any_order_are_the_same_from_disk_and_from_memory(monkeypatch, held_bytes):
    monkeypatch.setattr(feature_store, "HELD_BYTES", held_bytes)
    rng = np.random.default_rng(0)
    mean, tokens = rng.normal(size=(21, 2, 8)), rng.normal(size=(21, 2, 40, 8))
    table = table_of(mean, tokens=tokens)
    table.hold()
    rows = rng.integers(0, 21, 50)
    views = rng.integers(0, 2, (50, 1))
    for name, values in (("mean", mean), ("tokens", tokens)):
        expected = torch.tensor(values).to(table.spec.layout[name][1])
        assert torch.equal(table.take(name, rows), expected[rows])
        assert torch.equal(table.take(name, rows, views), expected[rows[:, None], views])
