"""Prepares a data set: every video of a manifest becomes H.264 made for training, once.

    OUT/prepare.json              settings and encoder, the same for the whole folder
    OUT/videos/3f/3f0c...9a.mp4   named by what the source holds, wherever it lies
    OUT/parts/                    which output is of which source; one file a rank
    OUT/videos.csv                the new manifest, in the order of the old one

Rank r of W takes the rows r, r + W, ... Stopped at any moment and started again, also with another
number of ranks, it goes on with what is missing; whichever rank is done last writes the manifest.
"""

import contextlib
import errno
import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import av

from mgm_dali.errors import UserError
from mgm_dali.files import whole_file, write_whole
from mgm_dali.video.fingerprint import fingerprint
from mgm_dali.video.manifest import Manifest, Video
from mgm_dali.video.opening import VideoError
from mgm_dali.video.parts import merge_parts, names_of_sources, part_paths, write_part
from mgm_dali.video.reader import VideoFacts, probe
from mgm_dali.video.transcoding import (
    TranscodeSettings,
    encoder_identity,
    prepared_size,
    transcode,
)
from mgm_dali.video.workers import Failure, run_in_workers

__all__ = ["PrepareReport", "prepare"]

TIMEOUT_SECONDS = 60.0
PIXELS_PER_SECOND = 1e6
"""A video has a second more for each of these, read or written; some ten times what is needed."""
LEFTOVER_SECONDS = 3600.0
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class PrepareReport:
    """What became of this rank's videos."""

    prepared: int
    already_there: int
    smaller: int
    """Of both, those that were smaller than the short side asked for and kept their size."""
    source_bytes: int
    output_bytes: int
    """Of both; as many bytes as were read, and as were made of them."""
    prepared_seconds: float
    """Length of the videos that were prepared now."""
    failed: list[tuple[Path, str]]
    """Videos that are not in the new manifest, in the manifest's order, each with the reason."""
    unfinished_ranks: int
    """Ranks whose part is not there yet; if 0, OUT/videos.csv is complete."""


@dataclass(frozen=True)
class _Output:
    """What a worker made of one video, or found."""

    path: Path
    """Relative to OUT."""
    facts: VideoFacts
    is_new: bool
    was_smaller: bool
    """Than the short side asked for."""
    source_bytes: int
    output_bytes: int


class _DiskFull:
    """What a worker gives instead of an output: not the video's fault, and the next would fail."""


