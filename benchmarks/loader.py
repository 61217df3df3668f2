"""Clips a second and CPU time of whole loaders, against other libraries, in the same run.

    python benchmarks/loader.py --videos FOLDER --json numbers.json

Every contender gives the same clips as float32 batches, from a process of its own with the same
number of workers. They take turns; ratios are those of medians over the rounds, and beside them
stand the lowest and the highest of a single round.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clips import make_videos, open_videos
from command import add_common_options, parse, run
from contenders import LOADER_GOALS, judge, loader_contenders
from loader_feeds import planned_clips
from loader_worker import Stretch
from motion import fill_store
from peers import PEERS, PeerError, Worker, start
from rich.console import Console
from rounds import Contender, Timings
from tables import print_goals, print_loaders

from mgm_dali.config import RunConfig
from mgm_dali.data_commands import progress_bar
from mgm_dali.errors import UserError
from mgm_dali.video.manifest import Manifest, Video, read_manifest, write_manifest

WORKER = Path(__file__).with_name("loader_worker.py")
NUM_MADE = 18
LEAST_AHEAD = 8
"""Batches that a loader may have begun when the last one is taken."""
BUSY_LOAD = 0.5
LIGHT = {"transport": 8}
"""How many times the batches of others: these are over too soon to be measured well."""


def main() -> None:
    """Measures, prints tables, and writes all numbers to a file if asked."""
    run(_options(), _measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    made = f"files and folders; none: {NUM_MADE} are made"
    add("--videos", type=Path, nargs="+", default=[], help=made)
    add("--most-videos", type=int, default=100, help="of more, some are taken")
    add("--rounds", type=int, default=5, help="in each all start anew")
    add("--batch-size", type=int, default=8, help="clips, a multiple of 4")
    add("--workers", type=int, default=2, help="processes of each contender that read")
    add("--warm-up", type=int, default=4, help="batches before those that are measured")
    add("--batches", type=int, default=8, help="that are measured")
    add("--antialias", action="store_true", help="torchvision's antialiased resize too")
    add("--only", default="", help="contenders with this in their names")
    add_common_options(parser)
    counts = ("most_videos", "rounds", "batch_size", "workers", "warm_up", "batches")
    return parse(parser, counts)


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    videos, notes = open_videos(
        options.videos or make_videos(folder, NUM_MADE), options.most_videos
    )
    if not options.videos:
        notes = [f"no --videos: {NUM_MADE} are made, 340x256, 300 frames, x264's default settings"]
    load, cores = os.getloadavg()[0], os.cpu_count()
    if load > BUSY_LOAD:
        busy = f"the machine is busy (load average {load:.1f} on {cores} cores)"
        notes.append(f"{busy}: CPU time says more than clips a second")
    for line in notes:
        console.print(line, markup=False)
    stretch = Stretch(options.batch_size, options.workers, options.warm_up, options.batches)
    num_rows = (stretch.num_warm_up + stretch.num_batches + LEAST_AHEAD) * stretch.batch_size
    manifest = _new_files(videos, folder, num_rows)
    with start("ours", options.peers, console.print) as ours:
        fill_store(ours, videos, folder, num_rounds=1)
    live = _config(manifest, stretch)
    stored = _config(manifest, stretch, motion_store=str(folder / "store-0"))
    contenders = [
        contender
        for contender in loader_contenders(live, stored, antialias=options.antialias)
        if options.only in contender.label and (contender.peer == "ours" or not options.no_peers)
    ]
    if not contenders:
        raise UserError(f"--only {options.only!r}: no contender has this in its name")
    clips = planned_clips(manifest, RunConfig.model_validate(live), num_rows)
    timings = _run(contenders, stretch, clips, options, console)
    num_clips = stretch.num_batches * stretch.batch_size
    print_loaders(console, timings, contenders, num_clips)
    verdicts = list(judge(LOADER_GOALS, timings, {name: ["clips"] for name in timings}))
    print_goals(console, "goals", verdicts)
    return {
        "videos": [asdict(video) for video in videos],
        "peers": {name: peer.requirement for name, peer in PEERS.items()},
        "stretch": asdict(stretch),
        "timings": {name: asdict(measured) for name, measured in timings.items()},
        "goals": [verdict.as_dict() for verdict in verdicts],
    }


def _new_files(videos: Sequence[Video], folder: Path, num_rows: int) -> Manifest:
    """A manifest in which each row is a new link to one of the videos.

    So no file is met twice, as in an epoch of a large data set: nothing is remembered of any.
    """
    links = folder / "links"
    links.mkdir()
    rows = []
    for number in range(num_rows):
        video = videos[number % len(videos)]
        link = links / f"{number}{video.path.suffix}"
        link.symlink_to(video.path)
        rows.append(Video(**{**vars(video), "path": link}))
    write_manifest(folder / "links.csv", rows, [])
    return read_manifest(folder / "links.csv")


def _config(
    manifest: Manifest, stretch: Stretch, motion_store: str | None = None
) -> dict[str, Any]:
    """Of our loader; the rest are defaults: clips of 16 frames at stride 4, 224x224 pixels."""
    return {
        "device": "cpu",
        "data": {
            "train": str(manifest.path),
            "motion_store": motion_store,
            "num_workers": stretch.num_workers,
            "max_skipped": 0,
        },
        "augment": {"crop": "multi_scale", "flip": False},
        "motion": {"without_vectors": "block_matching"},
        "training": {"batch_size": stretch.batch_size},
    }


def _run(
    contenders: Sequence[Contender],
    stretch: Stretch,
    clips: list[dict[str, Any]],
    options: argparse.Namespace,
    console: Console,
) -> dict[str, Timings]:
    """Seconds by kind of time; in each round every contender starts once."""
    timings = {name: Timings() for name in ("CPU time", "wall time", "first batch")}
    failures = timings["CPU time"].failures
    turns = contenders * options.rounds
    with progress_bar("loaders") as progress:
        for done, contender in enumerate(turns, 1):
            label = contender.label
            if label in failures:
                continue
            try:
                with start(contender.peer, options.peers, console.print, WORKER) as worker:
                    found = _seconds(worker, contender, stretch, clips)
            except PeerError as error:
                failures[label] = {"clips": str(error)}
                for timing in timings.values():
                    timing.seconds.pop(label, None)
                continue
            for timing, seconds in zip(timings.values(), found, strict=True):
                timing.seconds.setdefault(label, {}).setdefault("clips", []).append(seconds)
            progress(done, len(turns))
    return timings


def _seconds(
    worker: Worker, contender: Contender, stretch: Stretch, clips: list[dict[str, Any]]
) -> tuple[float, float, float]:
    """CPU and wall seconds of the stretch, and those to the first batch."""
    times = LIGHT.get(contender.task, 1)
    longer = replace(
        stretch,
        num_warm_up=stretch.num_warm_up * times,
        num_batches=stretch.num_batches * times,
    )
    arguments = {"stretch": asdict(longer), "clips": clips, **contender.arguments}
    answer = worker.measure(contender.task, arguments)
    return answer["cpu_seconds"] / times, answer["wall_seconds"] / times, answer["first_seconds"]


if __name__ == "__main__":
    main()
