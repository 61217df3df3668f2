"""The moving average of the weights: the right numbers, on disk, resumed, and judged."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import config_for, losses_of, stopped_before

from mgm_dali.errors import UserError
from mgm_dali.models import build_autoencoder, load_pretrained
from mgm_dali.models.weight_files import newest_weights
from mgm_dali.report.network import name_of_weights
from mgm_dali.training.engine import Engine
from mgm_dali.training.evaluate import evaluate
from mgm_dali.training.finetune import finetune
from mgm_dali.training.frozen import open_encoder
from mgm_dali.training.pretrain import pretrain
from mgm_dali.training.world import World
from mgm_dali.weights_commands import export_weights

DECAY = 0.75


def weights_of(run, step, suffix=""):
    return load_file(run / "weights" / f"step-{step}{suffix}.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def watched_run(config):
    """Trains; the weights that the network began with, and those behind each step, by name."""
    seen, calls = [], []

    def note(network):
        named = network.named_parameters()
        seen.append({name: p.detach().double().numpy().copy() for name, p in named})

    begin, step, accumulated = Engine.__init__, Engine.step, config.training.accumulate_steps

    def noted_begin(self, network, *others):
        note(network)
        begin(self, network, *others)

    def noted_step(self):
        norm = step(self)
        calls.append(1)
        if len(calls) % accumulated == 0:
            note(self.network)
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", noted_begin)
        patch.setattr(Engine, "step", noted_step)
        pretrain(config)
    return seen


def averaged_by_hand(seen):
    """The average by its definition, in float64, from the first of these weights on."""
    average = dict(seen[0])
    for weights in seen[1:]:
        for name in average:
            average[name] = DECAY * average[name] + (1 - DECAY) * weights[name]
    return average


def require_close(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def plain_run(moving_shapes, tmp_path_factory):
    """Six steps without an average."""
    output = tmp_path_factory.mktemp("plain") / "run"
    pretrain(config_for(moving_shapes, output))
    return output


@pytest.fixture(scope="module")
def averaged_run(moving_shapes, tmp_path_factory):
    """The same six steps with one."""
    output = tmp_path_factory.mktemp("averaged") / "run"
    pretrain(config_for(moving_shapes, output, ema_decay=DECAY))
    return output


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("zero_stage", "precision"), [(0, "fp32"), (1, "bf16"), slow(1, "fp32"), slow(0, "bf16")]
)
def test_the_average_is_that_of_the_weights_behind_every_step(
    moving_shapes, tmp_path, zero_stage, precision
):
    numbers = {"zero_stage": zero_stage, "precision": precision, "ema_decay": DECAY}
    batch = {"batch_size": 2, "accumulate_steps": 2}
    seen = watched_run(config_for(moving_shapes, tmp_path / "run", max_steps=3, **numbers, **batch))
    assert len(seen) == 4
    average = weights_of(tmp_path / "run", 3, "-ema")
    assert all(tensor.dtype == torch.float32 for tensor in average.values())
    require_close(average, averaged_by_hand(seen))
    if precision == "bf16":
        name = "encoder.blocks.0.mlp.fc1.weight"
        assert not torch.equal(average[name], average[name].bfloat16().float())


def test_the_average_lies_beside_the_weights_and_loads_like_them(
    moving_shapes, averaged_run, tmp_path
):
    names = sorted(path.name for path in (averaged_run / "weights").glob("*.safetensors"))
    kept = ("step-4", "step-4-ema", "step-6", "step-6-ema")  # as many as there are checkpoints
    assert names == sorted(f"{name}.safetensors" for name in kept)
    average, weights = weights_of(averaged_run, 6, "-ema"), weights_of(averaged_run, 6)
    assert average.keys() == weights.keys()
    trained = [name for name in weights if not torch.equal(average[name], weights[name])]
    assert len(trained) == len(weights)

    path = averaged_run / "weights" / "step-6-ema.safetensors"
    autoencoder = build_autoencoder(config_for(moving_shapes, averaged_run).model)
    report = load_pretrained(autoencoder, path)
    assert not report.missing and not report.unused
    assert same(dict(autoencoder.state_dict()), average)

    config = config_for(moving_shapes, tmp_path / "next", max_steps=1)
    pretrain(config.model_copy(update={"model": config.model.model_copy(update={"init": path})}))
    assert str(path) in (tmp_path / "next" / "train.log").read_text()


def test_training_takes_the_same_steps_with_and_without_an_average(plain_run, averaged_run):
    assert losses_of(plain_run) == losses_of(averaged_run)
    assert same(weights_of(plain_run, 6), weights_of(averaged_run, 6))
    assert not list((plain_run / "weights").glob("*-ema*"))


def test_a_stopped_run_goes_on_with_its_average_bit_for_bit(
    moving_shapes, averaged_run, tmp_path, monkeypatch
):
    config = config_for(moving_shapes, tmp_path / "run", ema_decay=DECAY)
    stopped_before(3, monkeypatch, lambda: pretrain(config))
    pretrain(config)
    assert "resumed behind step 2" in (tmp_path / "run" / "train.log").read_text()
    assert losses_of(tmp_path / "run") == losses_of(averaged_run)
    for suffix in ("", "-ema"):
        assert same(weights_of(tmp_path / "run", 6, suffix), weights_of(averaged_run, 6, suffix))


def resumable(finished, folder):
    """A copy of a run that ended behind its checkpoint of step 4."""
    run = folder / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "step-6")
    return run


def test_an_average_turned_on_later_begins_with_the_resumed_weights_and_says_so(
    moving_shapes, plain_run, tmp_path
):
    run = resumable(plain_run, tmp_path)
    with pytest.raises(UserError, match=r"training\.ema_decay: 0\.0 -> 0\.75"):
        pretrain(config_for(moving_shapes, run, ema_decay=DECAY))
    accepted = {"ema_decay": DECAY, "changes_on_resume": "accept"}
    seen = watched_run(config_for(moving_shapes, run, **accepted))
    log = (run / "train.log").read_text()
    assert "average    begins with the resumed weights: the checkpoint has none" in log
    assert "training.ema_decay: 0.0 -> 0.75, as training.changes_on_resume accepts" in log
    resumed = {name: tensor.double().numpy() for name, tensor in weights_of(run, 4).items()}
    require_close(weights_of(run, 6, "-ema"), averaged_by_hand([resumed, *seen[1:]]))
    assert losses_of(run) == losses_of(plain_run)


def test_an_average_turned_on_later_begins_with_unrounded_weights(moving_shapes, tmp_path):
    numbers = {"precision": "bf16", "base_lr": 0.5}
    pretrain(config_for(moving_shapes, tmp_path / "whole" / "run", **numbers))
    run = resumable(tmp_path / "whole" / "run", tmp_path)
    accepted = {"ema_decay": 1 - 1e-15, "changes_on_resume": "accept"}  # stays where it begins
    pretrain(config_for(moving_shapes, run, **numbers, **accepted))
    resumed, average = weights_of(run, 4), weights_of(run, 6, "-ema")
    assert all(torch.equal(resumed[name], average[name]) for name in resumed)
    assert any((tensor != tensor.bfloat16()).any() for tensor in resumed.values())


def test_an_average_turned_off_later_is_gone_and_that_is_said(
    moving_shapes, plain_run, averaged_run, tmp_path
):
    run = resumable(averaged_run, tmp_path)
    pretrain(config_for(moving_shapes, run, changes_on_resume="accept"))
    assert "average    is dropped: training.ema_decay is 0" in (run / "train.log").read_text()
    assert not (run / "weights" / "step-6-ema.safetensors").exists()
    assert losses_of(run) == losses_of(plain_run)


def test_where_no_rank_has_whole_weights_there_is_no_average(moving_shapes, tmp_path):
    config = config_for(moving_shapes, tmp_path / "run", zero_stage=3, ema_decay=DECAY)
    with pytest.raises(UserError, match=r"training\.ema_decay.*take stage 2, or ema_decay=0"):
        pretrain(config)


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        (["step-4"], "step-4"),
        (["step-4", "step-4-ema"], "step-4-ema"),
        (["step-9-ema", "step-9", "step-10", "step-10-ema"], "step-10-ema"),  # by number
        (["step-4", "step-4-ema", "step-6"], "step-6"),  # turned off on the way
        (["step-4", "step-6", "step-6-ema"], "step-6-ema"),  # turned on
        (["step-4", "step-9-ema-old", "step-x-ema", "mine"], "step-4"),
    ],
)
@pytest.mark.parametrize("below", ["weights", "."])
def test_the_newest_weights_are_the_average_where_the_newest_step_has_one(
    tmp_path, names, newest, below
):
    (tmp_path / below).mkdir(exist_ok=True)
    for name in names:
        (tmp_path / below / f"{name}.safetensors").touch()
    assert newest_weights(tmp_path) == tmp_path / below / f"{newest}.safetensors"


def test_whoever_takes_a_runs_weights_takes_its_average(moving_shapes, averaged_run, tmp_path):
    average = averaged_run / "weights" / "step-6-ema.safetensors"
    model = config_for(moving_shapes, averaged_run).model
    assert load_pretrained(build_autoencoder(model), averaged_run).source == average
    config = config_for(moving_shapes, tmp_path / "next", max_steps=1)
    config = config.model_copy(update={"model": model.model_copy(update={"init": averaged_run})})
    encoder = open_encoder(config, World(0, 1, torch.device("cpu")))
    assert encoder.report.source == average
    assert same(dict(encoder.network.state_dict()), load_file(average))
    pretrain(config)
    assert f"weights    {average}: " in (tmp_path / "next" / "train.log").read_text()
    assert name_of_weights(average) == "run, step 6, moving average"
    assert name_of_weights(average.with_name("step-6.safetensors")) == "run, step 6"
    export_weights(averaged_run, tmp_path / "exported", "safetensors")
    assert same(load_file(tmp_path / "exported" / "model.safetensors"), load_file(average))


def test_a_finetuned_run_is_judged_by_its_average(moving_shapes, tmp_path):
    run = tmp_path / "run"
    config = config_for(moving_shapes, run, max_steps=2, ema_decay=DECAY, base_lr=0.5)
    average = run / "weights" / "step-2-ema.safetensors"
    assert finetune(config) == average
    verdict = json.loads((run / "evaluation.json").read_text())
    assert verdict["weights"].startswith(str(average))

    def judged(weights):
        other = config.model_copy(update={"output_dir": tmp_path / weights.stem})
        model = config.model.model_copy(update={"init": weights})
        evaluate(other.model_copy(update={"model": model}))
        return (tmp_path / weights.stem / "predictions.csv").read_text()

    predictions = (run / "predictions.csv").read_text()
    assert judged(average) == judged(run) == predictions
    evaluate(config)
    again = json.loads((run / "evaluation.json").read_text())
    assert again == verdict
    assert judged(run / "weights" / "step-2.safetensors") != predictions