def prepare(
    manifest: Manifest,
    folder: Path,
    settings: TranscodeSettings,
    *,
    num_workers: int,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Transcodes one rank's share of the videos; `share` is (rank, world size).

    A video that cannot be read wholly is listed as failed and not in the new manifest; labels and
    class names are kept. `progress(done, total)` counts videos.

    Raises `UserError` if the folder was prepared with other settings, or if its disk gets full;
    what is prepared stays.
    """
    _keep_settings(folder, manifest, settings)
    rank, world_size = share
    parts = part_paths(folder, manifest, world_size)
    parts[rank].unlink(missing_ok=True)  # an earlier one must not pass for the one to come
    videos = [manifest[row] for row in range(rank, len(manifest), world_size)]
    transcodes = run_in_workers(
        partial(_prepare_video, folder, settings),
        videos,
        num_workers=num_workers,
        seconds_allowed=partial(_seconds_allowed, settings),
    )
    made: dict[int, _Output] = {}
    reasons: dict[int, str] = {}
    with closing(transcodes):
        for place, outcome in transcodes:
            if isinstance(outcome, _DiskFull):
                raise UserError(
                    f"{folder}: the disk is full; what is prepared stays: make room, and the same "
                    "command goes on"
                )
            if isinstance(outcome, Failure):
                reasons[place] = outcome.reason
            else:
                made[place] = outcome
            if progress is not None:
                progress(len(made) + len(reasons), len(videos))
    rows = {rank + place * world_size: (one.path, one.facts) for place, one in made.items()}
    write_part(parts[rank], manifest, rows)
    unfinished_ranks = merge_parts(folder, manifest, parts)
    if not unfinished_ranks:
        _clear_leftovers(folder)
    failed = [(videos[place].path, reasons[place]) for place in sorted(reasons)]
    return _report(list(made.values()), failed, unfinished_ranks)


def _report(
    made: list[_Output], failed: list[tuple[Path, str]], unfinished_ranks: int
) -> PrepareReport:
    new = [output for output in made if output.is_new]
    return PrepareReport(
        prepared=len(new),
        already_there=len(made) - len(new),
        smaller=sum(output.was_smaller for output in made),
        source_bytes=sum(output.source_bytes for output in made),
        output_bytes=sum(output.output_bytes for output in made),
        prepared_seconds=sum(output.facts.duration_seconds for output in new),
        failed=failed,
        unfinished_ranks=unfinished_ranks,
    )


def _keep_settings(folder: Path, manifest: Manifest, settings: TranscodeSettings) -> None:
    """One choice a folder: of two sizes, rates or encoders none could be told from the other."""
    if manifest.path.absolute() == (folder / "videos.csv").absolute():
        raise UserError(f"{manifest.path}: is prepared already; name the manifest it came from")
    earlier_names = names_of_sources(folder)
    if earlier_names and not any(video.path.name in earlier_names for video in manifest):
        raise UserError(
            f"{folder}: holds the videos of another manifest, such as {min(earlier_names)}; "
            "prepare into another folder"
        )
    note = folder / "prepare.json"
    rate = "source" if settings.fps is None else settings.fps
    asked = {"manifest": manifest.path.name, **asdict(settings), "fps": rate}
    now = {"settings": asked, "made_with": encoder_identity(settings)}
    if not note.exists():
        write_whole(note, json.dumps(now, indent=2) + "\n")
    try:
        earlier = json.loads(note.read_text(encoding="utf-8"))
        differences = [_differences(earlier[group], now[group]) for group in now]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{note}: does not describe a preparation: {error!r}; prepare into another folder"
        ) from None
    if found := next(filter(None, differences), None):  # where settings differ, so does the encoder
        raise UserError(
            f"{folder}: was prepared with {found}; go on as before, or prepare into another folder"
        )


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Every value that differs, an encoder's many options by those that do."""
    found = []
    for name, value in now.items():
        was, is_now = str(earlier.get(name)).split(), str(value).split()
        if was != is_now:
            old = " ".join(word for word in was if word not in is_now)
            new = " ".join(word for word in is_now if word not in was)
            found.append(f"{name} {old}, now {new}")
    return "; ".join(found)


def _output_path(key: bytes) -> Path:
    """Relative to OUT; in 256 folders, for one would hold millions of files."""
    name = blake2b(key, digest_size=16).hexdigest()
    return Path("videos", name[:2], f"{name}.mp4")


def _prepare_video(folder: Path, settings: TranscodeSettings, video: Video) -> _Output | _DiskFull:
    """Transcodes one video unless it is there, in a worker process."""
    key = fingerprint(video.path)
    output = folder / _output_path(key)
    facts = _facts_if_whole(output)
    is_new = facts is None
    try:
        if facts is None:
            with whole_file(output, synced=True) as partial_output:
                num_frames = transcode(
                    video.path, partial_output, settings, num_frames=video.num_frames
                )
                facts = probe(partial_output)
                if facts.num_frames != num_frames:
                    found = f"{facts.num_frames} of {num_frames}"
                    raise VideoError(output, f"{found} frames could be read again")
                if fingerprint(video.path) != key:
                    raise VideoError(video.path, "it changed while it was read")
    except (OSError, av.FFmpegError) as error:
        if error.errno in _NO_ROOM:
            return _DiskFull()
        raise
    was_smaller = min(video.width, video.height) < settings.short_side
    sizes = (video.path.stat().st_size, output.stat().st_size)
    return _Output(_output_path(key), facts, is_new, was_smaller, *sizes)


def _facts_if_whole(output: Path) -> VideoFacts | None:
    """None if it is not there, or was damaged by what no program can help."""
    try:
        return probe(output) if output.exists() else None
    except VideoError:
        return None


def _clear_leftovers(folder: Path) -> None:
    """Removes what killed processes left; what is young may be of a rank that has begun again."""
    for leftover in folder.glob("videos/*/.*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                leftover.unlink()


def _seconds_allowed(settings: TranscodeSettings, video: Video) -> float:
    width, height = prepared_size(video.width, video.height, settings.short_side)
    num_frames_out = max(video.num_frames, video.duration_seconds * (settings.fps or 0))
    pixels = video.num_frames * video.width * video.height + num_frames_out * width * height
    return TIMEOUT_SECONDS + pixels / PIXELS_PER_SECOND
