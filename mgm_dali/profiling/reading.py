"""What a worker process does for one clip, step by step, and the whole of it at once.

Every video is met as if for the first time: its file is dropped from the system's memory, and its
frames are not indexed yet. That is what most clips of a large data set meet.
"""

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mgm_dali.clips.draw import Decoding
from mgm_dali.errors import UserError
from mgm_dali.motion.records import encode_field
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.profiling.apart import Apart
from mgm_dali.profiling.step_time import StepTime, mean_time, timed
from mgm_dali.video.frame_index import forget_index, frame_index, index_of
from mgm_dali.video.manifest import Video
from mgm_dali.video.opening import VideoError, open_video
from mgm_dali.video.reader import read_frames

__all__ = ["Reading", "drop_files", "first_videos", "measure_reading", "steps_of_reading"]

MOST_CLIPS = 256
LEAST_CLIPS = 3
SIZED_CLIPS = 4
DROPPED = 2048
BLOCK_BYTES = 1 << 20
STORAGE_READERS = 8
"""Files that are read at once to see what the storage can give."""
STORAGE_SECONDS = 1.0


@dataclass(frozen=True)
class Reading:
    """What `measure_reading` found, by the decoding."""

    steps: dict[str, StepTime]
    """`draw`, `read`, `index`, `decode`, `motion`."""
    whole: StepTime
    """All of them at once, of the same decodings, as a worker process does it."""
    num_clips: int
    file_bytes: float
    """That are read."""
    storage_bytes_per_second: float
    """That the storage gives where several files are read at once."""
    motion_bytes_a_frame: float | None
    """In a motion store; None if nothing looks at motion."""
    video_bytes_a_frame: float
    """In the files."""
    unreadable: int
    """Decodings that were left out: their videos cannot be read."""


def measure_reading(there: Apart, seconds: float) -> Reading:
    """Times the first decodings of this rank's run, for so many seconds, or 3 of them.

    Videos that cannot be read are refused from then on (`feed.refused`), so that none is met twice.
    Raises `UserError` if none can be read.
    """
    feed = there.feed
    steps: list[dict[str, StepTime]] = []
    wholes: list[StepTime] = []
    unreadable, reason, end = 0, "", time.perf_counter() + seconds
    is_new = True
    """The process: libraries will be used for the first time, and that does not count."""
    for place in range(MOST_CLIPS):
        if len(wholes) >= LEAST_CLIPS and time.perf_counter() > end:
            break
        number = feed.number_of(place)
        row = feed.video_due(number)[1]
        if row in feed.refused:
            unreadable += 1
            continue
        try:
            whole, parts = there(_both, number, steps_first=bool(place % 2))
        except UserError as error:
            unreadable, reason = unreadable + 1, str(error)
            feed.refused[row], is_new = reason, True
            continue
        if not is_new:
            wholes.append(whole)
            steps.append(parts)
        is_new = False
    if not wholes:
        raise UserError(
            f"{feed.manifest.path}: none of {unreadable} videos tried can be read; the last: "
            f"{reason}"
        )
    means = {name: mean_time([step[name] for step in steps]) for name in steps[0]}
    sizes = [(video.path, video.num_frames) for video in first_videos(feed, len(wholes))]
    file_bytes = sum(_size_of(path) for path, _ in sizes)
    return Reading(
        steps=means,
        whole=mean_time(wholes),
        num_clips=len(wholes),
        file_bytes=file_bytes / len(sizes),
        storage_bytes_per_second=_storage_speed(feed),
        motion_bytes_a_frame=_motion_bytes_a_frame(there),
        video_bytes_a_frame=file_bytes / max(sum(frames for _, frames in sizes), 1),
        unreadable=unreadable,
    )


def drop_files(feed: ClipFeed) -> None:
    """Drops the files that come next in a run from the system's memory, as far as it lets go."""
    for video in first_videos(feed, DROPPED):
        _drop(video.path)


def first_videos(feed: ClipFeed, most: int) -> list[Video]:
    """Of this rank's run, each once, but for those that are known to be bad."""
    places = range(min(most, len(feed.manifest)))
    rows = [feed.video_due(feed.number_of(place))[1] for place in places]
    return [feed.manifest[row] for row in dict.fromkeys(rows) if row not in feed.refused]


