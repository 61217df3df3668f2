"""Steps that went wrong: left out, listed with their clips, and the end of a run if they go on."""

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import config_for, losses_of

from mgm_dali.clips.draw import training_decoding
from mgm_dali.clips.order import first_sample, shuffled_video
from mgm_dali.errors import UserError
from mgm_dali.runs.checkpoint_files import complete_steps, newest_whole
from mgm_dali.training.bad_steps import FEWEST, WINDOW, BadSteps, Step
from mgm_dali.training.engine import Engine
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.pretrain import pretrain
from mgm_dali.video.manifest import Video, read_manifest

NAN = math.nan


def step_of(number, loss, grad_norm=1.0, rows=((0, 2), (1, 1))):
    passes = [torch.tensor(clips) for clips in rows]
    return Step(number, loss, loss + 0.5, grad_norm, passes, [clips + 100 for clips in passes])


VIDEOS = [Video(Path(f"{row}.mp4"), None, 40, 25.0, 64, 48, "h264", 1.6) for row in range(3)]
"""As much of a manifest as is looked at, of videos that nobody reads."""


def looking(run, most_in_a_row=3, rank=0):
    return BadSteps(run, rank, most_in_a_row, VIDEOS)


def listed(run):
    return [json.loads(line) for line in (run / "bad_steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("loss", "grad_norm", "is_bad"),
    [
        (0.5, 1.0, False),
        (0.0, 0.0, False),
        (-1e38, 1e38, False),
        (NAN, 1.0, True),
        (math.inf, 1.0, True),
        (-math.inf, 1.0, True),
        (0.5, NAN, True),
        (0.5, math.inf, True),
    ],
)
def test_a_step_is_bad_if_its_loss_or_its_gradient_is_no_number(tmp_path, loss, grad_norm, is_bad):
    step = step_of(7, loss, grad_norm)
    assert step.is_bad == is_bad
    assert looking(tmp_path).look(step) is None
    assert (tmp_path / "bad_steps.jsonl").exists() == is_bad


def test_a_bad_step_is_listed_with_every_clip_of_its_forward_passes(tmp_path):
    looking(tmp_path, rank=5).look(step_of(7, NAN, math.inf))
    clips = [(0, 100, "0.mp4"), (2, 102, "2.mp4"), (1, 101, "1.mp4"), (1, 101, "1.mp4")]
    assert listed(tmp_path) == [
        {
            "step": 7,
            "rank": 5,
            "why": "left out: its gradient is no number",
            "loss": "nan",
            "grad_norm": "inf",
            "clips": [dict(zip(("row", "seed", "path"), clip, strict=True)) for clip in clips],
        }
    ]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_so_many_bad_steps_in_a_row_end_the_run_with_a_reason_and_a_repair(tmp_path, most):
    bad = looking(tmp_path, most)
    for number in range(1, most):
        bad.look(step_of(number, NAN))
    with pytest.raises(UserError) as stopped:
        bad.look(step_of(most, NAN, math.inf))
    said = str(stopped.value)
    assert said.startswith(f"step {most}: the loss is nan, the gradient's norm inf; {most} steps")
    assert "\n" not in said and str(tmp_path / "bad_steps.jsonl") in said
    for word in ("training.max_bad_steps", "checkpoints are intact", "training.base_lr"):
        assert word in said
    assert [entry["step"] for entry in listed(tmp_path)] == list(range(1, most + 1))


def test_a_good_step_begins_the_count_anew(tmp_path):
    bad = looking(tmp_path, most_in_a_row=2)
    for number in range(1, 20, 2):
        bad.look(step_of(number, NAN))
        bad.look(step_of(number + 1, 0.5))
    assert [entry["step"] for entry in listed(tmp_path)] == list(range(1, 20, 2))


def threshold(losses):
    """What a loss must be above, in numpy."""
    mean = np.mean(losses)
    return float(mean + max(6 * np.std(losses), 0.2 * abs(mean)))


@pytest.mark.parametrize("spread", [0.0, 0.001, 0.1, 1.0])
@pytest.mark.parametrize("mean", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("count", [FEWEST, 57, WINDOW, WINDOW + 40])
def test_a_spike_lies_above_what_numpy_finds_for_the_steps_before(tmp_path, count, mean, spread):
    losses = np.random.default_rng(count).normal(mean, spread, count)
    losses = losses.clip(mean - 2 * spread, mean + 2 * spread).tolist()
    limit, scale = threshold(losses[-WINDOW:]), max(abs(mean), spread, 1.0)
    for above in (False, True):
        run = tmp_path / str(above)
        run.mkdir()
        bad = looking(run)
        assert not any(bad.look(step_of(n, loss)) for n, loss in enumerate(losses))
        found = bad.look(step_of(900, limit + (1e-9 if above else -1e-9) * scale))
        assert bool(found) == above == (run / "bad_steps.jsonl").exists()
        if above:
            assert found.startswith("step 900: loss") and "is a spike" in found
            assert [entry["why"] for entry in listed(run)] == ["a spike of the loss"]


def test_of_few_steps_none_is_called_a_spike(tmp_path):
    bad = looking(tmp_path)
    for number in range(FEWEST - 1):
        assert bad.look(step_of(number, 0.5)) is None
    assert bad.look(step_of(FEWEST, 1e9)) is None


def test_a_spike_ends_no_run_and_bad_steps_are_not_compared_with(tmp_path):
    bad = looking(tmp_path, most_in_a_row=2)
    for number in range(FEWEST):
        bad.look(step_of(number, 0.5))
    bad.look(step_of(30, math.inf))
    assert "have 0.5000 on average" in bad.look(step_of(31, 9.0))
    bad.look(step_of(32, math.inf))
    assert [entry["step"] for entry in listed(tmp_path)] == [30, 31, 32]


def test_a_table_that_cannot_be_written_is_said_with_its_line_and_the_run_goes_on(tmp_path, caplog):
    (tmp_path / "bad_steps.jsonl").mkdir()
    bad = looking(tmp_path, most_in_a_row=2)
    assert bad.look(step_of(1, NAN)) is None
    assert "bad_steps.jsonl cannot be written (" in caplog.text and "'2.mp4'" in caplog.text
    with pytest.raises(UserError, match="2 steps in a row"):
        bad.look(step_of(2, NAN))


def test_ranks_that_write_at_the_same_time_do_not_mix_their_lines(tmp_path):
    times, ranks = 20, 4
    many = torch.arange(3).repeat(500)  # a line of some tens of kilobytes: no buffer holds it
    start = threading.Barrier(ranks)

    def write(rank):
        bad = looking(tmp_path, times + 1, rank)
        start.wait()
        for number in range(times):
            bad.look(Step(number, NAN, NAN, 1.0, [many], [many]))

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted((entry["rank"], entry["step"]) for entry in listed(tmp_path))
    assert found == [(rank, number) for rank in range(ranks) for number in range(times)]
    assert all(len(entry["clips"]) == 1500 for entry in listed(tmp_path))


def spoil(monkeypatch, method, bad_steps, accumulated=1):
    """Has the loss or its gradient be no number in these steps, counted from 1."""
    original, calls = getattr(Engine, method), []

    def spoilt(self, *inputs):
        step = len(calls) // accumulated + 1
        calls.append(1)
        factor = NAN if step in bad_steps else 1.0
        if method == "backward":
            return original(self, inputs[0] * factor)
        return original(self, *inputs) * factor

    monkeypatch.setattr(Engine, method, spoilt)


def clips_of(config, step):
    """(row, seed, path) of the clips of an optimiser step, as the order gives them to rank 0."""
    manifest, training = read_manifest(config.data.train), config.training
    first = (step - 1) * training.accumulate_steps
    clips = []
    for forward in range(first, first + training.accumulate_steps):
        sample = first_sample(forward, training.batch_size, rank=0, world_size=1)
        for place in range(training.batch_size):
            epoch, row = shuffled_video(sample + place, len(manifest), config.seed)
            video = manifest[row]
            cut = training_decoding(config, video, row, row, epoch).cuts[0]
            clips.append((row, cut.seed, str(video.path)))
    return clips


@pytest.mark.parametrize("method", ["__call__", "backward"], ids=["loss", "gradient"])
def test_a_run_without_numbers_stops_and_lists_what_the_order_gives(
    moving_shapes, tmp_path, monkeypatch, method
):
    run = tmp_path / "run"
    settings = {"batch_size": 4, "accumulate_steps": 2, "max_steps": 9}
    config = config_for(moving_shapes, run, max_bad_steps=3, log_every_steps=10, **settings)
    spoil(monkeypatch, method, range(3, 100), accumulated=2)
    with pytest.raises(UserError, match=r"^step 5: .*; 3 steps in a row"):
        pretrain(config)

    assert [entry["step"] for entry in listed(run)] == [3, 4, 5]
    for entry in listed(run):
        found = [(clip["row"], clip["seed"], clip["path"]) for clip in entry["clips"]]
        assert found == clips_of(config, entry["step"])
    assert complete_steps(run) == [2, 4]
    passed_over = []
    assert newest_whole(run, passed_over.append).step == 4 and not passed_over
    before, behind = (load_file(run / "weights" / f"step-{step}.safetensors") for step in (2, 4))
    for name, weight in before.items():
        assert weight.isfinite().all() and torch.equal(weight, behind[name])
    assert json.loads((run / "status.json").read_text())["state"] == "failed"


def test_fewer_bad_steps_than_that_are_counted_and_the_run_goes_on(
    moving_shapes, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    config = config_for(moving_shapes, run, max_bad_steps=3, max_steps=8)
    spoil(monkeypatch, "__call__", (3, 4, 6, 7))
    weights = load_file(pretrain(config))
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    assert [entry["step"] for entry in listed(run)] == [3, 4, 6, 7]
    metrics = read_metrics(run / "metrics.jsonl")
    assert [line["skipped_steps"] for line in metrics] == [0, 0, 1, 2, 2, 3, 4, 4]
    assert [math.isfinite(loss) for loss in losses_of(run)] == [
        step not in (3, 4, 6, 7) for step in range(1, 9)
    ]
    log = (run / "train.log").read_text()
    assert "steps skipped 4" in log and json.loads((run / "status.json").read_text())["step"] == 8
