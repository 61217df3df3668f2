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
RUN/checkpoints/step-160.damaged/    passed over on resuming, for you to look at
RUN/weights/step-120.safetensors     weights that anybody can load; -ema.safetensors beside it
RUN/best.json                        the step that was judged best
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from mgm_dali.config import TrainingConfig
from mgm_dali.errors import UserError
from mgm_dali.files import read_whole, write_whole

__all__ = [
    "Best",
    "Position",
    "average_beside",
    "best_of",
    "checkpoint_folder",
    "checksum",
    "checksums",
    "complete",
    "complete_steps",
    "newest_whole",
    "partial_folder",
    "prune",
    "remove_partial",
    "weights_file",
    "write_best",
]

logger = logging.getLogger(__name__)

PARTIAL, DAMAGED = ".partial", ".damaged"
REQUIRED = {
    *("weights.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors"),
    *("counters.json", "position.json"),
}
"""Files without which a checkpoint is none."""

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Position:
    """Where a run stands; with the config it says everything about what comes next."""

    step: Count
    """Optimiser steps done."""
    stage: str
    world_size: Count
    global_batch: Count
    manifest: str
    """Checksum of the list of videos: another list is another order."""


@dataclass(frozen=True)
class Best:
    """RUN/best.json: what was judged best so far."""

    step: Count
    measure: str
    value: Annotated[float, Field(allow_inf_nan=False)]
    data: str = ""
    """The list of videos that it was judged on."""


_POSITION, _BEST = TypeAdapter(Position), TypeAdapter(Best)
_CHECKSUMS = TypeAdapter(dict[str, str])


def weights_file(run: Path, step: int) -> Path:
    """RUN/weights/step-N.safetensors."""
    return run / "weights" / f"step-{step}.safetensors"


def average_beside(weights: Path) -> Path:
    """The moving average's file, beside that of the weights themselves."""
    return weights.with_name(f"{weights.stem}-ema{weights.suffix}")


def partial_folder(run: Path, step: int) -> Path:
    """What a checkpoint is called until it is complete."""
    return checkpoint_folder(run, step).with_name(f"step-{step}{PARTIAL}")


def checkpoint_folder(run: Path, step: int) -> Path:
    """RUN/checkpoints/step-N."""
    return run / "checkpoints" / f"step-{step}"


def complete_steps(run: Path) -> list[int]:
    """The steps that have a complete checkpoint, in order."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted(int(f.name[5:]) for f in folders if f.name[5:].isdecimal())


def complete(run: Path, step: int) -> None:
    """Lists the checksums of a partial checkpoint, syncs it to the disk, and gives it its name."""
    partial, final = partial_folder(run, step), checkpoint_folder(run, step)
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
            shutil.rmtree(checkpoint_folder(run, step), ignore_errors=True)
    for path in (run / "weights").glob("step-*.safetensors"):
        named = re.fullmatch(r"step-(\d+)(-ema)?\.safetensors", path.name)
        if named and int(named[1]) not in kept:
            path.unlink(missing_ok=True)
    remove_partial(run)


def remove_partial(run: Path) -> None:
    """Removes what killed runs, or saves that failed, have left behind."""
    for folder in (run / "checkpoints").glob(f"step-*{PARTIAL}"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (run / "weights").glob(f".step-*{PARTIAL}"):
        file.unlink(missing_ok=True)


def best_of(run: Path) -> Best | None:
    """The best that was found so far, if its checkpoint is still there."""
    try:
        best = _BEST.validate_json(read_whole(run / "best.json"), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        logger.warning("%s: is damaged; which step was the best is forgotten", run / "best.json")
        return None
    return best if best.step in complete_steps(run) else None


def write_best(run: Path, best: Best) -> None:
    """Keeps RUN/best.json."""
    write_whole(run / "best.json", json.dumps(vars(best)) + "\n")


def newest_whole(run: Path, warn: Callable[[str], None]) -> Position | None:
    """The newest checkpoint whose files are what was written; `warn` hears of those passed over.

    Those are renamed, so that none is taken for a newer one than those that will be written.

    Raises `UserError` if there are checkpoints and none is whole: to begin anew in silence would
    throw away what may still be rescued.
    """
    steps = complete_steps(run)
    damaged: list[Path] = []
    for step in reversed(steps):
        folder = checkpoint_folder(run, step)
        problem = _find_damage(folder, step)
        if problem is None:
            for bad in damaged:
                aside = bad.with_name(bad.name + DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                bad.rename(aside)
            return _POSITION.validate_json(read_whole(folder / "position.json"))
        damaged.append(folder)
        warn(f"{folder}: {problem}; this checkpoint is passed over for the one before it")
    if steps:
        raise UserError(
            f"{run / 'checkpoints'}: none of {len(steps)} checkpoint(s) is whole (the oldest: "
            f"{problem}); move them away to begin anew, or start from RUN/weights with model.init"
        )
    return None


def _find_damage(folder: Path, step: int) -> str | None:
    try:
        written = _CHECKSUMS.validate_json(read_whole(folder / "sha256.json"), strict=True)
        found = checksums(folder)
        names = written.keys() | REQUIRED
        damaged = sorted(n for n in names if n not in found or found[n] != written.get(n))
        if damaged:
            return f"{damaged[0]} is not what was written"
        path = folder / "position.json"
        position = _POSITION.validate_json(read_whole(path), strict=True)
    except ValidationError as error:
        return f"{error.errors(include_input=False, include_url=False)[0]['msg']}"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    return None if position.step == step else f"it is of step {position.step}, says position.json"


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
