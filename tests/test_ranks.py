"""Two ranks, as the launchers start them: the same clips, the same first loss."""

import json
import shutil
import sys

import pytest
from made_people import write_people
from training_runs import LAUNCHERS, SETTINGS, launched

from mgm_dali.config import load_config
from mgm_dali.training.finetune import finetune
from mgm_dali.training.metrics import read_metrics, read_steps
from mgm_dali.training.pretrain import pretrain

SETTINGS_HERE = (*SETTINGS, "training.max_steps=3", "training.checkpoint_every_steps=3")
MODULE = {"torchrun": ["-m", "mgm_dali"], "deepspeed": ["--module", "mgm_dali"]}


def run(launcher, config, *overrides):
    return launched([*LAUNCHERS[launcher], *MODULE[launcher], "pretrain", config, *overrides])


def run_on_two_machines(command, *overrides):
    """Two ranks with files of their own: `$RANK` in an override is the number of each."""
    quoted = " ".join(f'"{override}"' for override in overrides)
    line = f'exec "$0" -m mgm_dali {command} {quoted}'
    return launched([*LAUNCHERS["torchrun"], "--no-python", "sh", "-c", line, sys.executable])


@pytest.fixture(scope="module")
def alone(moving_shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    (folder / "empty.yaml").write_text("")
    output = folder / "run"
    settings = (*SETTINGS_HERE, f"data.train={moving_shapes}", f"output_dir={output}")
    pretrain(load_config(folder / "empty.yaml", [*settings, "training.batch_size=8"]))
    return output


@pytest.mark.parametrize(
    "launcher", ["torchrun", pytest.param("deepspeed", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "zero_stage", [1, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 2, 3))]
)
def test_two_ranks_take_the_same_first_step_as_one(
    alone, moving_shapes, tmp_path, launcher, zero_stage
):
    (tmp_path / "empty.yaml").write_text("")
    output = tmp_path / "run"
    status, output_text = run(
        launcher,
        tmp_path / "empty.yaml",
        *(*SETTINGS_HERE, f"data.train={moving_shapes}", f"output_dir={output}"),
        *("training.batch_size=4", f"training.zero_stage={zero_stage}"),
    )
    assert status == 0, output_text
    together = [m["loss"] for m in read_metrics(output / "metrics.jsonl")]
    expected = [m["loss"] for m in read_metrics(alone / "metrics.jsonl")]
    assert together[0] == pytest.approx(expected[0], abs=1e-5)
    assert together == pytest.approx(expected, abs=1e-3)
    assert "2 rank(s)" in (output / "train.log").read_text()


@pytest.mark.slow
def test_ranks_stop_together_when_one_of_them_cannot_go_on(moving_shapes, tmp_path):
    shutil.copytree(moving_shapes.parent, tmp_path / "set")
    manifest = tmp_path / "set" / "videos.csv"
    first = manifest.read_text().splitlines()[1].split(",")[0]
    (manifest.parent / first).write_bytes(b"")
    (tmp_path / "empty.yaml").write_text("")
    status, output_text = run(
        "torchrun",
        tmp_path / "empty.yaml",
        *(*SETTINGS_HERE, f"data.train={manifest}", f"output_dir={tmp_path / 'run'}"),
        *("training.batch_size=6", "training.max_steps=20", "data.max_skipped=0"),
    )
    assert status == 1
    assert output_text.count("could not be read") == 1
    assert output_text.count("another rank cannot go on") <= 1
    assert "Connection closed by peer" not in output_text
    assert first in (tmp_path / "run" / "skipped.csv").read_text()


@pytest.mark.slow
def test_ranks_with_other_lists_of_videos_are_refused(moving_shapes, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    for rank in range(2):
        shutil.copytree(moving_shapes.parent, tmp_path / f"set-{rank}")
    manifest = tmp_path / "set-1" / "videos.csv"
    head, *rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([head, *reversed(rows)]) + "\n")
    status, output = run_on_two_machines(
        f"pretrain {tmp_path}/empty.yaml",
        *(*SETTINGS_HERE, f"output_dir={tmp_path}/run", "training.batch_size=4"),
        f"data.train={tmp_path}/set-$RANK/videos.csv",
    )
    assert status == 1
    assert output.count("is another than on the machine of rank 0; give all machines the same") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_only_the_first_machine_needs_weights_and_run_folder(moving_shapes, alone, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    shutil.copytree(alone / "weights", tmp_path / "init-0")
    numbers = (*SETTINGS_HERE, f"data.train={moving_shapes}", f"data.val={moving_shapes}")
    status, output = run_on_two_machines(
        f"finetune {tmp_path}/empty.yaml",
        *(*numbers, "training.batch_size=4", f"model.init={tmp_path}/init-$RANK"),
        f"output_dir={tmp_path}/run-$RANK",
    )
    assert status == 0, output
    verdict = (tmp_path / "run-0" / "evaluation.json").read_text()
    status, output = run_on_two_machines(
        f"evaluate {tmp_path}/empty.yaml", *numbers, f"output_dir={tmp_path}/run-$RANK"
    )
    assert status == 0, output
    again = (tmp_path / "run-0" / "evaluation.json").read_text()
    assert json.loads(again)["confusion"] == json.loads(verdict)["confusion"]
    assert not (tmp_path / "run-1" / "weights").exists()


@pytest.mark.slow
def test_two_ranks_learn_to_detect_as_one_does(tmp_path):
    made = write_people(tmp_path / "people", 4, 0, lonely=2)
    (tmp_path / "empty.yaml").write_text("")
    settings = (
        *SETTINGS_HERE,
        *(f"data.train={made.manifest}", f"data.val={made.manifest}", "augment.crop=whole"),
        *(f"detection.actions={made.actions}", f"detection.train={made.people}"),
        *(f"detection.val={made.people}", "evaluation.num_segments=1", "clip.stride_frames=1"),
    )
    finetune(
        load_config(
            tmp_path / "empty.yaml",
            [*settings, f"output_dir={tmp_path / 'alone'}", "training.batch_size=8"],
        )
    )
    overrides = (*settings, f"output_dir={tmp_path / 'both'}", "training.batch_size=4")
    status, output_text = launched(
        [
            *(*LAUNCHERS["torchrun"], *MODULE["torchrun"], "finetune"),
            *(tmp_path / "empty.yaml", *overrides),
        ]
    )
    assert status == 0, output_text
    alone, both = (
        [m["loss"] for m in read_steps(tmp_path / run / "metrics.jsonl")]
        for run in ("alone", "both")
    )
    assert both == pytest.approx(alone, abs=1e-3)
    found, expected = (
        json.loads((tmp_path / run / "evaluation.json").read_text()) for run in ("both", "alone")
    )
    assert found["num_people"] == expected["num_people"] == 18
    assert found["average_precisions"] == pytest.approx(expected["average_precisions"], abs=0.1)
