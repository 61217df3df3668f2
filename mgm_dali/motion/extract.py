"""Fills a motion store: every video of a manifest is read once, and never again.

    manifest rows    0 1 2 3 4 5 6 7        rank 0 of 2 takes 0 2 4 6, rank 1 takes 1 3 5 7
    per rank         fingerprint all -> leave out what the store has -> read motion -> one shard

Worker processes read and compress; this process alone writes. Stopped at any moment and started
again, also with another number of ranks, it goes on with what is missing.
"""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.motion import block_matching
from mgm_dali.motion.codec import CODECS_WITH_VECTORS, read_motion
from mgm_dali.motion.field import grid_size, no_motion
from mgm_dali.motion.records import encode_field
from mgm_dali.motion.store import MotionStoreWriter, StoreError, fingerprint
from mgm_dali.video.manifest import Manifest, Video
from mgm_dali.video.opening import VideoError
from mgm_dali.video.workers import Failure, run_in_workers

__all__ = ["ExtractReport", "extract"]

WITHOUT_VECTORS = ("error", "block_matching", "ignore")
BYTES_PER_CELL = 0.75
"""Measured: 294 kB for 300 frames of 340x256 pixels."""
FINGERPRINTS_AHEAD = 1024
TIMEOUT_SECONDS = 60.0
PIXELS_PER_SECOND = 1e6
"""A video has a second more for each of these; the slowest reader is some ten times as fast."""


@dataclass(frozen=True)
class ExtractReport:
    """What became of this rank's videos."""

    written: int
    already_there: int
    """In some shard of the store."""
    without_vectors: dict[str, int]
    """Written ones in which the codec left no vectors, counted by codec."""
    failed: list[tuple[Path, str]]
    """Videos that are not in the store, in the manifest's order, each with the reason."""


def extract(
    manifest: Manifest,
    folder: Path,
    *,
    without_vectors: str,
    num_workers: int,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> ExtractReport:
    """Adds the motion of one rank's share of the videos to a store; `share` is (rank, world size).

    `without_vectors` says what to do where the codec left no vectors: `error` refuses a manifest
    that names such a codec, and lists other such videos as failed; `block_matching` estimates their
    motion; `ignore` keeps fields in which nothing is valid. `progress(done, total)` counts videos.

    Raises `UserError` before any work if the choice or a codec is refused, and `StoreError` if the
    disk is, or gets, full; what is written stays.
    """
    if without_vectors not in WITHOUT_VECTORS:
        raise UserError(
            f"--without-vectors {without_vectors!r}: expected one of {', '.join(WITHOUT_VECTORS)}"
        )
    if without_vectors == "error":
        _require_vectors(manifest)
    rank, world_size = share
    videos = [manifest[row] for row in range(rank, len(manifest), world_size)]
    missing: list[int] = []
    written = already_there = 0
    lacking: Counter[str] = Counter()
    reasons: dict[int, str] = {}

    def settled() -> None:
        if progress is not None:
            progress(written + already_there + len(reasons), len(videos))

    with MotionStoreWriter(folder, rank, world_size) as writer:
        _keep_choice(folder, without_vectors)
        for place, key in _fingerprints(videos, num_workers):
            if isinstance(key, bytes) and not writer.has(key):
                missing.append(place)
                continue
            if isinstance(key, Failure):
                reasons[place] = key.reason
            else:
                already_there += 1
            settled()
        to_read = [videos[place] for place in missing]
        _require_room(folder, to_read, world_size)
        with closing(_fields(to_read, without_vectors, num_workers)) as fields:
            for number, made in fields:
                if isinstance(made, Failure):
                    reasons[missing[number]] = made.reason
                else:
                    writer.add_record(made.key, made.record)
                    written += 1
                    lacking[to_read[number].codec] += not made.from_codec
                settled()
    failed = [(videos[place].path, reasons[place]) for place in sorted(reasons)]
    return ExtractReport(written, already_there, dict(sorted((+lacking).items())), failed)


@dataclass(frozen=True)
class _Encoded:
    """What a worker has made of one video."""

    key: bytes
    record: bytes
    from_codec: bool


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
    videos: list[Video], without_vectors: str, num_workers: int
) -> Generator[tuple[int, _Encoded | Failure], None, None]:
    return run_in_workers(
        partial(_encode, without_vectors),
        videos,
        num_workers=num_workers,
        seconds_allowed=lambda video: (
            TIMEOUT_SECONDS + video.num_frames * video.width * video.height / PIXELS_PER_SECOND
        ),
    )


def _encode(without_vectors: str, video: Video) -> _Encoded:
    """Reads a whole video, in a worker process."""
    has_vectors = video.codec in CODECS_WITH_VECTORS
    motion = (
        read_motion(video.path)
        if has_vectors
        else no_motion(video.num_frames, video.width, video.height)
    )
    from_codec = bool(motion.valid.any())
    if not from_codec and without_vectors == "error":
        raise VideoError(
            video.path,
            f"none of its {video.codec} frames carries motion vectors; `--without-vectors "
            "block_matching` estimates them",
        )
    if not from_codec and without_vectors == "block_matching":
        motion = block_matching.read_motion(video.path)
    columns, rows = grid_size(video.width, video.height)
    expected = (video.num_frames, rows, columns)
    if motion.known.shape != expected:
        raise VideoError(
            video.path,
            f"its motion has the shape {motion.known.shape}, the manifest promises {expected}: "
            "the file has changed since, or its end cannot be decoded; index it again",
        )
    key = fingerprint(video.path)
    return _Encoded(key, encode_field(key, motion), from_codec)


def _keep_choice(folder: Path, without_vectors: str) -> None:
    """One choice a store: the empty fields of `ignore` must not pass for estimated ones later."""
    if without_vectors == "error":
        return
    note = folder / "without-vectors.txt"
    if not note.exists():
        write_whole(note, without_vectors + "\n")
    earlier = note.read_text(encoding="utf-8").strip()
    if earlier != without_vectors:
        raise StoreError(
            f"{folder}: was filled with `--without-vectors {earlier}`, now {without_vectors} was "
            f"asked for; extract into another folder, or go on with {earlier}"
        )


def _require_vectors(manifest: Manifest) -> None:
    names = np.array(manifest.codec_names)[manifest.codecs]
    lacking = ~np.isin(names, sorted(CODECS_WITH_VECTORS))
    if not lacking.any():
        return
    first = manifest[int(lacking.argmax())].path
    counts = Counter(names[lacking].tolist()).most_common()
    raise UserError(
        f"{manifest.path}: no motion vectors in {', '.join(f'{n} {name}' for name, n in counts)} "
        f"video(s), the first is {first}; `--without-vectors block_matching` estimates their "
        "motion, `--without-vectors ignore` leaves it out"
    )


def _require_room(folder: Path, videos: list[Video], world_size: int) -> None:
    """Refuses at the start what would stop in the middle of the night."""
    cells = [v.num_frames * math.prod(grid_size(v.width, v.height)) for v in videos]
    num_bytes = sum(cells) * BYTES_PER_CELL * world_size  # the others write as much
    free_bytes = shutil.disk_usage(folder).free
    if num_bytes > free_bytes:
        raise StoreError(
            f"{folder}: the motion of these videos takes about {num_bytes / 1e9:.1f} GB, "
            f"{free_bytes / 1e9:.1f} GB are free; make room or name a folder on a larger disk"
        )
