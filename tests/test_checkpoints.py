"""Checkpoints: complete or invisible, checked before they are read, and nothing in them is run."""

import json
import os
import pickle
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file
from training_runs import config_for, losses_of

from mgm_dali.errors import UserError
from mgm_dali.models import build_autoencoder
from mgm_dali.runs.checkpoint_files import (
    Best,
    best_of,
    checksums,
    complete_steps,
    newest_whole,
    write_best,
)
from mgm_dali.training import loop
from mgm_dali.training.pretrain import pretrain

FILES = [
    *("weights.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors"),
    *("counters.json", "position.json", "sha256.json"),
]


@pytest.fixture(scope="module")
def whole_run(moving_shapes, tmp_path_factory):
    """Six uninterrupted steps, with checkpoints behind the fourth and the sixth."""
    output = tmp_path_factory.mktemp("whole") / "run"
    pretrain(config_for(moving_shapes, output))
    return output


@pytest.fixture
def run(whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    return tmp_path / "run"


def test_a_checkpoint_is_what_its_description_says(whole_run):
    folder = whole_run / "checkpoints" / "step-6"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    autoencoder = build_autoencoder(config_for(whole_run, whole_run).model)
    shapes = {name: p.shape for name, p in autoencoder.named_parameters()}
    for kind in ("weights", "exp_avg", "exp_avg_sq"):
        tensors = load_file(folder / f"{kind}.safetensors")
        assert {name: tensor.shape for name, tensor in tensors.items()} == shapes
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        assert all(tensor.abs().sum() > 0 for tensor in tensors.values())
    weights = load_file(whole_run / "weights" / "step-6.safetensors")
    for name, tensor in load_file(folder / "weights.safetensors").items():
        assert torch.equal(weights[name], tensor)
    assert json.loads((folder / "counters.json").read_text())["adamw_step"] == 6


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file_is_found_and_the_checkpoint_before_taken(run, name):
    path = run / "checkpoints" / "step-6" / name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    said = []
    assert newest_whole(run, said.append).step == 4
    assert len(said) == 1 and "step-6" in said[0] and "passed over" in said[0]


INSTEAD = {"nothing": lambda _: None, "a folder": os.mkdir, "a pipe": os.mkfifo}


@pytest.mark.parametrize("make", INSTEAD.values(), ids=INSTEAD)
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_too(run, name, make):
    path = run / "checkpoints" / "step-6" / name
    path.unlink()
    make(path)
    assert newest_whole(run, lambda _: None).step == 4


@pytest.mark.parametrize("make", INSTEAD.values(), ids=INSTEAD)
def test_without_a_note_of_it_no_checkpoint_is_the_best(run, make, caplog):
    best = Best(4, "val/loss", 0.5, "videos.csv")
    write_best(run, best)
    assert best_of(run) == best
    (run / "best.json").unlink()
    make(run / "best.json")
    assert best_of(run) is None
    assert ("is damaged" in caplog.text) == (run / "best.json").exists()


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", [*FILES[:3], "ema.safetensors", "mp_rank_00_model_states.pt"])
def test_a_hostile_checkpoint_with_valid_checksums_is_not_executed(
    moving_shapes, run, tmp_path, name
):
    folder = run / "checkpoints" / "step-6"
    (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    (folder / "sha256.json").write_text(json.dumps(checksums(folder)))
    config = config_for(moving_shapes, run)
    if name in FILES:
        with pytest.raises(UserError, match=rf"{name}: cannot be read as safetensors"):
            pretrain(config)
    else:
        pretrain(config)  # nothing asks for it
    assert not (tmp_path / "executed").exists()
    assert pickle.loads(pickle.dumps(Payload(tmp_path / "executed"))).close() is None
    assert (tmp_path / "executed").exists(), "the payload works, if anybody unpickles it"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("counters.json", "[]", "counters.json"),
        ("counters.json", '{"adamw_step": "many"}', "counters.json"),
        ("position.json", '{"step": 6}', "passed over"),
        ("position.json", "[1]", "passed over"),
    ],
)
def test_nonsense_with_valid_checksums_ends_with_a_reason(
    moving_shapes, run, name, content, reason
):
    folder = run / "checkpoints" / "step-6"
    (folder / name).write_text(content)
    (folder / "sha256.json").write_text(json.dumps(checksums(folder)))
    config = config_for(moving_shapes, run)
    if reason == "passed over":
        pretrain(config)
        assert reason in (run / "train.log").read_text()
    else:
        with pytest.raises(UserError, match=reason):
            pretrain(config)


