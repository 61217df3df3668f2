"""Training runs, whole: they repeat, resume, and stop with a reason."""

import fcntl
import json
import shutil

import numpy as np
import pytest
from training_runs import config_for, losses_of, stopped_before

from mgm_dali.errors import UserError
from mgm_dali.runs.checkpoint_files import complete_steps
from mgm_dali.training.engine import Engine
from mgm_dali.training.evaluate import evaluate
from mgm_dali.training.finetune import finetune
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.pretrain import pretrain


@pytest.fixture(scope="module")
def whole_run(moving_shapes, tmp_path_factory):
    """Six uninterrupted steps."""
    output = tmp_path_factory.mktemp("whole") / "run"
    pretrain(config_for(moving_shapes, output))
    return output


def test_the_run_folder_holds_what_the_readme_says(whole_run):
    for name in ("config.yaml", "metrics.jsonl", "train.log", "tensorboard"):
        assert (whole_run / name).exists(), name
    assert complete_steps(whole_run) == [4, 6]  # the newest two are kept
    weights = sorted(path.name for path in (whole_run / "weights").glob("*.safetensors"))
    assert weights == ["step-4.safetensors", "step-6.safetensors"]  # and their weights
    metrics = read_metrics(whole_run / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2, 3, 4, 5, 6]
    for key in ("epoch", "loss", "lr", "grad_norm", "clips_per_second", "data_wait_share"):
        assert all(np.isfinite(m[key]) for m in metrics), key
    assert all(m["grad_norm"] > 0 for m in metrics)


def test_the_same_command_twice_gives_identical_losses(moving_shapes, whole_run, tmp_path):
    pretrain(config_for(moving_shapes, tmp_path / "run"))
    assert losses_of(tmp_path / "run") == losses_of(whole_run)


@pytest.mark.parametrize("stopped_at", [1, 3])
def test_a_stopped_run_resumes_to_the_same_losses_bit_for_bit(
    moving_shapes, whole_run, tmp_path, monkeypatch, stopped_at
):
    config = config_for(moving_shapes, tmp_path / "run")
    stopped_before(stopped_at, monkeypatch, lambda: pretrain(config))
    pretrain(config)
    assert losses_of(tmp_path / "run") == losses_of(whole_run)
    log = (tmp_path / "run" / "train.log").read_text()
    assert ("resumed behind step" in log) == (stopped_at > 1)


def test_another_list_of_videos_is_not_resumed(moving_shapes, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    shorter = moving_shapes.with_name("shorter.csv")
    shorter.write_text("\n".join(moving_shapes.read_text().splitlines()[:-4]) + "\n")
    text = (tmp_path / "run" / "config.yaml").read_text()
    text = text.replace(f"train: {moving_shapes}", f"train: {shorter}")
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="written with another manifest"):
        pretrain(config_for(shorter, tmp_path / "run"))


def test_a_run_that_named_no_kernel_and_lost_its_first_weights_is_resumed(
    moving_shapes, whole_run, tmp_path
):
    for folder in ("run", "start"):
        shutil.copytree(whole_run, tmp_path / folder)
    config = config_for(moving_shapes, tmp_path / "run", attention_kernel="auto")
    model = config.model.model_copy(update={"init": tmp_path / "start"})
    path = tmp_path / "run" / "config.yaml"
    text = path.read_text().replace("  attention_kernel: sdpa\n", "")
    path.write_text(text.replace("  init: null", f"  init: {tmp_path / 'start'}"))
    shutil.rmtree(tmp_path / "start")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-6")
    pretrain(config.model_copy(update={"model": model}))
    log = (tmp_path / "run" / "train.log").read_text()
    assert "weights    those of this run's checkpoint" in log and "resumed behind step 4" in log


def test_a_run_that_never_began_does_not_stand_in_the_way(moving_shapes, tmp_path):
    with pytest.raises(UserError, match="no such manifest"):
        pretrain(config_for(tmp_path / "misspelt.csv", tmp_path / "run"))
    pretrain(config_for(moving_shapes, tmp_path / "run", max_steps=1))
    assert complete_steps(tmp_path / "run") == [1]


def test_two_processes_cannot_train_in_one_folder(moving_shapes, tmp_path):
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training there"):
            pretrain(config_for(moving_shapes, tmp_path / "run"))


