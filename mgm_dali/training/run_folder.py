"""A run folder belongs to one configuration, and to one process group at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mgm_dali.config import RunConfig, load_config
from mgm_dali.errors import UserError
from mgm_dali.files import require_file_if_any
from mgm_dali.runs.checkpoint_files import complete_steps
from mgm_dali.training.world import World

__all__ = ["run_folder"]

MAY_CHANGE = (
    *("training.checkpoint_every_steps", "training.keep_checkpoints", "training.keep_every_steps"),
    *("training.evaluate_every_steps", "training.pictures_every_steps", "training.wandb_project"),
    *("training.log_every_steps", "training.max_minutes", "training.max_bad_steps"),
    *("training.grace_seconds", "training.hang_seconds", "training.changes_on_resume"),
    *("training.global_batch", "training.batch_size", "training.accumulate_steps"),
    *("data.num_workers", "data.prefetch_batches", "data.max_skipped", "data.val", "evaluation"),
    *("probe", "output_dir", "mask.compile", "training.checkpoint_activations"),
)
"""What a resumed run may have otherwise: it goes on with the same clips, masks and rates. The
global batch must stay, which its checkpoint tells. How that is split among ranks and forward passes
changes the rounding of sums, and while finetuning also what stochastic depth, dropout and mixup
draw; it is accepted all the same, so that a run can move to other GPUs."""


@contextmanager
def run_folder(run: Path, config: RunConfig, world: World) -> Iterator[list[str]]:
    """Holds the folder for as long as the block runs.

    Gives lines on what the resumed run has otherwise than before. Raises `UserError`, on all ranks,
    if another process trains there, or if the checkpoints there belong to a run whose numbers would
    be others and `training.changes_on_resume` does not accept that.
    """
    if not world.is_first:
        world.require(None)
        yield []
        return
    said: list[str] = []
    try:
        run.mkdir(parents=True, exist_ok=True)
        require_file_if_any(run / "lock")
        lock = (run / "lock").open("a")
    except OSError as error:
        world.require(f"{run}: cannot be written to ({error.strerror}); use another output_dir")
        raise AssertionError from error
    with lock:
        problem = _locked(run, lock)
        if problem is None:
            problem, said = _compare(run, config)
        world.require(problem)
        yield said


def _locked(run: Path, lock: Any) -> str | None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go when we end
    except BlockingIOError:
        return f"{run}: another process is training there; wait for it, or use another output_dir"
    return None


def _compare(run: Path, config: RunConfig) -> tuple[str | None, list[str]]:
    """Why the run there must not go on with this configuration; else what to say about it."""
    path = run / "config.yaml"
    if not path.exists() or not complete_steps(run):
        return None, []  # nothing is there that could be mixed up
    try:
        before = load_config(path).model_dump(mode="json")
    except UserError as error:
        return f"{error}; it says what the checkpoints there were made with", []
    changes = sorted(_differences(before, config.model_dump(mode="json")))
    fixed = [change for change in changes if not _may_change(change.partition(":")[0])]
    if fixed and config.training.changes_on_resume == "refuse":
        return (
            f"{run}: holds a run with another configuration ({'; '.join(fixed)}); use another "
            "output_dir, the same configuration to resume it, or "
            "training.changes_on_resume=accept to go on with other numbers"
        ), []
    return None, [
        f"changed    {change}{', as training.changes_on_resume accepts' * (change in fixed)}"
        for change in changes
    ]


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in before.keys() | now.keys():
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new and old != "auto":  # what was left open says nothing of the numbers
            yield f"{prefix}{key}: {old} -> {new}"
