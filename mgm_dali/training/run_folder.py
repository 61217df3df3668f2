"""A run folder belongs to one configuration, and to one process group at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mgm_dali.config import RunConfig, dump_config, load_config
from mgm_dali.files import write_whole
from mgm_dali.training.checkpoint import complete_steps
from mgm_dali.training.engine import World

__all__ = ["run_folder"]

MAY_CHANGE = (
    *("training.checkpoint_every_steps", "training.keep_checkpoints", "training.log_every_steps"),
    *("data.num_workers", "data.prefetch_batches", "data.max_skipped", "data.val", "evaluation"),
    *("output_dir", "mask.compile", "training.checkpoint_activations"),
)
"""What a resumed run may have otherwise: it changes none of the numbers that come."""


@contextmanager
def run_folder(run: Path, config: RunConfig, world: World) -> Iterator[None]:
    """Holds the folder for as long as the block runs, and writes RUN/config.yaml.

    Raises `UserError`, on all ranks, if another process trains there, or if the checkpoints there
    belong to a run whose numbers would be others.
    """
    if not world.is_first:
        world.require(None)
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with (run / "lock").open("a") as lock:
        world.require(_locked(run, lock) or _other_run(run, config))
        write_whole(run / "config.yaml", dump_config(config))
        yield


def _locked(run: Path, lock: Any) -> str | None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go when we end
    except BlockingIOError:
        return f"{run}: another process is training there; wait for it, or use another output_dir"
    return None


def _other_run(run: Path, config: RunConfig) -> str | None:
    path = run / "config.yaml"
    if not path.exists() or not complete_steps(run):
        return None  # nothing is there that could be mixed up
    before = load_config(path).model_dump(mode="json")
    changes = _differences(before, config.model_dump(mode="json"))
    fixed = sorted(change for change in changes if not change.startswith(MAY_CHANGE))
    if not fixed:
        return None
    return (
        f"{run}: holds a run with another configuration ({'; '.join(fixed)}); use another "
        "output_dir, or the same configuration to resume it"
    )


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in before.keys() | now.keys():
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new and old != "auto":  # what was left open says nothing of the numbers
            yield f"{prefix}{key}: {old} -> {new}"
