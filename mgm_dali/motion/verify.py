"""Checks a motion store: is every video of a manifest in it, and every byte as it was written?

All frames of every record are read and held against their checksums. A few fields are made anew and
compared: checksums cannot tell that another version of a decoder sees other vectors.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mgm_dali.errors import UserError
from mgm_dali.motion.field import MotionField, grid_size
from mgm_dali.motion.recipe import Recipe, make_field, seconds_allowed
from mgm_dali.motion.store import MotionStore, NotInStoreError, StoreError
from mgm_dali.video.manifest import Manifest, Video
from mgm_dali.video.opening import VideoError
from mgm_dali.video.workers import Failure, run_in_workers

__all__ = ["FINDINGS", "MENDED_BY_EXTRACTION", "VerifyReport", "verify"]

FINDINGS = {
    "damaged": "damaged: their records are not what was written",
    "missing": "missing: the store has no record of them as they are now",
    "misfit": "of another size or length than the manifest says: index them again",
    "different": "other when made anew: a decoder has changed; extract into a new folder",
    "unchecked": "not checked: they cannot be read, or their reader was lost",
}
"""What can be wrong with a video's record, and what it says to people."""

MENDED_BY_EXTRACTION = ("damaged", "missing")

MADE_ANEW = 16
"""Videos whose fields are made once more, evenly spaced over a rank's share."""


@dataclass(frozen=True)
class VerifyReport:
    """What is wrong with this rank's share of a store."""

    sound: int
    compared: int
    """Sound ones that were made anew too, and are the same bit for bit."""
    not_compared: str
    """Why none was, if this machine cannot make them; else empty."""
    found: dict[str, list[tuple[Path, str]]]
    """Videos by the names of `FINDINGS`, in the manifest's order, each with the reason."""


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
    changed. Raises `StoreError` if the folder holds no store, or one of its files cannot be opened.
    """
    store = MotionStore(folder)
    store.open_files()
    recipe, not_compared = _recipe_of(store)
    rank, world_size = share
    videos = [manifest[row] for row in range(rank, len(manifest), world_size)]
    anew = set(np.linspace(0, len(videos) - 1, MADE_ANEW).astype(int).tolist()) if recipe else set()
    source = store.choices.get("source", "codec")
    outcomes = run_in_workers(
        partial(_check, folder, recipe),
        [(video, place in anew) for place, video in enumerate(videos)],
        num_workers=num_workers,
        seconds_allowed=lambda check: seconds_allowed(source, check[0]),
    )
    found: dict[str, list[tuple[int, str]]] = {name: [] for name in FINDINGS}
    sound: set[int] = set()
    with closing(outcomes):
        for done, (place, outcome) in enumerate(outcomes, 1):
            if outcome is None:
                sound.add(place)
            elif isinstance(outcome, Failure):
                found["unchecked"].append((place, outcome.reason))
            else:
                kind, why = outcome
                found[kind].append((place, why))
            if progress is not None:
                progress(done, len(videos))
    by_name = {
        name: [(videos[place].path, why) for place, why in sorted(places)]
        for name, places in found.items()
    }
    return VerifyReport(len(sound), len(sound & anew), not_compared, by_name)


def _recipe_of(store: MotionStore) -> tuple[Recipe | None, str]:
    """How to make a field anew; or why that cannot be done here."""
    source = store.choices.get("source", "codec")
    if source not in ("codec", "block_matching", "dis_flow"):
        return None, f"what {source} gives depends on the device"
    recipe = Recipe(source, store.choices.get("without_vectors", "error"))
    try:
        recipe.require()
    except UserError as error:
        return None, str(error)
    return recipe, ""


def _check(
    folder: Path, recipe: Recipe | None, check: tuple[Video, bool]
) -> tuple[str, str] | None:
    """Reads the whole record of a video, in a worker process; None, or a finding and its reason."""
    video, make_anew = check
    try:
        stored = MotionStore(folder).read_motion(video.path)
    except NotInStoreError as error:
        return "missing", str(error)
    except VideoError as error:
        return "unchecked", error.reason
    except StoreError as error:
        return "damaged", str(error)
    columns, rows = grid_size(video.width, video.height)
    expected = (video.num_frames, rows, columns)
    if stored.known.shape != expected:
        return "misfit", f"its record has the shape {stored.known.shape}, not {expected}"
    if make_anew and recipe is not None and not _same(stored, make_field(recipe, video)[0]):
        return "different", "its record is not what the video gives now"
    return None


def _same(a: MotionField, b: MotionField) -> bool:
    return np.array_equal(a.vectors, b.vectors) and np.array_equal(a.known, b.known)