def test_weights_that_are_no_numbers_are_never_saved(moving_shapes, tmp_path, monkeypatch):
    config = config_for(moving_shapes, tmp_path / "run", zero_stage=0)
    original, calls = Engine.step, []

    def poisoned(self):
        norm = original(self)
        calls.append(1)
        if len(calls) == 4:
            self.network.mask_token.data.fill_(float("nan"))
        return norm

    monkeypatch.setattr(Engine, "step", poisoned)
    with pytest.raises(UserError, match="step 4: the weights are no longer finite"):
        pretrain(config)
    assert complete_steps(tmp_path / "run") == [2]


def test_a_finished_run_started_again_does_nothing(moving_shapes, whole_run):
    before = (whole_run / "metrics.jsonl").read_text()
    weights = pretrain(config_for(moving_shapes, whole_run))
    assert weights.name == "step-6.safetensors" and weights.exists()
    assert (whole_run / "metrics.jsonl").read_text() == before


def test_when_no_checkpoint_is_whole_the_run_does_not_begin_anew_in_silence(
    moving_shapes, whole_run, tmp_path
):
    shutil.copytree(whole_run, tmp_path / "run")
    for state in (tmp_path / "run" / "checkpoints").rglob("exp_avg.safetensors"):
        state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"none of 2 checkpoint\(s\) is whole"):
        pretrain(config_for(moving_shapes, tmp_path / "run"))


def test_another_configuration_in_the_same_folder_is_refused(moving_shapes, whole_run):
    with pytest.raises(UserError, match=r"training\.base_lr: 0\.05 -> 0\.1"):
        pretrain(config_for(moving_shapes, whole_run, base_lr=0.1))


def test_a_bad_video_is_replaced_counted_and_listed(moving_shapes, tmp_path):
    manifest = tmp_path / "videos.csv"
    text = moving_shapes.read_text().splitlines()
    names = [line.split(",")[0] for line in text[1:]]
    for name in names:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(moving_shapes.parent / name, target)
    (tmp_path / names[3]).write_bytes(b"")
    manifest.write_text("\n".join(text) + "\n")
    config = config_for(manifest, tmp_path / "run")
    tolerant = config.data.model_copy(update={"max_skipped": 0.1})
    pretrain(config.model_copy(update={"data": tolerant}))
    skipped = (tmp_path / "run" / "skipped.csv").read_text()
    assert skipped.startswith("path,reason\n") and names[3] in skipped
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["skipped_clips"] == 1

    strict = config.data.model_copy(update={"max_skipped": 0.0})
    with pytest.raises(UserError, match=r"data\.max_skipped"):
        other = config.model_copy(update={"data": strict, "output_dir": tmp_path / "strict"})
        pretrain(other)
    assert names[3] in (tmp_path / "strict" / "skipped.csv").read_text()


def test_finetuning_starts_from_a_pretrained_run_and_is_judged(moving_shapes, whole_run, tmp_path):
    config = config_for(moving_shapes, tmp_path / "run", layer_decay=0.75, max_steps=4)
    model = config.model.model_copy(update={"init": whole_run, "drop_path": 0.1})
    augment = config.augment.model_copy(update={"mixup": 0.8, "cutmix": 1.0})
    config = config.model_copy(update={"model": model, "augment": augment})
    finetune(config)
    verdict = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert verdict["num_videos"] == 24 and verdict["views_per_video"] == 2
    assert np.sum(verdict["confusion"]) == 24
    assert verdict["top1_low"] <= verdict["top1"] <= verdict["top1_high"]
    predictions = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert predictions[0].startswith("path,label,predicted,probability,") and len(predictions) == 25
    log = (tmp_path / "run" / "train.log").read_text()
    assert str(whole_run) in log and "new: fc_norm" in log

    again = evaluate(config)  # the finetuned weights, not those it began with
    assert "run/weights/step-4" in again.weights
    assert again.top1 == verdict["top1"]


def test_evaluating_pretrained_weights_says_that_they_have_no_head(
    moving_shapes, whole_run, tmp_path
):
    config = config_for(moving_shapes, tmp_path / "empty")
    model = config.model.model_copy(update={"init": whole_run})
    with pytest.raises(UserError, match="has no head for these 8 classes"):
        evaluate(config.model_copy(update={"model": model}))
