"""DeepSpeed's stages and precisions: each learns, resumes, and leaves out spoilt steps."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import config_for, losses_of, stopped_before

from mgm_dali.errors import UserError
from mgm_dali.models import build_autoencoder, load_pretrained
from mgm_dali.training.engine import Engine
from mgm_dali.training.finetune import finetune
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.pretrain import pretrain


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("precision", "zero_stage"),
    [
        *(("fp32", 1), ("bf16", 0), ("bf16", 3), slow("bf16", 2)),
        *(slow("fp32", 0), slow("bf16", 1), slow("fp32", 2), slow("fp32", 3)),
    ],
)
def test_every_stage_and_precision_trains_and_saves_float32_weights(
    moving_shapes, tmp_path, zero_stage, precision
):
    config = config_for(
        moving_shapes,
        tmp_path / "run",
        zero_stage=zero_stage,
        precision=precision,
        max_steps=12,
        accumulate_steps=2,
        gradient_clipping=1.0,
        checkpoint_every_steps=100,
    )
    weights = pretrain(config)
    losses = losses_of(tmp_path / "run")
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    autoencoder = build_autoencoder(config.model)
    report = load_pretrained(autoencoder, weights)
    assert not report.missing and not report.unused
    if precision == "bf16":  # float32 masters, not rounded copies, are what is saved
        weight = autoencoder.encoder.blocks[0].mlp.fc1.weight
        assert not torch.equal(weight, weight.bfloat16().float())


def test_bf16_without_zero_takes_the_same_steps_as_with_it(moving_shapes, tmp_path):
    losses = []
    for stage in (0, 1):
        config = config_for(
            moving_shapes, tmp_path / str(stage), precision="bf16", zero_stage=stage, max_steps=4
        )
        pretrain(config)
        losses.append(losses_of(tmp_path / str(stage)))
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


@pytest.mark.parametrize(
    ("zero_stage", "precision"),
    [(2, "fp32"), (0, "bf16"), slow(3, "fp32"), slow(0, "fp32"), slow(1, "bf16"), slow(3, "bf16")],
)
def test_finetuning_with_all_its_noise_resumes_exactly_in_every_engine(
    moving_shapes, tmp_path, monkeypatch, zero_stage, precision
):
    def config(name):
        training = {"zero_stage": zero_stage, "precision": precision, "accumulate_steps": 2}
        training |= {"layer_decay": 0.8, "gradient_clipping": 1.0, "max_steps": 4}
        config = config_for(moving_shapes, tmp_path / name, **training)
        model = config.model.model_copy(update={"drop_path": 0.2, "head_dropout": 0.2})
        augment = config.augment.model_copy(update={"mixup": 0.8, "cutmix": 1.0})
        data = config.data.model_copy(update={"val": None})
        return config.model_copy(update={"model": model, "augment": augment, "data": data})

    finetune(config("whole"))
    stopped_before(3, monkeypatch, lambda: finetune(config("stopped")))
    finetune(config("stopped"))
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("zero_stage", "precision"),
    [(0, "fp32"), (0, "bf16"), (2, "fp32"), slow(1, "fp32"), slow(3, "fp32")],
)
def test_a_gradient_that_is_no_number_is_left_out_and_counted(
    moving_shapes, tmp_path, monkeypatch, zero_stage, precision
):
    run = tmp_path / "run"
    config = config_for(moving_shapes, run, zero_stage=zero_stage, precision=precision)
    original, calls = Engine.backward, []

    def poisoned(self, loss):
        calls.append(1)
        original(self, loss * float("nan") if len(calls) == 3 else loss)

    monkeypatch.setattr(Engine, "backward", poisoned)
    weights = load_file(pretrain(config))
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    metrics = read_metrics(run / "metrics.jsonl")
    assert [line["skipped_steps"] for line in metrics] == [0, 0, 1, 1, 1, 1]
    assert metrics[5]["loss"] < metrics[0]["loss"]
    assert "steps skipped 1" in (run / "train.log").read_text()


@pytest.mark.parametrize("key", ["amp", "optimizer", "scheduler"])
def test_what_is_not_deepspeeds_to_choose_is_refused(moving_shapes, tmp_path, key):
    config = config_for(moving_shapes, tmp_path / "run")
    with pytest.raises(UserError, match=rf"deepspeed\.{key}"):
        pretrain(config.model_copy(update={"deepspeed": {key: {"enabled": True}}}))


def test_deepspeed_options_that_contradict_ours_are_refused(moving_shapes, tmp_path):
    config = config_for(moving_shapes, tmp_path / "run")
    for section, key, value in (("zero_optimization", "stage", 2), ("fp16", "enabled", True)):
        with pytest.raises(UserError, match=rf"deepspeed\.{section}\.{key}"):
            pretrain(config.model_copy(update={"deepspeed": {section: {key: value}}}))
