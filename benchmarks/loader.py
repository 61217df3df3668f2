"""Clips a second and CPU time of whole loaders, against other libraries, in the same run.

    python benchmarks/loader.py --videos FOLDER --json numbers.json

Every contender gives the same clips as float32 batches, from a process of its own with the same
number of workers. They take turns; ratios are those of medians over the rounds, and beside them
stand the lowest and the highest of a single round.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clips import add_video_options, chosen_videos, new_files
from command import add_common_options, parse, run
from contenders import LIVE, LOADER_GOALS, judge, loader_contenders
from loader_feeds import our_config, planned_clips
from loader_worker import Stretch
from motion import fill_store
from peers import PEERS, Worker, start
from ratios import peer_rows, summary
from rich.console import Console
from rounds import Contender
from tables import failure_lines, print_goals, print_rates
from turns import CLIPS, CPU, WALL, run_turns

from mgm_dali.config import RunConfig
from mgm_dali.data_commands import progress_bar
from mgm_dali.errors import UserError

WORKER = Path(__file__).with_name("loader_worker.py")
NUM_MADE = 18
LEAST_AHEAD = 8
"""Batches that a loader may have begun when the last one is taken."""
QUICK = {"rounds": 2, "warm_up": 3, "batches": 4}
START = "s to start"
LIGHT = {"transport": 8}
"""How many times the batches of others: these are over too soon to be measured well."""


def main() -> None:
    """Measures, prints tables, and writes all numbers to a file if asked."""
    run(_options(), _measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_video_options(parser, NUM_MADE, most=100)
    add("--rounds", type=int, default=5, help="in each all start anew")
    add("--batch-size", type=int, default=8, help="clips, a multiple of 4")
    add("--workers", type=int, default=2, help="processes of each contender that read")
    add("--warm-up", type=int, default=4, help="batches before those that are measured")
    add("--batches", type=int, default=8, help="that are measured")
    add("--antialias", action="store_true", help="torchvision's antialiased resize too")
    add("--only", default="", help="contenders with this in their names")
    add_common_options(parser)
    counts = ("most_videos", "rounds", "batch_size", "workers", "warm_up", "batches")
    return parse(parser, counts, QUICK)


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    videos = chosen_videos(console, options, folder, NUM_MADE)
    stretch = Stretch(options.batch_size, options.workers, options.warm_up, options.batches)
    num_rows = (stretch.num_warm_up + stretch.num_batches + LEAST_AHEAD) * stretch.batch_size
    manifest = new_files(videos, folder, num_rows)
    with start("ours", options.peers, console.print) as ours:
        fill_store(ours, videos, folder, num_rounds=1)
    sizes = stretch.batch_size, stretch.num_workers
    live = our_config(manifest, *sizes)
    stored = our_config(manifest, *sizes, motion_store=folder / "store-0")
    contenders = [
        contender
        for contender in loader_contenders(live, stored, antialias=options.antialias)
        if options.only in contender.label and (contender.peer == "ours" or not options.no_peers)
    ]
    if not contenders:
        raise UserError(f"--only {options.only!r}: no contender has this in its name")
    clips = planned_clips(manifest, RunConfig.model_validate(live), num_rows)

    def measure(contender: Contender) -> dict[str, float]:
        with start(contender.peer, options.peers, console.print, WORKER) as worker:
            return _seconds(worker, contender, stretch, clips)

    extras = {START: "first_seconds"}
    with progress_bar("loaders") as progress:
        timings = run_turns(contenders, options.rounds, measure, extras, progress)
    print_rates(console, "loaders: medians", timings, contenders, {START: ".1f"})
    verdicts = list(judge(LOADER_GOALS, timings, {kind: [CLIPS] for kind in timings}))
    print_goals(console, "goals", verdicts)
    peers = [contender.label for contender in contenders if contender.peer != "ours"]
    return {
        "videos": [asdict(video) for video in videos],
        "peers": {name: peer.requirement for name, peer in PEERS.items()},
        "stretch": asdict(stretch),
        "timings": {name: asdict(measured) for name, measured in timings.items()},
        "goals": [verdict.as_dict() for verdict in verdicts],
        **summary(
            "time of a clip, the other's / ours",
            verdicts,
            peer_rows({kind: timings[kind] for kind in (CPU, WALL)}, peers, [LIVE], CLIPS),
            failure_lines(timings[CPU]),
        ),
    }


def _seconds(
    worker: Worker, contender: Contender, stretch: Stretch, clips: list[dict[str, Any]]
) -> dict[str, float]:
    """CPU and wall seconds of the stretch, and seconds to the first batch."""
    times = LIGHT.get(contender.task, 1)
    longer = replace(
        stretch,
        num_warm_up=stretch.num_warm_up * times,
        num_batches=stretch.num_batches * times,
    )
    arguments = {"stretch": asdict(longer), "clips": clips, **contender.arguments}
    return worker.measure(contender.task, arguments)


if __name__ == "__main__":
    main()
