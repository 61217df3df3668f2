"""Judgements on the way: the right numbers, the best step kept, and training none the wiser."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from training_runs import config_for, stopped_before

from mgm_dali.config import TrainingConfig
from mgm_dali.errors import UserError
from mgm_dali.masking import make_mask
from mgm_dali.models import build_autoencoder, load_pretrained
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.report.show import RUN_FIGURES
from mgm_dali.runs.checkpoint_files import (
    Best,
    average_beside,
    best_of,
    complete_steps,
    partial_folder,
    prune,
    weights_file,
    write_best,
)
from mgm_dali.training.evaluate import evaluate
from mgm_dali.training.finetune import finetune
from mgm_dali.training.judging import Watcher, reconstruction_loss
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.pretrain import pretrain
from mgm_dali.training.world import World

COMMANDS = {"pretrain": pretrain, "finetune": finetune}
MEASURES = {"pretrain": "val/loss", "finetune": "val/top1"}
JUDGES = {
    "pretrain": "mgm_dali.training.pretrain.reconstruction_loss",
    "finetune": "mgm_dali.training.classification.judge_weights",
}
"""Where each command finds its judge."""


def noisy(stage, manifest, output, **training):
    """A run of five steps with all the noise that its stage knows."""
    settings = {"max_steps": 5, "checkpoint_every_steps": 100, "keep_checkpoints": 9, **training}
    config = config_for(manifest, output, **settings)
    if stage == "pretrain":
        return config
    model = config.model.model_copy(update={"drop_path": 0.2, "head_dropout": 0.2})
    augment = config.augment.model_copy(update={"mixup": 0.8, "cutmix": 1.0})
    return config.model_copy(update={"model": model, "augment": augment})


def losses_by_step(run):
    lines = read_metrics(run / "metrics.jsonl")
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def judged_by_step(run, measure):
    lines = read_metrics(run / "metrics.jsonl")
    return {line["step"]: line[measure] for line in lines if measure in line}


def weights_kept(run):
    return sorted(int(path.stem.split("-")[1]) for path in (run / "weights").glob("step-*"))


@pytest.fixture(scope="module")
def judged(moving_shapes, tmp_path_factory):
    """Of each stage, the config of a run that was judged behind steps 2 and 4 of five."""
    configs = {}
    for stage, start in COMMANDS.items():
        output = tmp_path_factory.mktemp("judged") / stage
        configs[stage] = noisy(stage, moving_shapes, output, evaluate_every_steps=2)
        start(configs[stage])
    return configs


@pytest.mark.parametrize("stage", COMMANDS)
def test_every_judged_step_has_a_checkpoint_and_the_best_one_is_named(judged, stage):
    run, measure = judged[stage].output_dir, MEASURES[stage]
    values = judged_by_step(run, measure)
    assert list(values) == [2, 4] and complete_steps(run) == weights_kept(run) == [2, 4, 5]
    better = min if stage == "pretrain" else max
    best = better(values, key=values.get)  # the earlier one of two that are alike
    assert json.loads((run / "best.json").read_text()) == {
        "step": best,
        "measure": measure,
        "value": values[best],
        "data": str(judged[stage].data.val),
    }
    assert f"step {best}  {measure} {values[best]:.4f}: the best" in (run / "train.log").read_text()


@pytest.mark.parametrize("stage", ["pretrain", pytest.param("finetune", marks=pytest.mark.slow)])
def test_training_takes_the_same_steps_whether_it_is_judged_or_not(
    moving_shapes, judged, tmp_path, stage
):
    config = noisy(stage, moving_shapes, tmp_path / "run", checkpoint_every_steps=4)
    COMMANDS[stage](config)
    run = judged[stage].output_dir
    assert losses_by_step(tmp_path / "run") == losses_by_step(run)
    for step in (4, 5):
        here, there = load_file(weights_file(config.output_dir, step)), weights_file(run, step)
        assert all(torch.equal(here[name], weight) for name, weight in load_file(there).items())


def test_a_judged_run_has_a_curve_of_its_loss(judged):
    run = judged["pretrain"].output_dir
    _, draw = RUN_FIGURES["loss"]
    assert len(draw(run).axes[0].lines[0].get_xdata()) == 5


@pytest.mark.parametrize("step", [2, 4])
def test_a_finetuned_step_is_judged_as_evaluate_judges_its_weights(judged, tmp_path, step):
    config = judged["finetune"]
    model = config.model.model_copy(update={"init": weights_file(config.output_dir, step)})
    verdict = evaluate(config.model_copy(update={"model": model, "output_dir": tmp_path / "new"}))
    assert verdict.top1 == judged_by_step(config.output_dir, "val/top1")[step]
    assert verdict.top5 == judged_by_step(config.output_dir, "val/top5")[step]


def mean_loss_clip_by_clip(config, weights):
    """The loss on all clips of `data.val`, one by one."""
    network = build_autoencoder(config.model).eval()
    load_pretrained(network, weights)
    losses = []
    with ClipLoader(config, "evaluate", Share(1), needs_motion=True) as loader:
        for batch in loader:
            motion = batch.motion, batch.motion_valid
            mask = make_mask(*motion, batch.seed, network.grid, config.mask, batch.motion_known)
            with torch.no_grad():
                losses.append(float(network(batch.video, mask, int(mask.sum()))))
    return math.fsum(losses) / len(losses), len(losses)


def judge(config, weights):
    """What the judge of pretraining finds for a file, what it says, and how often it moves."""
    said, moves = [], []
    watcher = Watcher(said.append, lambda: moves.append(1))
    world = World(0, 1, torch.device("cpu"))
    numbers = reconstruction_loss(config, world, load_file(weights), watcher)
    return numbers["val/loss"], said, len(moves)


def test_a_pretrained_step_is_judged_by_the_mean_loss_of_all_clips(judged):
    config = judged["pretrain"]
    values = judged_by_step(config.output_dir, "val/loss")
    weights = weights_file(config.output_dir, 2)
    by_hand, num_clips = mean_loss_clip_by_clip(config, weights)
    assert num_clips == 24 * 2 and num_clips % config.evaluation.batch_size
    assert values[2] == pytest.approx(by_hand, rel=1e-5)
    value, said, moves = judge(config, weights)
    assert value == values[2] != values[4]  # the same clips and masks every time
    assert said == [f"loss {value:.4f} on 48 clips of {config.data.val}"]
    assert moves == math.ceil(48 / 5)


@pytest.fixture(scope="module")
def with_a_broken_video(moving_shapes, tmp_path_factory):
    """The lines of a manifest whose last video is empty; and its folder."""
    folder = tmp_path_factory.mktemp("broken")
    lines = moving_shapes.read_text().splitlines()
    lines = [lines[0], *lines[1:8], lines[-1]]
    for line in lines[1:]:
        target = folder / line.split(",")[0]
        target.parent.mkdir(exist_ok=True)
        shutil.copy(moving_shapes.parent / line.split(",")[0], target)
    target.write_bytes(b"")
    return folder, lines


def test_a_video_that_cannot_be_read_does_not_count(judged, with_a_broken_video):
    folder, lines = with_a_broken_video
    weights = weights_file(judged["pretrain"].output_dir, 2)

    def judged_on(name, rows):
        (folder / name).write_text("\n".join([lines[0], *rows]) + "\n")
        config = judged["pretrain"]
        data = config.data.model_copy(update={"val": folder / name})
        return judge(config.model_copy(update={"data": data}), weights)

    whole, said, _ = judged_on("whole.csv", lines[1:-1])
    assert "on 14 clips" in said[0]
    with_broken, said, _ = judged_on("all.csv", lines[1:])
    assert "on 14 clips" in said[0]
    assert with_broken == pytest.approx(whole, rel=1e-6)
    nothing, said, _ = judged_on("broken.csv", lines[-1:])
    assert nothing == math.inf and "on 0 clips" in said[0]


def fake_judge(stage, values, seen=None):
    """Finds the value of each step in a table; the step is that of the newest checkpoint."""

    def judge(config, _world, weights, _watcher):
        step = complete_steps(config.output_dir)[-1]
        if seen is not None:
            seen[step] = {name: tensor.clone() for name, tensor in weights.items()}
        value = values[step]
        if isinstance(value, BaseException):
            raise value
        return {MEASURES[stage]: value}

    return judge


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_what_is_judged_is_what_is_saved_in_float32(
    moving_shapes, tmp_path, monkeypatch, ema_decay
):
    seen = {}
    monkeypatch.setattr(JUDGES["pretrain"], fake_judge("pretrain", {1: 0.2, 2: 0.1}, seen))
    settings = {"max_steps": 2, "evaluate_every_steps": 1, "precision": "bf16"}
    pretrain(config_for(moving_shapes, tmp_path / "run", ema_decay=ema_decay, **settings))
    for step, weights in seen.items():
        file = weights_file(tmp_path / "run", step)
        saved = load_file(average_beside(file) if ema_decay else file)
        assert saved.keys() == weights.keys()
        assert all(torch.equal(saved[name], weight) for name, weight in weights.items())
        assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert list(seen) == [1, 2]


@pytest.mark.parametrize("stage", ["pretrain", pytest.param("finetune", marks=pytest.mark.slow)])
def test_a_killed_and_resumed_run_keeps_its_early_best_and_every_nth_step(
    moving_shapes, tmp_path, monkeypatch, stage
):
    run, sign = tmp_path / "run", 1 if stage == "pretrain" else -1
    values = {1: 0.5, 2: 0.1, 3: 0.4, 4: 0.3, 5: 0.1, 6: 0.2, 7: 0.2}
    values = {step: sign * value for step, value in values.items()}
    settings = {"max_steps": 7, "keep_checkpoints": 1, "keep_every_steps": 3}
    config = noisy(stage, moving_shapes, run, evaluate_every_steps=1, **settings)

    def start():
        monkeypatch.setattr(JUDGES[stage], fake_judge(stage, values))
        COMMANDS[stage](config)

    stopped_before(4, monkeypatch, start)
    assert complete_steps(run) == weights_kept(run) == [2, 3, 4]
    partial_folder(run, 5).mkdir()
    start()
    assert "resumed behind step 4" in (run / "train.log").read_text()
    assert complete_steps(run) == weights_kept(run) == [2, 3, 6, 7]
    assert best_of(run) == Best(2, MEASURES[stage], values[2], str(moving_shapes))
    assert judged_by_step(run, MEASURES[stage]) == values
    assert not partial_folder(run, 5).exists()
    assert load_file(run / "checkpoints" / "step-2" / "weights.safetensors")


def run_with(moving_shapes, folder, monkeypatch, values):
    """A pretraining run of as many steps as there are judgements."""
    monkeypatch.setattr(JUDGES["pretrain"], fake_judge("pretrain", values))
    settings = {"max_steps": len(values), "keep_checkpoints": 1, "evaluate_every_steps": 1}
    pretrain(config_for(moving_shapes, folder / "run", **settings))
    return folder / "run"


@pytest.mark.parametrize("first", [math.nan, math.inf])
def test_a_judgement_that_is_no_number_is_never_held_to_be_the_best(
    moving_shapes, tmp_path, monkeypatch, first
):
    run = run_with(moving_shapes, tmp_path, monkeypatch, {1: first, 2: 0.4})
    assert best_of(run) == Best(2, "val/loss", 0.4, str(moving_shapes))


def test_a_judgement_that_was_cut_off_is_made_up_for(moving_shapes, tmp_path, monkeypatch):
    cut_off = {1: 0.5, 2: KeyboardInterrupt(), 3: 0.4}
    with pytest.raises(KeyboardInterrupt):
        run_with(moving_shapes, tmp_path, monkeypatch, cut_off)
    run = run_with(moving_shapes, tmp_path, monkeypatch, {1: 0.5, 2: 0.3, 3: 0.4})
    assert judged_by_step(run, "val/loss") == {1: 0.5, 2: 0.3, 3: 0.4}
    assert best_of(run) == Best(2, "val/loss", 0.3, str(moving_shapes))


def test_a_run_that_could_not_be_judged_is_refused_before_its_first_step(moving_shapes, tmp_path):
    config = config_for(moving_shapes, tmp_path / "run", max_steps=3, evaluate_every_steps=2)
    data = config.data.model_copy(update={"val": None})
    with pytest.raises(UserError, match=r"there is nothing to judge on"):
        pretrain(config.model_copy(update={"data": data}))
    assert not complete_steps(tmp_path / "run")


def test_masks_that_follow_no_motion_are_judged_without_any(judged):
    config = judged["pretrain"]
    mask = config.mask.model_copy(update={"strategy": "random"})
    motion = config.motion.model_copy(update={"source": "store"})  # there is none
    config = config.model_copy(update={"mask": mask, "motion": motion})
    value, _, _ = judge(config, weights_file(config.output_dir, 2))
    assert math.isfinite(value)


@pytest.mark.parametrize(
    ("steps", "settings", "best", "kept"),
    [
        ([2, 4, 6, 8], {"keep_checkpoints": 2}, None, [6, 8]),
        ([2, 4, 6, 8], {"keep_checkpoints": 1}, None, [8]),
        ([2, 4, 6, 8], {"keep_checkpoints": 9}, None, [2, 4, 6, 8]),
        ([2, 4, 6, 8], {"keep_checkpoints": 1}, 4, [4, 8]),
        ([2, 4, 6, 8], {"keep_checkpoints": 1}, 8, [8]),
        ([2, 4, 6, 8], {"keep_checkpoints": 1}, 5, [8]),  # its checkpoint is gone
        ([2, 4, 6, 8, 9], {"keep_checkpoints": 1, "keep_every_steps": 4}, None, [4, 8, 9]),
        ([2, 4, 6, 8, 9], {"keep_checkpoints": 1, "keep_every_steps": 4}, 2, [2, 4, 8, 9]),
        ([9, 10, 100], {"keep_checkpoints": 1}, None, [100]),  # by number, not by name
        ([3], {"keep_checkpoints": 1, "keep_every_steps": 4}, None, [3]),
        ([], {"keep_checkpoints": 1}, None, []),
    ],
)
def test_old_checkpoints_go_with_their_weights_but_for_those_that_are_kept(
    tmp_path, steps, settings, best, kept
):
    (tmp_path / "weights").mkdir()
    (tmp_path / "checkpoints").mkdir()
    names = [f"step-{step}{suffix}" for step in [1, *steps] for suffix in ("", "-ema")]
    for name in names:  # step 1's are left of a checkpoint that was removed before
        (tmp_path / "weights" / f"{name}.safetensors").touch()
    for step in steps:
        (tmp_path / "checkpoints" / f"step-{step}").mkdir()
    for step in (1, 10):
        partial_folder(tmp_path, step).mkdir()
        (partial_folder(tmp_path, step) / "weights.safetensors").touch()
    others = [tmp_path / "weights" / "mine.safetensors", tmp_path / "checkpoints" / "notes"]
    for other in others:
        other.touch()
    if best:
        write_best(tmp_path, Best(best, "val/loss", 0.5))

    prune(tmp_path, TrainingConfig(**settings))
    assert complete_steps(tmp_path) == kept
    found = {path.stem for path in (tmp_path / "weights").glob("step-*")}
    assert found == {f"step-{step}{suffix}" for step in kept for suffix in ("", "-ema")}
    assert not list((tmp_path / "checkpoints").glob("*.partial"))
    assert all(other.exists() for other in others)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": 2}', "\x00", '{"step": "2", "x": 1}'])
def test_a_damaged_best_is_none(tmp_path, text):
    (tmp_path / "checkpoints" / "step-2").mkdir(parents=True)
    (tmp_path / "best.json").write_text(text)
    assert best_of(tmp_path) is None
