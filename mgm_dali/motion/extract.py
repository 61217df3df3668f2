"""Fills a motion store: every video of a manifest is read once, and never again.

    manifest rows    0 1 2 3 4 5 6 7        rank 0 of 2 takes 0 2 4 6, rank 1 takes 1 3 5 7
    per rank         fingerprint all -> leave out what the store has -> read motion -> one shard

Worker processes read and compress; this process alone writes. Stopped at any moment and started
again, also with another number of ranks, it goes on with what is missing.
"""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mgm_dali.motion.field import grid_size
from mgm_dali.motion.recipe import Recipe, make_field, require_vectors, seconds_allowed
from mgm_dali.motion.records import encode_field
from mgm_dali.motion.store import MotionStoreWriter, StoreError, fingerprint
from mgm_dali.video.manifest import Manifest, Video
from mgm_dali.video.opening import VideoError
from mgm_dali.video.workers import Failure, run_in_workers

__all__ = ["ExtractReport", "extract"]

STORED_CELL_BYTES = 0.75
"""Measured: 288 kB for 277 frames of 340x256 pixels."""
FINGERPRINTS_AHEAD = 1024


@dataclass(frozen=True)
class ExtractReport:
    """What became of this rank's videos."""

    written: int
    already_there: int
    """In some shard of the store."""
    written_bytes: int
    """Size of their records."""
    without_vectors: dict[str, int]
    """Written ones in which the codec left no vectors, counted by codec."""
    failed: list[tuple[Path, str]]
    """Videos that are not in the store, in the manifest's order, each with the reason."""


def extract(  # noqa: PLR0913 - all but three are seldom needed
    manifest: Manifest,
    folder: Path,
    recipe: Recipe,
    *,
    num_workers: int,
    again: Set[Path] = frozenset(),
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> ExtractReport:
    """Adds the motion of one rank's share of the videos to a store; `share` is (rank, world size).

    Videos of `again` get a new record, though they have one. `progress(done, total)` counts videos.

    Raises `UserError` before any work if the recipe needs what this machine lacks or refuses a
    codec of the manifest, and `StoreError` if the store was filled by another recipe, or if the
    disk is, or gets, full; what is written stays.
    """
    recipe.require()
    choices = recipe.choices()
    if choices == {"source": "codec"}:
        require_vectors(manifest)
    rank, world_size = share
    videos = [manifest[row] for row in range(rank, len(manifest), world_size)]
    missing: list[int] = []
    written = written_bytes = already_there = 0
    lacking: Counter[str] = Counter()
    reasons: dict[int, str] = {}

    def settled() -> None:
        if progress is not None:
            progress(written + already_there + len(reasons), len(videos))

    with MotionStoreWriter(folder, rank, world_size, **choices) as writer:
        for place, key in _fingerprints(videos, num_workers):
            if isinstance(key, bytes) and (videos[place].path in again or not writer.has(key)):
                missing.append(place)
                continue
            if isinstance(key, Failure):
                reasons[place] = key.reason
            else:
                already_there += 1
            settled()
        to_read = [videos[place] for place in missing]
        _require_room(folder, to_read, world_size)
        with closing(_fields(to_read, recipe, num_workers)) as fields:
            for number, made in fields:
                if isinstance(made, Failure):
                    reasons[missing[number]] = made.reason
                else:
                    writer.add_record(made.key, made.record)
                    written, written_bytes = written + 1, written_bytes + len(made.record)
                    lacking[to_read[number].codec] += not made.by_source
                settled()
    failed = [(videos[place].path, reasons[place]) for place in sorted(reasons)]
    without_vectors = dict(sorted((+lacking).items()))
    return ExtractReport(written, already_there, written_bytes, without_vectors, failed)


@dataclass(frozen=True)
class _Encoded:
    """What a worker has made of one video."""

    key: bytes
    record: bytes
    by_source: bool


def _fingerprints(
    videos: Sequence[Video], num_threads: int
) -> Iterator[tuple[int, bytes | Failure]]:
    """Threads will do: it is waiting for the disk that takes the time."""
    with ThreadPoolExecutor(max(num_threads, 1)) as pool:
        for start in range(0, len(videos), FINGERPRINTS_AHEAD):
            some = videos[start : start + FINGERPRINTS_AHEAD]
            yield from enumerate(pool.map(_fingerprint_of, some), start)


def _fingerprint_of(video: Video) -> bytes | Failure:
    try:
        return fingerprint(video.path)
    except VideoError as error:
        return Failure(error.reason)


def _fields(
    videos: list[Video], recipe: Recipe, num_workers: int
) -> Generator[tuple[int, _Encoded | Failure], None, None]:
    return run_in_workers(
        partial(_encode, recipe),
        videos,
        num_workers=num_workers,
        seconds_allowed=partial(seconds_allowed, recipe.source),
    )


def _encode(recipe: Recipe, video: Video) -> _Encoded:
    """Reads a whole video, in a worker process."""
    key = fingerprint(video.path)
    motion, by_source = make_field(recipe, video)
    if fingerprint(video.path) != key:
        raise VideoError(video.path, "it changed while it was read; index it again")
    return _Encoded(key, encode_field(key, motion), by_source)


def _require_room(folder: Path, videos: list[Video], world_size: int) -> None:
    """Refuses at the start what would stop in the middle of the night."""
    cells = [v.num_frames * math.prod(grid_size(v.width, v.height)) for v in videos]
    num_bytes = sum(cells) * STORED_CELL_BYTES * world_size  # the others write as much
    free_bytes = shutil.disk_usage(folder).free
    if num_bytes > free_bytes:
        raise StoreError(
            f"{folder}: the motion of these videos takes about {num_bytes / 1e9:.1f} GB, "
            f"{free_bytes / 1e9:.1f} GB are free; make room or name a folder on a larger disk"
        )
