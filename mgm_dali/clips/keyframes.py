"""Keyframes: the moments at which people are judged, as rows of a manifest, and who is in them.

A clip of such a row lies around its keyframe. Its label is the number of the row itself: so a clip
that stands in for another brings its own people, and `ClipBatch.crop` tells where they are in it.

K keyframes, P people of all, B clips, V people in the clips of a batch.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.video.ava import Moments, People
from mgm_dali.video.manifest import Manifest, Video

__all__ = ["Keyframes", "keyframes_of", "people_in_clips"]


@dataclass(frozen=True, eq=False)
class Keyframes:
    """The moments of some people, where they lie in videos."""

    manifest: Manifest
    """A row for each keyframe."""
    moments: NDArray[np.int64]
    """`[K]`, by number."""
    people: People
    """Those of the keyframes alone."""
    first: NDArray[np.int64]
    """`[K]`, the first of the people of each keyframe."""
    past: NDArray[np.int64]
    """`[K]`, the first that is not."""
    lost: dict[int, str]
    """Moments that no video shows, and why."""

    def lost_in_words(self) -> list[str]:
        """A line for each reason, with how many there are."""
        counts = Counter(self.lost.values())
        return [f"{count} moments: {reason}" for reason, count in sorted(counts.items())]


def keyframes_of(
    manifest: Manifest, people: People, moments: Moments, first_second: float, source: Path
) -> Keyframes:
    """The keyframes of people that were read from `source`.

    `first_second` is the one with which the files begin. Raises `UserError` if two videos have the
    same name, or if no video shows any of the moments.
    """
    videos = _by_name(manifest)
    names = list(moments.numbers)
    rows, frames = [], []
    lost: dict[int, str] = {}
    for number in np.unique(people.moments).tolist():
        name, second = names[number]
        row, video = videos.get(name, (-1, None))
        frame, problem = _frame_at(second - first_second, video)
        if problem:
            lost[number] = problem
        else:
            rows.append(row)
            frames.append(frame)
    if not rows:
        found = "; ".join(sorted(set(lost.values())))
        raise UserError(
            f"{source}: no moment of it is in a video of {manifest.path} ({found}); videos are "
            f"named as their files without the ending, and begin with second {first_second:g} "
            "(detection.first_second)"
        )
    chosen = replace(
        manifest.selected(np.array(rows)),
        labels=np.arange(len(rows)),
        keyframes=np.array(frames),
        class_names=(),
    )
    shown = people.selected(~np.isin(people.moments, list(lost)))
    numbers, first = np.unique(shown.moments, return_index=True)
    return Keyframes(chosen, numbers, shown, first, np.append(first[1:], len(shown)), lost)


def people_in_clips(
    keyframes: Keyframes,
    rows: Sequence[int],
    crops: NDArray[np.int64],
    image_size: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Who is seen in clips of these rows, and where.

    `crops` is `[B, 4]`, as `ClipBatch.crop`. Returns `[V, 5]`: number of the clip, x1, y1, x2, y2
    in its pixels, as torchvision's RoIAlign takes them; and `[V]`, rows of `keyframes.people`.
    Boxes are cut at the border of the clip. Somebody whose middle is cut off is not seen: what is
    left of him need not show what he does.
    """
    counts = keyframes.past[rows] - keyframes.first[rows]
    clips = np.repeat(np.arange(len(rows)), counts)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    people = np.repeat(keyframes.first[rows], counts) + np.arange(len(clips)) - before
    manifest = keyframes.manifest
    size = np.stack((manifest.widths[rows], manifest.heights[rows]), axis=1)[clips, None]
    picture = keyframes.people.corners[people].clip(0, 1).reshape(-1, 2, 2)  # [V, two corners, xy]
    start, end = crops[clips][:, [1, 0]][:, None], crops[clips][:, [3, 2]][:, None]
    # Where left is greater than right the clip is mirrored, and so are the corners.
    corners = np.sort((picture * size - start) / (end - start), axis=1)
    seen = ((corners.mean(axis=1) >= 0) & (corners.mean(axis=1) <= 1)).all(axis=1)
    pixels = (corners.clip(0, 1) * image_size).reshape(-1, 4)
    boxes = np.concatenate((clips[:, None], pixels), axis=1).astype(np.float32)
    return boxes[seen], people[seen]


def _by_name(manifest: Manifest) -> dict[str, tuple[int, Video]]:
    videos: dict[str, tuple[int, Video]] = {}
    for row, video in enumerate(manifest):
        if video.path.stem in videos:
            other = videos[video.path.stem][1].path
            raise UserError(
                f"{manifest.path}: {other} and {video.path} are both video {video.path.stem!r}; "
                "list one of them"
            )
        videos[video.path.stem] = row, video
    return videos


def _frame_at(second: float, video: Video | None) -> tuple[int, str]:
    """The frame that is shown so many seconds behind the beginning; or why there is none."""
    if video is None:
        return -1, "the manifest has no video of that name"
    if not video.fps:
        return -1, "the rate of the video's frames is not known"
    frame = math.floor(second * video.fps + 0.5)  # at the mean rate
    if not 0 <= frame < video.num_frames:
        return -1, "before the beginning or behind the end of the video"
    return frame, ""
