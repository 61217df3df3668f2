"""What reading would take after `mgm-dali prepare`: tried on a few videos of the run."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from mgm_dali.clips.draw import training_decoding
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.profiling.clocks import StepTime, mean_time
from mgm_dali.profiling.reading import first_videos, steps_of_reading
from mgm_dali.video.manifest import Manifest, Video, read_manifest, write_manifest
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


def read_prepared(feed: ClipFeed, seconds: float, folder: Path) -> Prepared | None:
    """Transcodes the first videos of a run, for so many seconds, and reads clips of both.

    None if the first are too long, cannot be transcoded, or are not decoded by a worker process:
    nothing is known then.
    """
    if feed.encoded:
        return None
    originals: list[Video] = []
    made: list[Video] = []
    end = time.perf_counter() + seconds
    for video in first_videos(feed, MOST_VIDEOS):
        if video.num_frames > LONGEST_FRAMES:
            continue
        output = folder / f"{len(made)}.mp4"
        try:
            transcode(video.path, output, TranscodeSettings(), num_frames=video.num_frames)
        except Exception:  # it has been counted among the unreadable, or will be
            continue
        originals.append(video)
        made.append(Video(path=output, label=video.label, **vars(probe(output))))
        if time.perf_counter() > end:
            break
    if not made:
        return None
    manifests = [
        _listed(videos, folder / name)
        for name, videos in (("before.csv", originals), ("after.csv", made))
    ]
    before, after = (_steps(feed, manifest) for manifest in manifests)
    sizes = [sum(video.path.stat().st_size for video in videos) for videos in (originals, made)]
    return Prepared(before, after, sizes[0], sizes[1], len(made))


def _listed(videos: list[Video], path: Path) -> Manifest:
    write_manifest(path, [replace(video, label=None) for video in videos], ())
    return read_manifest(path)


def _steps(feed: ClipFeed, manifest: Manifest) -> dict[str, StepTime]:
    """Of a few clips of each video; without motion, which a store may not have of new files."""
    other = feed.at(0)
    other.manifest, other.motion_source, other.refused = manifest, None, {}
    taken = []
    for clip in range(CLIPS_A_VIDEO * len(manifest)):
        row, epoch = clip % len(manifest), clip // len(manifest)
        decoding = training_decoding(feed.config, manifest[row], row, row, epoch)
        taken.append(steps_of_reading(other, decoding, pixels_first=True))
    return {name: mean_time([steps[name] for steps in taken]) for name in MADE_ANEW}
