"""What reading would take after `mgm-dali prepare`: tried on a few videos of the run."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mgm_dali.clips.order import shuffled_video
from mgm_dali.errors import UserError
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.profiling.costs import StepTime
from mgm_dali.profiling.reading import measure_reading, with_files
from mgm_dali.video.manifest import Manifest, Video
from mgm_dali.video.reader import probe
from mgm_dali.video.transcoding import TranscodeSettings, transcode

__all__ = ["Prepared", "read_prepared"]

MOST_VIDEOS = 4
LONGEST_FRAMES = 1500
"""Longer videos take too long to be tried."""


@dataclass(frozen=True)
class Prepared:
    """The same videos as they are, and as `prepare` makes them."""

    before: StepTime
    after: StepTime
    """What a worker process does for a decoding, on the mean."""
    bytes_before: int
    bytes_after: int
    num_videos: int


def read_prepared(feed: ClipFeed, seconds: float, folder: Path) -> Prepared | None:
    """Transcodes the first videos of a run, for so many seconds, and reads clips of both.

    None if the first are too long or cannot be transcoded: nothing is known then.
    """
    rows, files = [], []
    end = time.perf_counter() + seconds
    for row, video in _short_videos(feed):
        output = folder / f"{row}.mp4"
        try:
            transcode(video.path, output, TranscodeSettings(), num_frames=video.num_frames)
        except UserError:
            continue
        rows.append(row)
        files.append(output)
        if time.perf_counter() > end:
            break
    if not rows:
        return None
    before = feed.manifest.selected(np.array(rows))
    after = _as_prepared(before, files)
    times = [
        measure_reading(_of(feed, manifest), seconds, folder / name).whole
        for name, manifest in (("before", before), ("after", after))
    ]
    sizes = [sum(video.path.stat().st_size for video in each) for each in (before, after)]
    return Prepared(times[0], times[1], sizes[0], sizes[1], len(rows))


def _short_videos(feed: ClipFeed) -> Iterator[tuple[int, Video]]:
    for number in range(min(MOST_VIDEOS, len(feed.manifest))):
        row = shuffled_video(number, len(feed.manifest), feed.config.seed)[1]
        video = feed.manifest[row]
        if video.num_frames <= LONGEST_FRAMES:
            yield row, video


def _as_prepared(manifest: Manifest, files: list[Path]) -> Manifest:
    facts = [probe(file) for file in files]
    return replace(
        with_files(manifest, files),
        num_frames=np.array([one.num_frames for one in facts]),
        fps=np.array([one.fps for one in facts]),
        widths=np.array([one.width for one in facts], np.int32),
        heights=np.array([one.height for one in facts], np.int32),
        codecs=np.zeros(len(files), np.int16),
        codec_names=("h264",),
    )


def _of(feed: ClipFeed, manifest: Manifest) -> ClipFeed:
    other = feed.at(0)
    other.manifest = manifest
    return other
