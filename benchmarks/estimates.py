"""Motion that is estimated, held against the codec's: how far apart, and in how much CPU time.

    python benchmarks/estimates.py --videos FOLDER --json numbers.json

Some frames of each video are encoded anew, with P-frames and one reference picture, so that each of
the codec's vectors spans one frame interval, as an estimate does. Of all cells that both know, the
distance between the two vectors; and what an estimate takes beside decoding.
"""

import argparse
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from clips import add_video_options, chosen_videos
from command import add_number_options, parse, run
from ratios import summary
from rich.console import Console
from rich.table import Table

from mgm_dali.motion import MOTION_SOURCES, MotionField
from mgm_dali.motion.field import QUARTER_PELS
from mgm_dali.video.manifest import Video
from mgm_dali.video.reader import decode_all_frames

ESTIMATES = ("block_matching", "dis_flow")
NUM_MADE = 3
NEAR_PIXELS = 1.0
ONE_INTERVAL = {"g": "250", "bf": "0", "refs": "1", "crf": "20", "sc_threshold": "0"}
"""Options of libx264: a vector then always points into the frame before."""
ABOUT = "estimates of motion beside the codec's: no ratios, its numbers are in its JSON file"
QUICK = {"most_videos": 1, "frames": 40, "rounds": 1}


def main() -> None:
    """Encodes, measures, prints a table, and writes all numbers if asked."""
    run(_options(), _measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add_video_options(parser, NUM_MADE, most=4)
    add("--frames", type=int, default=150, help="of each, from its first")
    add("--rounds", type=int, default=3, help="of which the quickest counts")
    add_number_options(parser)
    return parse(parser, ("most_videos", "frames", "rounds"), QUICK)


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ESTIMATES}
    for number, video in enumerate(chosen_videos(console, options, folder, NUM_MADE)):
        path = folder / f"{number}.mp4"
        count = encode_anew(video, path, options.frames)
        codec = MOTION_SOURCES["codec"](path, None, None)
        decoding = _cpu_seconds(lambda path=path: list(decode_all_frames(path)), options.rounds)
        for name in ESTIMATES:
            estimate = MOTION_SOURCES[name](path, None, None)
            taken = _cpu_seconds(
                lambda name=name, path=path: MOTION_SOURCES[name](path, None, None), options.rounds
            )
            milliseconds = 1e3 * (taken - decoding) / count
            apart = compared(estimate, codec)
            found[name][video.path.name] = {**apart, "milliseconds_a_frame": milliseconds}
    _print(console, found)
    return {**summary(ABOUT), "estimates": found}


def encode_anew(video: Video, path: Path, most_frames: int) -> int:
    """Writes the first frames of a video; gives their number."""
    count = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", round(video.fps) or 30, ONE_INTERVAL)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for _, frame in islice(decode_all_frames(video.path), most_frames):
            plain = av.VideoFrame.from_ndarray(frame.to_ndarray(format="yuv420p"), "yuv420p")
            container.mux(stream.encode(plain))
            count += 1
        container.mux(stream.encode(None))
    return count


def compared(estimate: MotionField, codec: MotionField) -> dict[str, float]:
    """The median distance of two fields in pixels, and the share of the cells that are near."""
    both = estimate.known & codec.known
    apart = (estimate.vectors[both].astype(np.float64) - codec.vectors[both]) / QUARTER_PELS
    distances = np.hypot(apart[:, 0], apart[:, 1])
    return {
        "median_pixels": float(np.median(distances)),
        "near_share": float((distances <= NEAR_PIXELS).mean()),
    }


def _cpu_seconds(action: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        begun = time.process_time()
        action()
        taken.append(time.process_time() - begun)
    return min(taken)


def _print(console: Console, found: dict[str, dict[str, dict[str, float]]]) -> None:
    table = Table(title="beside the codec's vectors, over the videos", title_justify="left")
    for name in ("source", "median pixels", f"within {NEAR_PIXELS:g} pixel", "CPU ms a frame"):
        table.add_column(name, no_wrap=True)
    for name, of_videos in found.items():
        columns = [
            [facts[key] for facts in of_videos.values()]
            for key in ("median_pixels", "near_share", "milliseconds_a_frame")
        ]
        ranges = [(min(column), max(column)) for column in columns]
        table.add_row(
            name,
            "{:.2f} to {:.2f}".format(*ranges[0]),
            "{:.0%} to {:.0%}".format(*ranges[1]),
            "{:.1f} to {:.1f}".format(*ranges[2]),
        )
    console.print(table)


if __name__ == "__main__":
    main()