def steps_of_reading(
    feed: ClipFeed, decoding: Decoding, *, pixels_first: bool
) -> dict[str, StepTime]:
    """The steps of one decoding, each with all before it done. Raises whatever a bad file makes
    libraries raise."""
    video, frames = feed.manifest[decoding.row], decoding.frames
    window, source = feed.window(decoding), feed.source_for(video)
    _drop(video.path)
    steps = {"read": timed(lambda: _read_file(video.path))}
    if feed.encoded:  # NVDEC decodes, in the graph
        steps["index"] = timed(lambda: index_of(video.path))
        steps["decode"] = StepTime(0.0, 0.0)
        steps["motion"] = timed(lambda: feed.read_motion(video, frames))
        return steps
    with open_video(video.path) as opened:  # to open it is a part of decoding
        steps["index"] = timed(lambda: frame_index(opened))

    def pixels() -> object:
        return read_frames(video.path, frames, window=window)

    def both() -> object:
        return feed.read(decoding)

    if source != "codec":
        steps["decode"] = timed(pixels)
        steps["motion"] = timed(lambda: feed.read_motion(video, frames))
        return steps
    # In one pass with the pixels: what that takes more. Whoever goes second finds warmer caches, so
    # they take turns.
    order = (pixels, both) if pixels_first else (both, pixels)
    times = {action: timed(action) for action in order}
    steps["decode"] = times[pixels]
    steps["motion"] = times[both] + times[pixels] * -1
    return steps


def _both(
    feed: ClipFeed, number: int, *, steps_first: bool
) -> tuple[StepTime, dict[str, StepTime]]:
    """One decoding at once, and in steps; they take turns in going first."""
    draw = timed(lambda: feed.decoding(number))
    decoding = feed.decoding(number)
    path = feed.manifest[decoding.row].path

    def whole() -> StepTime:
        _drop(path)
        return timed(lambda: feed.sample(number))

    if steps_first:
        steps = steps_of_reading(feed, decoding, pixels_first=number % 4 > 1)
        return whole(), {"draw": draw, **steps}
    taken = whole()
    return taken, {"draw": draw, **steps_of_reading(feed, decoding, pixels_first=number % 4 > 1)}


def _storage_speed(feed: ClipFeed) -> float:
    """Bytes a second from several files at once, of videos that come later in the run."""
    videos = first_videos(feed, DROPPED)[::-1]
    for video in videos:
        _drop(video.path)
    numbers, begun = count(), time.perf_counter()

    def read() -> int:
        num_bytes = 0
        while time.perf_counter() - begun < STORAGE_SECONDS and (n := next(numbers)) < len(videos):
            try:
                num_bytes += _read_file(videos[n].path)
            except (OSError, VideoError):  # those have been counted
                continue
        return num_bytes

    with ThreadPoolExecutor(STORAGE_READERS) as pool:
        readers = [pool.submit(read) for _ in range(STORAGE_READERS)]
        num_bytes = sum(reader.result() for reader in readers)
    return num_bytes / (time.perf_counter() - begun)


def _motion_bytes_a_frame(there: Apart) -> float | None:
    """As records of the motion store keep them, of a few clips."""
    num_bytes = num_frames = 0
    for place in range(SIZED_CLIPS):
        try:
            sizes = there(_motion_size, there.feed.number_of(place))
        except UserError:  # it has been counted above
            continue
        num_bytes, num_frames = num_bytes + sizes[0], num_frames + sizes[1]
    return num_bytes / num_frames if num_frames else None


def _motion_size(feed: ClipFeed, number: int) -> tuple[int, int]:
    """Bytes and frames of a clip's motion; none if nothing looks at it."""
    decoding = feed.decoding(number)
    video = feed.manifest[decoding.row]
    if feed.source_for(video) is None or decoding.row in feed.refused:
        return 0, 0
    field = feed.read_motion(video, decoding.frames)
    return len(encode_field(b"", field)), len(decoding.frames)


def _drop(path: Path) -> None:
    """Forgets a file: its index, and its bytes as far as the file system lets go of them."""
    forget_index(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return  # reading it will say why
    try:
        os.fdatasync(file)  # what is not written yet would stay
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        pass
    finally:
        os.close(file)


def _read_file(path: Path) -> int:
    """How many bytes it has."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise VideoError(path, "not a regular file")
    num_bytes = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            num_bytes += len(block)
    return num_bytes


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
