"""What reading would take after `mgm-dali prepare`: tried on a few videos of the run."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mgm_dali.clips.draw import training_decoding
from mgm_dali.errors import UserError
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.profiling.apart import Apart
from mgm_dali.profiling.reading import first_videos, steps_of_reading
from mgm_dali.profiling.step_time import StepTime, mean_time
from mgm_dali.video.manifest import Video, read_manifest, write_manifest
from mgm_dali.video.reader import probe
from mgm_dali.video.transcoding import TranscodeSettings, transcode

__all__ = ["Prepared", "read_prepared"]

MOST_VIDEOS = 4
LONGEST_FRAMES = 600
"""Longer videos take too long to be tried."""
CLIPS_A_VIDEO = 4
MADE_ANEW = ("index", "decode")
"""The steps that depend on how a video is coded. To read it takes as much less time as it has fewer
bytes, wherever it will lie; its motion, from wherever, is left as it is."""


@dataclass(frozen=True)
class Prepared:
    """The same clips of videos as they are, and as `prepare` makes them."""

    before: dict[str, StepTime]
    after: dict[str, StepTime]
    """`index` and `decode` of a decoding, on the mean."""
    bytes_before: int
    bytes_after: int
    num_videos: int

    @property
    def bytes_share(self) -> float:
        """The size of a file as it is made, as a share of what it was."""
        return self.bytes_after / self.bytes_before


@dataclass(frozen=True)
class _Tried:
    """One video. The first of a pair is of it as it is."""

    steps: list[dict[str, StepTime]]
    num_bytes: list[int]


def read_prepared(there: Apart, seconds: float, folder: Path) -> Prepared | None:
    """Transcodes the first videos of a run, for so many seconds, and reads clips of both.

    None if the first are too long, cannot be transcoded, or are not decoded by a worker process:
    nothing is known then.
    """
    feed = there.feed
    if feed.encoded:
        return None
    tried: list[_Tried] = []
    end = time.perf_counter() + seconds
    for number, video in enumerate(first_videos(feed, MOST_VIDEOS)):
        if number and time.perf_counter() > end:
            break
        if video.num_frames > LONGEST_FRAMES:
            continue
        with suppress(UserError):  # it has been counted among the unreadable, or will be
            tried.append(there(_try, video, folder / str(number)))
    if not tried:
        return None
    before, after = (
        {name: mean_time([one.steps[side][name] for one in tried]) for name in MADE_ANEW}
        for side in (0, 1)
    )
    sizes = [sum(one.num_bytes[side] for one in tried) for side in (0, 1)]
    return Prepared(before, after, sizes[0], sizes[1], len(tried))


def _try(feed: ClipFeed, video: Video, folder: Path) -> _Tried:
    """Transcodes a video into the folder, and reads clips of both. Raises what reading raises."""
    folder.mkdir()
    output = folder / "prepared.mp4"
    transcode(video.path, output, TranscodeSettings(), num_frames=video.num_frames)
    both = video, Video(path=output, label=None, **vars(probe(output)))
    steps = [_steps(feed, one, folder / f"{side}.csv") for side, one in enumerate(both)]
    return _Tried(steps, [one.path.stat().st_size for one in both])


def _steps(feed: ClipFeed, video: Video, listed: Path) -> dict[str, StepTime]:
    """Of a few clips of a video; without motion, which a store may not have of new files."""
    write_manifest(listed, [replace(video, label=None)], ())
    other = feed.at(0)
    other.manifest, other.motion_source, other.refused = read_manifest(listed), None, {}
    taken = []
    for epoch in range(CLIPS_A_VIDEO):
        decoding = training_decoding(feed.config, other.manifest[0], 0, 0, epoch)
        taken.append(steps_of_reading(other, decoding, 0, pixels_first=True))
    return {name: mean_time([steps[name] for steps in taken]) for name in MADE_ANEW}
