"""A manifest that several ranks make of another: each writes its part, the last one the whole.

    OUT/parts/<rows>-0-of-2.jsonl    a line for each video of rank 0 (rows 0, 2, 4 ...) that is done
    OUT/parts/<rows>-1-of-2.jsonl    {"row": 1, "source": "a.webm", "output": "...", "facts": {...}}
    OUT/videos.csv                   the rows of both, once both are there

A part is named by the rows of the manifest that it was made of, so that no other passes for it.
"""

import heapq
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from mgm_dali.files import write_whole
from mgm_dali.video.manifest import Manifest, Video, write_manifest
from mgm_dali.video.reader import VideoFacts

__all__ = ["merge_parts", "names_of_sources", "part_paths", "write_part"]

SOME_SOURCES = 1000
"""Of each part, enough to tell one data set from another."""


def part_paths(folder: Path, manifest: Manifest, world_size: int) -> list[Path]:
    """The parts that make up the whole, by rank."""
    digest = blake2b(digest_size=8)
    for column in (manifest.path_bytes, manifest.path_ends, manifest.labels, manifest.num_frames):
        digest.update(column.data)
    rows = digest.hexdigest()
    return [folder / "parts" / f"{rows}-{rank}-of-{world_size}.jsonl" for rank in range(world_size)]


def write_part(
    part: Path, manifest: Manifest, outputs: Mapping[int, tuple[Path, VideoFacts]]
) -> None:
    """Writes what became of rows of `manifest`; paths of outputs are relative to OUT."""
    lines = (
        {
            "row": row,
            "source": str(manifest[row].path),
            "output": str(path),
            "facts": asdict(facts),
        }
        for row, (path, facts) in sorted(outputs.items())
    )
    write_whole(part, "".join(json.dumps(line) + "\n" for line in lines))


def names_of_sources(folder: Path) -> set[str]:
    """File names, without folders, of some videos that were prepared here; a data set may move."""
    names = set()
    for part in (folder / "parts").glob("*.jsonl"):
        with part.open(encoding="ascii") as lines:
            names |= {Path(json.loads(line)["source"]).name for line in islice(lines, SOME_SOURCES)}
    return names


def merge_parts(folder: Path, manifest: Manifest, parts: list[Path]) -> int:
    """Writes OUT/videos.csv if all parts are there; gives the number of those that are not.

    Labels and class names are those of `manifest`. Parts of earlier calls are removed. Several
    ranks may do this at once: all write the same.
    """
    missing = sum(not part.exists() for part in parts)
    if missing:
        return missing
    with ExitStack() as stack:
        files = [stack.enter_context(part.open(encoding="ascii")) for part in parts]
        lines = heapq.merge(*(map(json.loads, file) for file in files), key=lambda x: int(x["row"]))
        videos = _videos(folder, manifest, lines)
        write_manifest(folder / "videos.csv", videos, manifest.class_names)
    for earlier in set((folder / "parts").glob("*.jsonl")) - set(parts):
        earlier.unlink(missing_ok=True)
    return 0


def _videos(folder: Path, manifest: Manifest, lines: Iterator[dict[str, Any]]) -> Iterator[Video]:
    for line in lines:
        label = int(manifest.labels[line["row"]])
        path = folder / line["output"]
        yield Video(path=path, label=None if label < 0 else label, **line["facts"])
