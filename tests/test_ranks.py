"""Two ranks, as the launchers start them: the same clips, the same first loss."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mgm_dali.config import load_config
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.pretrain import pretrain

SETTINGS = (
    *("device=cpu", "data.num_workers=0", "clip.stride_frames=2", "augment.flip=false"),
    *("model.name=vit_micro", "model.num_frames=8", "model.image_size=64"),
    *("training.max_steps=3", "training.precision=fp32", "training.base_lr=0.05"),
    *("training.checkpoint_every_steps=3", "training.log_every_steps=1"),
)
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "mgm_dali"],
    "deepspeed": [
        "-m",
        "deepspeed.launcher.runner",
        "--num_accelerators=2",
        "--module",
        "mgm_dali",
    ],
}


def run(launcher, config, *overrides):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": str(Path.cwd()),
    }
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)  # other tests of this process have joined a world of one
    command = [sys.executable, *LAUNCHERS[launcher], "pretrain", str(config), *overrides]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def alone(moving_shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    (folder / "empty.yaml").write_text("")
    output = folder / "run"
    settings = (*SETTINGS, f"data.train={moving_shapes}", f"output_dir={output}")
    pretrain(load_config(folder / "empty.yaml", [*settings, "training.batch_size=8"]))
    return output


@pytest.mark.parametrize(
    "launcher", ["torchrun", pytest.param("deepspeed", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("zero_stage", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_ranks_take_the_same_first_step_as_one(
    alone, moving_shapes, tmp_path, launcher, zero_stage
):
    (tmp_path / "empty.yaml").write_text("")
    output = tmp_path / "run"
    done = run(
        launcher,
        tmp_path / "empty.yaml",
        *(*SETTINGS, f"data.train={moving_shapes}", f"output_dir={output}"),
        *("training.batch_size=4", f"training.zero_stage={zero_stage}"),
    )
    assert done.returncode == 0, done.stderr
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
    done = run(
        "torchrun",
        tmp_path / "empty.yaml",
        *(*SETTINGS, f"data.train={manifest}", f"output_dir={tmp_path / 'run'}"),
        *("training.batch_size=6", "training.max_steps=20", "data.max_skipped=0"),
    )
    assert done.returncode == 1
    assert done.stderr.count("clips could not be read") == 1
    assert done.stderr.count("another rank cannot go on") == 1
    assert "Connection closed by peer" not in done.stderr
    assert first in (tmp_path / "run" / "skipped.csv").read_text()
