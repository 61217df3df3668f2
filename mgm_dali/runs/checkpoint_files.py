"""The checkpoints of a run folder: which there are, which are whole, and which are kept.

RUN/checkpoints/step-120/            complete: the folder got its name last
    weights.safetensors              float32, and AdamW's two moments, by parameter name
    exp_avg.safetensors
    exp_avg_sq.safetensors
    ema.safetensors                  the moving average, if there is one
    counters.json                    AdamW's steps, the loss scaler
    position.json                    step, stage, ranks, global batch, list of videos
    sha256.json                      checksum of every file above
RUN/checkpoints/step-140.partial/    what a killed run leaves; removed by the next save
RUN/weights/step-120.safetensors     weights that anybody can load; -ema.safetensors beside it
RUN/best.json                        the step that was judged best
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mgm_dali.config import TrainingConfig
from mgm_dali.errors import UserError
from mgm_dali.files import write_whole

__all__ = [
    "Best",
    "Position",
    "best_of",
    "checksum",
    "checksums",
    "complete",
    "complete_steps",
    "newest_whole",
    "partial_folder",
    "prune",
    "weights_file",
    "write_best",
]

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


@dataclass(frozen=True)
class Best:
    """RUN/best.json: what was judged best so far."""

    step: int
    measure: str
    value: float


def weights_file(run: Path, step: int, suffix: str = "") -> Path:
    """RUN/weights/step-N.safetensors; the moving average has `suffix` "-ema"."""
    return run / "weights" / f"step-{step}{suffix}.safetensors"


def partial_folder(run: Path, step: int) -> Path:
    """What a checkpoint is called until it is complete."""
    return _folder(run, step).with_name(f"step-{step}{PARTIAL}")


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step}"


def complete_steps(run: Path) -> list[int]:
    """The steps that have a complete checkpoint, in order."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted(int(f.name[5:]) for f in folders if f.name[5:].isdecimal())


def complete(run: Path, step: int) -> None:
    """Lists the checksums of a partial checkpoint, syncs it to the disk, and gives it its name."""
    partial, final = partial_folder(run, step), _folder(run, step)
    (partial / "sha256.json").write_text(json.dumps(checksums(partial), indent=1))
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(final.parent)


def prune(run: Path, training: TrainingConfig) -> None:
    """Removes checkpoints, and their weights, but for the newest, every N-th and the best.

    Also what killed runs left. Only called once a newer one is complete.
    """
    steps = complete_steps(run)
    best, every = best_of(run), training.keep_every_steps
    kept = set(steps[-training.keep_checkpoints :])
    kept |= {step for step in steps if every and step % every == 0}
    kept |= {best.step} if best else set()
    for step in steps:
        if step not in kept:
            shutil.rmtree(_folder(run, step), ignore_errors=True)
    for path in (run / "weights").glob("step-*.safetensors"):
        named = re.fullmatch(r"step-(\d+)(-ema)?\.safetensors", path.name)
        if named and int(named[1]) not in kept:
            path.unlink(missing_ok=True)
    for partial in (run / "checkpoints").glob(f"step-*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def best_of(run: Path) -> Best | None:
    """The best that was found so far, if its checkpoint is still there."""
    try:
        best = Best(**json.loads((run / "best.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return best if best.step in complete_steps(run) else None


def write_best(run: Path, best: Best) -> None:
    """Keeps RUN/best.json."""
    write_whole(run / "best.json", json.dumps(vars(best)) + "\n")


def newest_whole(run: Path, warn: Callable[[str], None]) -> tuple[Path, Position] | None:
    """The newest checkpoint whose files are what was written; `warn` hears of any passed over.

    Raises `UserError` if there are checkpoints and none is whole: to begin anew in silence would
    throw away what may still be rescued.
    """
    steps = complete_steps(run)
    for step in reversed(steps):
        folder = _folder(run, step)
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


def _find_damage(folder: Path) -> str | None:
    try:
        written = json.loads((folder / "sha256.json").read_text())
        Position(**json.loads((folder / "position.json").read_text()))
        found = checksums(folder)
        damaged = sorted(name for name in written if found.get(name) != written[name])
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"its list of files cannot be read ({error})"
    return f"{damaged[0]} is not what was written" if damaged else None


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the list of them."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): checksum(p) for p in paths if p.name != "sha256.json"}


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
