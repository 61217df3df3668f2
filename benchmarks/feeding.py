"""What it takes to feed a GPU: CPU time of reading a clip, as data are made ready for it.

    python benchmarks/feeding.py --videos FOLDER --rate 1150 --json numbers.json

One process reads clips as a worker of a pretraining run does (16 frames, crops of 224 pixels), each
file met for the first time. Set-ups take turns; ratios are those of medians over the rounds. The
cores that a device needs are its clips a second times that; handing clips over comes on top
(`loader.py`, transport). Where NVDEC decodes, only what is left for the CPU is measured here.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from clips import add_video_options, chosen_videos
from command import add_number_options, parse, run
from ratios import ratio_row, summary
from rich.console import Console
from rich.table import Table
from rounds import Ratio

from mgm_dali.config import RunConfig
from mgm_dali.data_commands import extract_motion, prepare_videos, progress_bar
from mgm_dali.motion.recipe import Recipe
from mgm_dali.pipelines import Share
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.profiling.apart import reading_apart
from mgm_dali.profiling.reading import measure_reading
from mgm_dali.video.manifest import read_manifest, write_manifest
from mgm_dali.video.transcoding import TranscodeSettings

NUM_MADE = 8
STRIDE_FRAMES = 4
QUICK = {"rounds": 1, "seconds": 2.0}


@dataclass(frozen=True)
class SetUp:
    """One way to make data ready."""

    data: str
    """`raw`, `prepared`, or `sparse`: prepared with as few frames as training looks at."""
    store: bool = False
    nvdec: bool = False
    repeats: int = 1


SET_UPS = {
    "as they are": SetUp("raw"),
    "as they are, store": SetUp("raw", store=True),
    "prepared": SetUp("prepared"),
    "prepared, 4 crops": SetUp("prepared", repeats=4),
    "prepared, stride 1": SetUp("sparse"),
    "prepared, stride 1, store": SetUp("sparse", store=True),
    "prepared, stride 1, 4 crops": SetUp("sparse", repeats=4),
    "NVDEC: prepared, store": SetUp("prepared", store=True, nvdec=True),
    "NVDEC: prepared, store, 4 crops": SetUp("prepared", store=True, nvdec=True, repeats=4),
}
BASE = next(iter(SET_UPS))


def main() -> None:
    """Makes the data ready, measures, prints a table, and writes all numbers if asked."""
    run(_options(), _measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add_video_options(parser, NUM_MADE, most=50)
    add("--rounds", type=int, default=3, help="in which all take turns")
    add("--seconds", type=float, default=5.0, help="for each in a round")
    add("--rate", type=float, default=1150.0, help="clips a second that a device takes")
    add_number_options(parser)
    return parse(parser, ("most_videos", "rounds"), QUICK)


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    videos = chosen_videos(console, options, folder, NUM_MADE)
    (folder / "raw").mkdir()
    write_manifest(folder / "raw" / "videos.csv", videos, ())
    fps = median(video.fps for video in videos) / STRIDE_FRAMES
    _make_ready(folder, {"prepared": TranscodeSettings(), "sparse": TranscodeSettings(fps=fps)})
    milliseconds: dict[str, list[float]] = {name: [] for name in SET_UPS}
    turns = [name for _ in range(options.rounds) for name in SET_UPS]
    with progress_bar("measuring") as advance:
        for done, name in enumerate(turns, 1):
            milliseconds[name].append(_cpu_milliseconds(SET_UPS[name], folder, options))
            advance(done, len(turns))
    _print(console, milliseconds, options.rate)
    rows = [
        ratio_row(f"CPU time a clip: {name}", f"ours: {BASE}", _gain(milliseconds, name))
        for name in SET_UPS
    ]
    about = "what reading a clip costs a worker process, as data are made ready"
    return {**summary(about, others=rows), "cpu_milliseconds": milliseconds, "fps": fps}


def _make_ready(folder: Path, prepared: Mapping[str, TranscodeSettings]) -> None:
    for name, settings in prepared.items():
        prepare_videos(folder / "raw" / "videos.csv", folder / name, settings)
    for name in ("raw", *prepared):
        extract_motion(folder / name / "videos.csv", folder / f"{name}-store", Recipe("codec"))


def _cpu_milliseconds(set_up: SetUp, folder: Path, options: argparse.Namespace) -> float:
    """Of a clip, in the worker process."""
    config = RunConfig.model_validate(
        {
            "data": {
                "train": folder / set_up.data / "videos.csv",
                "motion_store": folder / f"{set_up.data}-store" if set_up.store else None,
            },
            "clip": {"stride_frames": 1 if set_up.data == "sparse" else STRIDE_FRAMES},
            "augment": {"repeats": set_up.repeats},
            "model": {"num_frames": 16, "image_size": 224},
        }
    )
    manifest = read_manifest(folder / set_up.data / "videos.csv")
    source = "store" if set_up.store else "codec"
    feed = ClipFeed(
        manifest,
        config,
        "pretrain",
        Share(set_up.repeats),
        motion_source=source,
        encoded=set_up.nvdec,
    )
    with reading_apart(feed) as there:
        reading = measure_reading(there, options.seconds)
    return 1e3 * reading.whole.cpu_seconds / set_up.repeats


def _gain(milliseconds: Mapping[str, list[float]], name: str) -> Ratio:
    """How many times cheaper than the base."""
    pairs = zip(milliseconds[BASE], milliseconds[name], strict=True)
    of_rounds = [base / own for base, own in pairs]
    middle = median(milliseconds[BASE]) / median(milliseconds[name])
    return Ratio(middle, min(of_rounds), max(of_rounds))


def _print(console: Console, milliseconds: Mapping[str, list[float]], rate: float) -> None:
    table = Table(title="reading a clip, in a worker process", title_justify="left")
    table.add_column("data", no_wrap=True)
    for name in ("CPU ms", "cheaper", "single rounds", f"cores for {rate:g} clips/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, taken in milliseconds.items():
        gain = _gain(milliseconds, name)
        table.add_row(
            name,
            f"{median(taken):.2f}",
            f"{gain.median:.2f}",
            f"{gain.low:.2f} to {gain.high:.2f}",
            f"{rate * median(taken) / 1e3:.1f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
