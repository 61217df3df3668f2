"""What a worker process does for one clip, step by step, and the whole of it at once.

Every video is met as if for the first time: its file is dropped from the system's memory, and its
frames are not indexed yet. That is what most clips of a large data set meet. In a small one files
stay in memory, and from the second epoch on reading and indexing cost next to nothing.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mgm_dali.clips.draw import Decoding, training_decoding
from mgm_dali.clips.order import shuffled_video
from mgm_dali.errors import UserError
from mgm_dali.motion.records import encode_field
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.profiling.costs import StepTime, mean_time
from mgm_dali.video.frame_index import frame_index, index_of
from mgm_dali.video.manifest import Manifest
from mgm_dali.video.opening import open_video
from mgm_dali.video.reader import VideoError, read_frames

__all__ = ["Reading", "measure_reading", "with_files"]

MOST_CLIPS = 64
SIZED_CLIPS = 4
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Reading:
    """What `measure_reading` found."""

    steps: dict[str, StepTime]
    """`draw`, `read`, `index`, `decode`, `motion`."""
    whole: StepTime
    """All of them at once, of the same decodings, as a worker process does it."""
    num_clips: int
    motion_bytes_a_frame: float | None
    """In a motion store; None if nothing looks at motion."""
    video_bytes_a_frame: float
    """In the files."""
    unreadable: int
    """Decodings that were left out: their videos cannot be read."""


def measure_reading(feed: ClipFeed, seconds: float, folder: Path) -> Reading:
    """Times the decodings that come first in a run, as many as `seconds` allow, but 3 at least.

    `folder` is an empty one for links to the videos. Raises `UserError` if none can be read.
    """
    count = min(MOST_CLIPS, len(feed.manifest))
    rows = [
        shuffled_video(number, len(feed.manifest), feed.config.seed)[1] for number in range(count)
    ]
    # A file by another name is a file that nothing is remembered of.
    of_whole = _with_manifest(feed, _linked(feed.manifest, rows, folder / "whole"))
    of_steps = _with_manifest(feed, _linked(feed.manifest, rows, folder / "steps"))
    steps: list[dict[str, StepTime]] = []
    wholes: list[StepTime] = []
    failure: Exception | None = None
    unreadable, end = 0, time.perf_counter() + seconds
    for number in range(count):
        if len(wholes) >= 3 and time.perf_counter() > end:
            break
        try:
            measured = _both(of_whole, of_steps, number)
        except (VideoError, OSError) as error:
            unreadable, failure = unreadable + 1, error
        else:
            wholes.append(measured[0])
            steps.append(measured[1])
    if not wholes:
        raise UserError(
            f"{feed.manifest.path}: none of {unreadable} videos tried can be read; the last: "
            f"{failure}"
        )
    names = steps[0].keys()
    means = {name: mean_time([step[name] for step in steps]) for name in names}
    return Reading(
        steps=means,
        whole=mean_time(wholes),
        num_clips=len(wholes),
        motion_bytes_a_frame=_motion_bytes_a_frame(of_whole),
        video_bytes_a_frame=_video_bytes_a_frame(of_whole.manifest),
        unreadable=unreadable,
    )


def _motion_bytes_a_frame(feed: ClipFeed) -> float | None:
    """As records of the motion store keep them, of a few clips."""
    num_bytes = num_frames = 0
    for number in range(min(SIZED_CLIPS, len(feed.manifest))):
        decoding = _decoding(feed, number)
        video = feed.manifest[decoding.row]
        if feed.source_for(video) is None:
            continue
        try:
            field = feed.read_motion(video, decoding.frames)
        except (UserError, OSError):
            continue
        num_bytes += len(encode_field(b"", field))
        num_frames += len(decoding.frames)
    return num_bytes / num_frames if num_frames else None


def _video_bytes_a_frame(manifest: Manifest) -> float:
    sizes = [video.path.stat().st_size for video in manifest if video.path.exists()]
    return sum(sizes) / max(int(manifest.num_frames.sum()), 1)


def with_files(manifest: Manifest, files: Sequence[Path]) -> Manifest:
    """The same rows with other files."""
    names = [os.fsencode(file.absolute()) for file in files]
    return replace(
        manifest,
        path_bytes=np.frombuffer(b"".join(names), np.uint8),
        path_ends=np.cumsum([len(name) for name in names]),
    )


def _linked(manifest: Manifest, rows: list[int], folder: Path) -> Manifest:
    """These rows, by new names in `folder`."""
    folder.mkdir(parents=True)
    links = []
    for place, row in enumerate(rows):
        path = manifest[row].path.absolute()
        links.append(folder / f"{place}{path.suffix}")
        links[-1].symlink_to(path)
    return with_files(manifest.selected(np.array(rows)), links)


def _both(
    of_whole: ClipFeed, of_steps: ClipFeed, number: int
) -> tuple[StepTime, dict[str, StepTime]]:
    """One decoding at once, and in steps; they take turns in going first."""
    decoding = _decoding(of_steps, number)
    if number % 2:
        steps = _steps(of_steps, decoding, number)
    _forget(of_whole.manifest[decoding.row].path)
    whole = _timed(lambda: of_whole.sample(number))
    if not number % 2:
        steps = _steps(of_steps, decoding, number)
    return whole, steps


def _with_manifest(feed: ClipFeed, manifest: Manifest) -> ClipFeed:
    other = feed.at(0)
    other.manifest, other.refused = manifest, {}
    return other


def _decoding(feed: ClipFeed, number: int) -> Decoding:
    epoch, row = shuffled_video(number, len(feed.manifest), feed.config.seed)
    return training_decoding(feed.config, feed.manifest[row], row, row, epoch)


def _steps(feed: ClipFeed, decoding: Decoding, number: int) -> dict[str, StepTime]:
    """The steps of one decoding, each with all before it done."""
    video, frames = feed.manifest[decoding.row], decoding.frames
    window, source = feed.window(decoding), feed.source_for(video)
    _forget(video.path)
    steps = {
        "draw": _timed(lambda: _decoding(feed, number)),
        "read": _timed(lambda: _read_file(video.path)),
    }
    if feed.encoded:  # NVDEC decodes, in the graph
        steps["index"] = _timed(lambda: index_of(video.path))
        steps["decode"] = StepTime(0.0, 0.0)
        steps["motion"] = _timed(lambda: feed.read_motion(video, frames))
        return steps

    with open_video(video.path) as opened:  # to open it is a part of decoding
        steps["index"] = _timed(lambda: frame_index(opened))

    def pixels() -> object:
        return read_frames(video.path, frames, window=window)

    def both() -> object:
        return feed.read(decoding)

    if source != "codec":
        steps["decode"] = _timed(pixels)
        steps["motion"] = _timed(lambda: feed.read_motion(video, frames))
        return steps
    # In one pass with the pixels: what that takes more. Whoever goes second finds warmer caches, so
    # they take turns.
    order = (pixels, both) if number % 2 else (both, pixels)
    times = {action: _timed(action) for action in order}
    steps["decode"] = times[pixels]
    steps["motion"] = StepTime(
        times[both].seconds - times[pixels].seconds,
        times[both].cpu_seconds - times[pixels].cpu_seconds,
    )
    return steps


def _timed(action: Callable[[], object]) -> StepTime:
    begun, cpu_begun = time.perf_counter(), time.thread_time()
    action()
    return StepTime(time.perf_counter() - begun, time.thread_time() - cpu_begun)


def _forget(path: Path) -> None:
    """Drops a file from the system's memory; a file system may decline."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _read_file(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        while os.read(file, BLOCK_BYTES):
            pass
    finally:
        os.close(file)
