"""Run folders as runs leave them, without a run."""

import subprocess
import sys

from mgm_dali.runs.rows import read_runs
from mgm_dali.runs.status import RunStatus, write_status
from mgm_dali.runs_command import list_runs

__all__ = ["DEEP", "METRICS_LINE", "hold_lock", "made_run", "printed", "row_of", "status_of"]

DEEP = "[" * 30_000
METRICS_LINE = (
    '{"step": 7, "epoch": 0.5, "loss": 0.25, "clips_per_second": 9.5, "data_wait_share": 0.5}\n'
)
_HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
sys.stdin.read()
"""


def status_of(state="training", **values):
    return RunStatus(stage="pretrain", state=state, step=20, steps=100, **values)


def made_run(folder, status=None, metrics=None, checkpoints=()):
    """A run folder as a run leaves it."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    if status:
        write_status(folder, status)
    if metrics is not None:
        (folder / "metrics.jsonl").write_text(metrics)
    for step in checkpoints:
        (folder / "checkpoints" / f"step-{step}").mkdir(parents=True)
    return folder


def row_of(run):
    (row,) = read_runs([run])
    return row


def printed(folder, capsys, **options):
    list_runs(folder, **options)
    return capsys.readouterr().out


def hold_lock(run):
    """Another process that holds the lock of a run, as one that trains there does."""
    command = [sys.executable, "-S", "-c", _HOLDER, str(run / "lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process
