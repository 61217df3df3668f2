"""Lists of videos with names of every kind, and how a list is read row by row."""

import csv
from collections.abc import Iterator
from pathlib import Path

from mgm_dali.video.manifest import Manifest, Video

HEADER = "path,label,num_frames,fps,width,height,codec,duration_seconds"
NAMES = [
    *("plain.mp4", "with space.mp4", "comma, quote \" and 'both'.mp4", "\u00e9\u4e2d\u6587.mp4"),
    *("line\nbreak.mp4", "return\r.mp4", " around ", "not utf-8 \udcff.mp4", "deep/er/clip.mp4"),
]


def videos(folder: Path, count: int = 3000) -> Iterator[Video]:
    """Two rates, three codecs, seven sizes, three labels and none."""
    for row in range(count):
        fps = (25.0, 30000 / 1001)[row % 2]
        name, label = f"{row}/{NAMES[row % len(NAMES)]}", None if row % 5 == 0 else row % 3
        size, codec = (320 + row % 7, 240), ("h264", "vp9", "hevc")[row % 3]
        yield Video(folder / name, label, 40 + row, fps, *size, codec, (40 + row) / fps)


def read_by_the_parser(path: Path) -> list[tuple[object, ...]]:
    """The reference: row by row, field by field."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [
            (
                *(path.parent / row["path"], int(row["label"]) if row["label"] else None),
                *(int(row["num_frames"]), float(row["fps"]), int(row["width"])),
                *(int(row["height"]), row["codec"], float(row["duration_seconds"])),
            )
            for row in csv.DictReader(file)
        ]


def rows_of(manifest: Manifest) -> list[tuple[object, ...]]:
    """Likewise, of what was read."""
    return [
        (
            *(video.path, video.label, video.num_frames, video.fps),
            *(video.width, video.height, video.codec, video.duration_seconds),
        )
        for video in manifest
    ]
