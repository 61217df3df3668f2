"""`mgm-dali saliency`: does the motion lie where people drew boxes, and how surely."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mgm_dali.data_commands import progress_bar, say
from mgm_dali.errors import UserError
from mgm_dali.files import csv_text, require_writable, write_whole
from mgm_dali.motion import MOTION_SOURCES
from mgm_dali.motion.camera import subtract_camera
from mgm_dali.motion.field import grid_size
from mgm_dali.motion.recipe import require_source, seconds_allowed
from mgm_dali.motion.saliency import LEFT_OUT, Saliency, ratio_interval, saliency
from mgm_dali.motion.store import MotionStore
from mgm_dali.video.boxes import VideoBoxes, read_boxes
from mgm_dali.video.manifest import Manifest, Video, read_manifest
from mgm_dali.video.opening import VideoError
from mgm_dali.video.workers import Failure, run_in_workers

__all__ = ["MotionChoice", "measure_saliency"]

SOURCES = sorted(MOTION_SOURCES.keys() - {"raft"})
"""RAFT needs weights, and minutes a video: it is extracted into a store first."""
SEED = 0
NAMED_FAILURES = 5


@dataclass(frozen=True)
class MotionChoice:
    """Which motion is measured. Raises `UserError` if the choices do not go together."""

    source: str
    store: Path | None = None
    """Folder of the motion store, for the source `store`."""
    subtract_camera: bool = False

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UserError(
                f"--source {self.source!r}: expected one of {', '.join(SOURCES)}; for others "
                "extract a store first"
            )
        require_source(self.source)
        if (self.source == "store") != (self.store is not None):
            raise UserError("--store FOLDER: is needed with --source store, and with no other")
        if self.store is not None:
            MotionStore(self.store)  # says at once if there is none


def measure_saliency(
    manifest_path: Path,
    boxes_path: Path,
    motion: MotionChoice,
    output: Path | None,
    num_workers: int,
) -> None:
    """Prints a table of r_bbox, r_non_bbox and their ratio; `output` gets a line per video.

    Raises `UserError` if the boxes cannot be understood, or if no frame gives a ratio.
    """
    if output is not None:
        require_writable(output)
    manifest = read_manifest(manifest_path)
    boxes = read_boxes(boxes_path, manifest)
    for count, what in (
        (boxes.clipped, "over the border of the picture: clipped"),
        (boxes.outside, "outside of the picture: left out"),
        (boxes.unlisted, f"of videos that {manifest_path} does not list: left out"),
    ):
        if count:
            say(f"{boxes_path}: {count} box(es) {what}")
    of_videos = boxes.of_videos()
    items = [(manifest[row], its_boxes) for row, its_boxes in of_videos.items()]
    outcomes = _measure_all(items, motion, num_workers)
    if output is not None:
        write_whole(output, _as_csv(items, outcomes))
        say(f"a line for each of {len(items)} videos is in {output}")
    _say_failures(items, outcomes, output)
    measured = [outcome for outcome in outcomes if isinstance(outcome, Saliency)]
    _print_table(manifest, outcomes, measured)
    if not any(each.frames_used for each in measured):
        raise UserError(
            f"{boxes_path}: no frame gives a ratio, the table says why; for codecs without vectors "
            "there is `--source block_matching`"
        )


Item = tuple[Video, VideoBoxes]


def _measure_all(
    items: Sequence[Item], motion: MotionChoice, num_workers: int
) -> list[Saliency | Failure]:
    found: dict[int, Saliency | Failure] = {}
    running = run_in_workers(
        partial(_measure, motion),
        items,
        num_workers=num_workers,
        seconds_allowed=lambda item: seconds_allowed(motion.source, item[0]),
    )
    with progress_bar("measuring") as advance, closing(running):
        for place, outcome in running:
            found[place] = outcome
            advance(len(found), len(items))
    return [found[place] for place in range(len(items))]


def _measure(motion: MotionChoice, item: Item) -> Saliency:
    """One video, in a worker process: only the frames that have boxes are read."""
    video, boxes = item
    frames, starts = np.unique(boxes.frames, return_index=True)
    field = MOTION_SOURCES[motion.source](video.path, frames, motion.store)
    columns, rows = grid_size(video.width, video.height)
    if field.known.shape[1:] != (rows, columns):
        raise VideoError(video.path, "has changed its size since it was indexed; index it again")
    if motion.subtract_camera:
        field = subtract_camera(field)
    found = saliency(field, np.split(boxes.corners, starts[1:]), video.width, video.height)
    found.left_out["no_boxes"] += video.num_frames - len(frames)
    return found


def _print_table(
    manifest: Manifest, outcomes: Sequence[Saliency | Failure], measured: Sequence[Saliency]
) -> None:
    usable = [each for each in measured if each.frames_used]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("videos", f"{len(usable)} used, of {len(manifest)}")
    for count, why in (
        (len(manifest) - len(outcomes), "without boxes"),
        (len(outcomes) - len(measured), "that cannot be read"),
        (len(measured) - len(usable), "without a frame that can be used"),
    ):
        if count:
            table.add_row("", f"{count} {why}")
    table.add_row("frames", f"{sum(each.frames_used for each in measured)} used")
    left_out = sum((Counter(each.left_out) for each in measured), Counter())
    for name, why in LEFT_OUT.items():
        if left_out[name]:
            table.add_row("", f"{left_out[name]} {why}")
    if usable:
        r_bbox = np.array([each.r_bbox for each in usable])
        r_non_bbox = np.array([each.r_non_bbox for each in usable])
        rng = np.random.default_rng(SEED)
        ratio, low, high = ratio_interval(r_bbox, r_non_bbox, rng)
        table.add_row("r_bbox", f"{r_bbox.mean():.3f}  motion in the boxes / mean of the frame")
        table.add_row("r_non_bbox", f"{r_non_bbox.mean():.3f}  motion elsewhere / the same")
        spread = f"95% interval over videos {low:.2f} to {high:.2f}"
        table.add_row("ratio", f"{ratio:.2f}  " + (spread if len(usable) > 1 else "one video only"))
    Console().print(table, markup=False)


def _say_failures(
    items: Sequence[Item], outcomes: Sequence[Saliency | Failure], output: Path | None
) -> None:
    failed = [
        (video.path, outcome.reason)
        for (video, _), outcome in zip(items, outcomes, strict=True)
        if isinstance(outcome, Failure)
    ]
    for path, reason in failed[:NAMED_FAILURES]:
        say(f"cannot be read: {path}: {reason}")
    if len(failed) > NAMED_FAILURES:
        say(f"... {len(failed)} videos in all; {output or '`-o FILE`'} lists them")


def _as_csv(items: Sequence[Item], outcomes: Sequence[Saliency | Failure]) -> str:
    rows = []
    for (video, _), found in zip(items, outcomes, strict=True):
        if isinstance(found, Failure):
            cells: list[object] = [*[""] * (3 + len(LEFT_OUT)), found.reason]
        else:
            ratios = (found.r_bbox, found.r_non_bbox) if found.frames_used else ("", "")
            cells = [*ratios, found.frames_used, *found.left_out.values(), ""]
        rows.append((video.path, *cells))
    header = ("path", "r_bbox", "r_non_bbox", "frames_used", *LEFT_OUT, "problem")
    return csv_text(header, rows)
