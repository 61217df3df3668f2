"""Checks a motion store: is every video of a manifest in it, and every byte as it was written?

All frames of every record are read and hold against their checksums. Now and then a field is made
anew and compared: checksums cannot tell that another version of a decoder sees other vectors.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mgm_dali.motion.field import MotionField, grid_size
from mgm_dali.motion.recipe import Recipe, make_field
from mgm_dali.motion.shard import Shard
from mgm_dali.motion.store import (
    MotionStore,
    NotInStoreError,
    StoreError,
    close_shards,
    fingerprint,
    shard_paths,
)
from mgm_dali.video.manifest import Manifest, Video
from mgm_dali.video.opening import VideoError
from mgm_dali.video.workers import Failure, run_in_workers

__all__ = ["VerifyReport", "forget", "verify"]

MADE_ANEW = 16
"""Videos whose fields are made once more, evenly spaced over a rank's share."""
TIMEOUT_SECONDS = 600.0

Finding = tuple[str, str]
"""What is wrong (a field of `VerifyReport`) and why; ("", "") if nothing is."""


@dataclass(frozen=True)
class VerifyReport:
    """What is wrong with this rank's share of a store; each video with the reason."""

    sound: int
    compared: int
    """Sound ones that were made anew too, and are the same bit for bit."""
    missing: list[tuple[Path, str]]
    """No record of the video as it is now."""
    damaged: list[tuple[Path, str]]
    """Its record does not hold what was written, or is not what the video gives."""


def verify(
    manifest: Manifest,
    folder: Path,
    *,
    num_workers: int,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Checks the records of one rank's share of a manifest; `share` is (rank, world size).

    Worker processes read, so that even a file that crashes its reader is a finding. Nothing is
    changed. Raises `StoreError` if the folder holds no store.
    """
    recipe = _recipe_of(MotionStore(folder))
    rank, world_size = share
    videos = [manifest[row] for row in range(rank, len(manifest), world_size)]
    anew = set(np.linspace(0, len(videos) - 1, MADE_ANEW).astype(int).tolist()) if recipe else set()
    checks = [(video, place in anew) for place, video in enumerate(videos)]
    found: dict[str, list[tuple[int, str]]] = {"": [], "missing": [], "damaged": []}
    outcomes = run_in_workers(
        partial(_check, folder, recipe),
        checks,
        num_workers=num_workers,
        seconds_allowed=lambda _: TIMEOUT_SECONDS,
    )
    with closing(outcomes):
        for done, (place, outcome) in enumerate(outcomes, 1):
            kind, why = ("damaged", outcome.reason) if isinstance(outcome, Failure) else outcome
            found[kind].append((place, why))
            if progress is not None:
                progress(done, len(videos))
    missing, damaged = (
        [(videos[place].path, why) for place, why in sorted(found[kind])]
        for kind in ("missing", "damaged")
    )
    compared = sum(place in anew for place, _ in found[""])
    return VerifyReport(len(found[""]), compared, missing, damaged)


def forget(folder: Path, paths: Sequence[Path]) -> int:
    """Takes the records of these videos out of a store, to be extracted again; how many there were.

    Raises `StoreError` if a shard cannot be opened or written.
    """
    keys = [fingerprint(path) for path in paths]
    close_shards()
    forgotten = 0
    for shard_path in shard_paths(folder):
        shard = Shard(shard_path, "write")
        try:
            forgotten += sum(shard.delete(key) for key in keys)
        finally:
            shard.close()
    return forgotten


def _recipe_of(store: MotionStore) -> Recipe | None:
    """How to make a field anew; None where that takes a network or a GPU."""
    if store.choices.get("source") not in ("codec", "block_matching", "dis_flow"):
        return None
    return Recipe(store.choices["source"], store.choices.get("without_vectors", "error"))


def _check(folder: Path, recipe: Recipe | None, check: tuple[Video, bool]) -> Finding:
    """Reads the whole record of a video, in a worker process."""
    video, make_anew = check
    try:
        stored = MotionStore(folder).read_motion(video.path)
    except (NotInStoreError, VideoError) as error:
        return "missing", str(error)
    except StoreError as error:
        return "damaged", str(error)
    columns, rows = grid_size(video.width, video.height)
    if stored.known.shape != (video.num_frames, rows, columns):
        return "damaged", (
            f"its record has the shape {stored.known.shape}, the manifest promises "
            f"{(video.num_frames, rows, columns)}: index the video again"
        )
    if make_anew and recipe is not None:
        try:
            if not _same(stored, make_field(recipe, video)[0]):
                return "damaged", "its record differs from what the video gives now"
        except VideoError as error:
            return "missing", error.reason
    return "", ""


def _same(a: MotionField, b: MotionField) -> bool:
    return np.array_equal(a.vectors, b.vectors) and np.array_equal(a.known, b.known)