def test_weights_of_another_network_are_refused_by_name(moving_shapes, run):
    config = config_for(moving_shapes, run, changes_on_resume="accept")
    model = config.model.model_copy(update={"decoder_depth": 2})
    with pytest.raises(UserError, match=r"belongs to another network: decoder\.blocks\.1"):
        pretrain(config.model_copy(update={"model": model}))


def test_a_disk_that_is_full_while_saving_leaves_the_checkpoints_before(
    moving_shapes, whole_run, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    config = config_for(moving_shapes, run)
    original = loop.save_checkpoint

    def on_a_small_disk(engine, config, position):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if position.step == 4:  # no file can grow beyond it, which is how a full disk feels
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
        try:
            original(engine, config, position)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(loop, "save_checkpoint", on_a_small_disk)
    with pytest.raises(UserError, match=r"step-4.partial: could not be written"):
        pretrain(config)
    assert complete_steps(run) == [2]
    monkeypatch.undo()
    pretrain(config)
    assert losses_of(run) == losses_of(whole_run)
    assert not list((run / "checkpoints").glob("*.partial"))


def test_a_log_that_cannot_be_written_ends_nothing(moving_shapes, whole_run, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "train.log").symlink_to("/dev/full")
    pretrain(config_for(moving_shapes, run))
    ours = load_file(run / "weights" / "step-6.safetensors")
    theirs = load_file(whole_run / "weights" / "step-6.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert capsys.readouterr().err.count("train.log: cannot be written") == 1


def test_weights_that_somebody_removed_are_written_again(moving_shapes, run):
    before = load_file(run / "weights" / "step-6.safetensors")
    shutil.rmtree(run / "weights")
    after = load_file(pretrain(config_for(moving_shapes, run)))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "step-6.safetensors: was gone, and is written again" in (run / "train.log").read_text()


def test_changed_numbers_are_refused_until_they_are_accepted(moving_shapes, run):
    shutil.rmtree(run / "checkpoints" / "step-6")
    with pytest.raises(UserError, match=r"training\.base_lr: 0\.05 -> 0\.1.*changes_on_resume"):
        pretrain(config_for(moving_shapes, run, base_lr=0.1))
    pretrain(config_for(moving_shapes, run, base_lr=0.1, changes_on_resume="accept"))
    log = (run / "train.log").read_text()
    assert "changed    training.base_lr: 0.05 -> 0.1, as training.changes_on_resume accepts" in log
    assert "resumed behind step 4" in log


def test_what_changes_no_numbers_may_change_and_is_said(moving_shapes, whole_run, run):
    shutil.rmtree(run / "checkpoints" / "step-6")
    config = config_for(moving_shapes, run, batch_size=2, accumulate_steps=2, keep_checkpoints=5)
    pretrain(config)
    assert losses_of(run) == pytest.approx(losses_of(whole_run), abs=1e-5)
    log = (run / "train.log").read_text()
    assert "changed    training.batch_size: 4 -> 2\n" in log
    assert "changed    training.keep_checkpoints: 2 -> 5\n" in log


def test_another_global_batch_is_another_run(moving_shapes, run):
    with pytest.raises(UserError, match=r"written with another global batch \(4, now 8\)"):
        pretrain(config_for(moving_shapes, run, accumulate_steps=2, changes_on_resume="accept"))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_a_folder_that_cannot_be_locked_is_no_place_for_a_run(moving_shapes, tmp_path, make):
    make(tmp_path / "lock")
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be written to .*another output_dir"):
        pretrain(config_for(moving_shapes, tmp_path))


def test_a_log_that_is_a_pipe_is_not_waited_for(moving_shapes, tmp_path):
    os.mkfifo(tmp_path / "train.log")
    pretrain(config_for(moving_shapes, tmp_path, max_steps=1))
    assert complete_steps(tmp_path) == [1]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_metrics_that_are_no_file_are_named(run, moving_shapes, make):
    (run / "metrics.jsonl").unlink()
    make(run / "metrics.jsonl")
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        pretrain(config_for(moving_shapes, run))
