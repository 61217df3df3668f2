"""Checkpoints that are complete or invisible.

    RUN/checkpoints/step-120/            complete: the folder got its name last
        state/                           DeepSpeed's files, one set a rank
        position.json                    step, stage, ranks, global batch, list of videos
        sha256.json                      checksum of every file above
    RUN/checkpoints/step-140.partial/    what a killed run leaves; removed by the next one
    RUN/weights/step-120.safetensors     float32 weights that anybody can load

A checkpoint is written beside its name, synced, and renamed; older ones go only after that. A
flipped bit is found before DeepSpeed reads a file, and the checkpoint before it is taken instead.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models.saving import save_weights
from mgm_dali.training.engine import Engine

__all__ = ["Position", "checksum", "complete_steps", "find_checkpoint", "save_checkpoint"]

PARTIAL = ".partial"


@dataclass(frozen=True)
class Position:
    """Where a run stands; with the config it says everything about what comes next."""

    step: int
    """Optimiser steps done."""
    stage: str
    world_size: int
    global_batch: int
    manifest: str
    """Checksum of the list of videos: another list is another order."""


def save_checkpoint(engine: Engine, config: RunConfig, position: Position) -> None:
    """Writes checkpoint and weights of this step. All ranks must call it.

    Raises `UserError`, on all ranks, if the weights are no longer numbers or the disk is full;
    what was complete before stays.
    """
    run, world = config.output_dir, engine.world
    final = run / "checkpoints" / f"step-{position.step}"
    partial = final.with_name(final.name + PARTIAL)
    weights = engine.full_weights()
    problem = _not_numbers(weights, position.step)
    if world.is_first and problem is None:
        problem = _too_little_space(run, sum(w.numel() * 4 for w in weights.values()))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    world.require(problem)
    world.require(_problem_of(lambda: engine.save(partial), partial))
    problem = None
    if world.is_first:
        problem = _problem_of(lambda: _complete(engine, config, position, weights), partial)
    world.require(problem)


def _complete(
    engine: Engine, config: RunConfig, position: Position, weights: dict[str, Tensor]
) -> None:
    """The first rank's part: weights, position and checksums, then the name, then the old ones."""
    run = config.output_dir
    final = run / "checkpoints" / f"step-{position.step}"
    partial = final.with_name(final.name + PARTIAL)
    named = run / "weights" / f"step-{position.step}.safetensors"
    save_weights(engine.network, config.model, named, weights)
    (partial / "position.json").write_text(json.dumps(asdict(position)))
    (partial / "sha256.json").write_text(json.dumps(_checksums(partial), indent=1))
    _sync_tree(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(final.parent)
    _prune(run, config.training.keep_checkpoints)


def _problem_of(write: Callable[[], None], partial: Path) -> str | None:
    try:
        write()
    except (OSError, RuntimeError) as error:
        return (
            f"{partial}: the checkpoint could not be written ({error}); the ones before it are "
            "intact. Free some space and run the same command to go on"
        )
    return None


def find_checkpoint(run: Path, warn: Callable[[str], None]) -> tuple[Path, Position] | None:
    """The newest checkpoint whose files are what was written; `warn` hears of any passed over.

    Raises `UserError` if there are checkpoints and none is whole: to begin anew in silence would
    throw away what may still be rescued.
    """
    steps = complete_steps(run)
    for step in reversed(steps):
        folder = run / "checkpoints" / f"step-{step}"
        problem = _find_damage(folder)
        if problem is None:
            return folder, Position(**json.loads((folder / "position.json").read_text()))
        warn(f"{folder}: {problem}; this checkpoint is passed over for the one before it")
    if steps:
        raise UserError(
            f"{run / 'checkpoints'}: none of {len(steps)} checkpoint(s) is whole (the oldest: "
            f"{problem}); move them away to begin anew, or start from RUN/weights with model.init"
        )
    return None


def complete_steps(run: Path) -> list[int]:
    """The steps that have a complete checkpoint, in order."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted(int(f.name[5:]) for f in folders if f.name[5:].isdigit())


def _not_numbers(weights: dict[str, Tensor], step: int) -> str | None:
    """A step whose gradient is not finite is left out; but weights grow too large in other ways."""
    if all(bool(weight.isfinite().all()) for weight in weights.values()):
        return None
    return (
        f"step {step}: the weights are no longer finite, so they were not saved; the checkpoint "
        "before is intact. In a new output_dir, try a lower training.base_lr or "
        "training.gradient_clipping=1.0"
    )


def _too_little_space(run: Path, weights_bytes: int) -> str | None:
    """AdamW's state and the weights in float32: about four times the weights."""
    needed, free = 4 * weights_bytes, shutil.disk_usage(run).free
    if free >= needed:
        return None
    return (
        f"{run}: a checkpoint needs about {needed / 2**20:.0f} MiB, {free / 2**20:.0f} are free; "
        "the checkpoints before are intact. Free some space and run the same command"
    )


def _find_damage(folder: Path) -> str | None:
    try:
        written = json.loads((folder / "sha256.json").read_text())
        Position(**json.loads((folder / "position.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        return f"its list of files cannot be read ({error})"
    found = _checksums(folder)
    damaged = sorted(name for name in written if found.get(name) != written[name])
    return f"{damaged[0]} is not what was written" if damaged else None


def _checksums(folder: Path) -> dict[str, str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): checksum(p) for p in paths if p.name != "sha256.json"}


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _prune(run: Path, keep: int) -> None:
    """Removes old checkpoints and what killed runs left; the weights stay, they are small."""
    for step in complete_steps(run)[:-keep]:
        shutil.rmtree(run / "checkpoints" / f"step-{step}", ignore_errors=True)
    for partial in (run / "checkpoints").glob(f"step-*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
