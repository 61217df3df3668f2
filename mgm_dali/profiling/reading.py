"""What a worker process does for one clip, step by step, and the whole of it at once.

Every video is met as if for the first time: its file is dropped from the system's memory, and its
frames are not indexed yet. That is what most clips of a large data set meet. Only the films of
detection have so many clips each that a worker knows their index.
"""

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mgm_dali.clips.draw import Decoding
from mgm_dali.errors import UserError
from mgm_dali.files import require_file
from mgm_dali.motion.records import encode_field
from mgm_dali.pipelines.feed import ClipFeed, reason_text
from mgm_dali.profiling.apart import Apart
from mgm_dali.profiling.step_time import NO_TIME, StepTime, mean_time, timed
from mgm_dali.video.frame_index import forget_index, frame_index, index_of
from mgm_dali.video.manifest import Video
from mgm_dali.video.opening import open_video
from mgm_dali.video.reader import read_frames

__all__ = [
    "Reading",
    "drop_files",
    "first_videos",
    "measure_reading",
    "sample_as_asked",
    "steps_of_reading",
]

MOST_CLIPS = 256
LEAST_CLIPS = 3
SIZED_CLIPS = 4
DROPPED = 2048
BLOCK_BYTES = 1 << 20
STORAGE_READERS = 8
"""Files that are read at once to see what the storage can give."""
STORAGE_SECONDS = 1.0
STORAGE_FILE_BYTES = 32 << 20
"""Of each at most: films would take minutes."""
COUNTED = Path("/proc/self/io")


@dataclass(frozen=True)
class Reading:
    """What `measure_reading` found, by the decoding."""

    steps: dict[str, StepTime]
    """`draw`, `read`, `index`, `decode`, `motion`."""
    whole: StepTime
    """All of them at once, of the same decodings, as a worker process does it."""
    num_clips: int
    file_bytes: float
    """Of its video's file, that are read."""
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
    read: list[_Read] = []
    unreadable, reason, end = 0, "", time.perf_counter() + seconds
    is_new = True
    """The process: libraries will be used for the first time, and that does not count."""
    for place in range(MOST_CLIPS):
        if max(len(read), unreadable) >= LEAST_CLIPS and time.perf_counter() > end:
            break
        number = feed.number_of(place)
        row = feed.video_due(number)[1]
        if row in feed.refused:
            unreadable += 1
            continue
        try:
            found = there(_read_once, number, pixels_first=bool(place % 2))
        except UserError as error:
            unreadable, reason = unreadable + 1, f"{feed.manifest[row].path}: {error}"
            feed.refused[row], is_new = str(error), True
            continue
        if not is_new:
            read.append(found)
        is_new = False
    if not read:
        raise UserError(
            f"{feed.manifest.path}: of the first clips {unreadable} cannot be read, and no others "
            f"were tried; the last: {reason}"
        )
    return Reading(
        steps={name: mean_time([one.steps[name] for one in read]) for name in read[0].steps},
        whole=mean_time([one.whole for one in read]),
        num_clips=len(read),
        file_bytes=sum(one.num_bytes for one in read) / len(read),
        storage_bytes_per_second=_storage_speed(feed),
        motion_bytes_a_frame=_motion_bytes_a_frame(there),
        video_bytes_a_frame=sum(one.file_bytes for one in read)
        / max(sum(one.num_frames for one in read), 1),
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


def sample_as_asked(feed: ClipFeed, number: int) -> tuple[NDArray[Any], ...]:
    """A sample of the video that is due. Raises `UserError` where another stands in for it."""
    sample = feed.sample(number)
    if reason := reason_text(sample[feed.outputs.index("reason")].tolist()):
        raise UserError(reason)
    return sample


def steps_of_reading(
    feed: ClipFeed, decoding: Decoding, num_bytes: int, *, pixels_first: bool
) -> dict[str, StepTime]:
    """The steps of one decoding, each with all before it done; of its file so many bytes are read.

    Raises whatever a bad file makes libraries raise.
    """
    video, frames = feed.manifest[decoding.row], decoding.frames
    window, source = feed.window(decoding), feed.source_for(video)
    _drop(video.path)
    steps = {"read": timed(lambda: _read_file(video.path, num_bytes))}
    if num_bytes < video.path.stat().st_size:
        feed.read(decoding)  # now what it needs is in memory
    _forget(feed, video)
    if feed.encoded:  # NVDEC decodes, in the graph
        steps["index"] = timed(lambda: index_of(video.path))
        steps["decode"] = NO_TIME
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


@dataclass(frozen=True)
class _Read:
    """One decoding, at once and in steps."""

    whole: StepTime
    steps: dict[str, StepTime]
    num_bytes: int
    """That were read of the file."""
    file_bytes: int
    num_frames: int
    """Of the video."""


def _read_once(feed: ClipFeed, number: int, *, pixels_first: bool) -> _Read:
    draw = timed(lambda: feed.decoding(number))
    decoding = feed.decoding(number)
    video = feed.manifest[decoding.row]
    _drop(video.path)
    _forget(feed, video)
    begun = _bytes_read()
    whole = timed(lambda: sample_as_asked(feed, number))
    file_bytes = video.path.stat().st_size
    num_bytes = min(_bytes_read() - begun, file_bytes)  # some are read twice, from memory
    steps = steps_of_reading(feed, decoding, num_bytes, pixels_first=pixels_first)
    return _Read(whole, {"draw": draw, **steps}, num_bytes, file_bytes, video.num_frames)


def _bytes_read() -> int:
    """That this process has asked files for, from wherever they came."""
    counted = dict(line.split(": ") for line in COUNTED.read_text().splitlines())
    return int(counted["rchar"])


def _forget(feed: ClipFeed, video: Video) -> None:
    """Makes a video one whose frames are not indexed, unless it has many clips."""
    if feed.manifest.keyframes is None:
        forget_index(video.path)


def _storage_speed(feed: ClipFeed) -> float:
    """Bytes a second from several files at once, of videos that come later in the run."""
    videos = first_videos(feed, DROPPED)[::-1]
    for video in videos:
        _drop(video.path)
    numbers, begun = count(), time.perf_counter()
    end = begun + STORAGE_SECONDS

    def read() -> int:
        num_bytes = 0
        while (n := next(numbers)) < len(videos):
            try:
                num_bytes += _read_file(videos[n].path, most=STORAGE_FILE_BYTES, end=end)
            except OSError:  # those have been counted
                continue
            if time.perf_counter() > end:
                break
        return num_bytes

    with ThreadPoolExecutor(STORAGE_READERS) as pool:
        readers = [pool.submit(read) for _ in range(STORAGE_READERS)]
        num_bytes = sum(reader.result() for reader in readers)
    return max(num_bytes, 1) / (time.perf_counter() - begun)  # files may be gone by now


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
    """Forgets a file's bytes, as far as the file system lets go of them."""
    try:
        require_file(path)
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


def _read_file(path: Path, most: int, end: float = math.inf) -> int:
    """Reads so many bytes at most, and for no longer than until `end`: how many they were."""
    require_file(path)
    num_bytes = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(min(BLOCK_BYTES, most - num_bytes)):
            num_bytes += len(block)
            if time.perf_counter() > end:
                break
    return num_bytes
