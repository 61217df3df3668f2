"""CPU time of motion and of clips, against other libraries, measured in the same run.

    python benchmarks/motion.py --videos FOLDER --json numbers.json

Every contender runs in a process of its own, on one core, and they take turns (`rounds.py`). What
counts is CPU time, user and system, of all its threads. Ratios are those of medians over the
rounds; beside them stand the lowest and the highest of a single round.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clips import clip_jobs, make_videos, open_videos, whole_jobs
from contenders import WHOLE_VIDEO, clip_contenders, judge
from machine import describe
from peers import PEERS, Worker, start
from rich.console import Console
from rounds import Timings, run_rounds
from tables import print_goals, print_section, print_store

from mgm_dali.data_commands import progress_bar
from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.video.manifest import Video, write_manifest

GOAL_SIZE, GOAL_CODEC = (340, 256), "h264"
MAX_FILLS = 3


def main() -> None:
    """Measures, prints tables, and writes all numbers to a file if asked."""
    options = _options()
    # A pipe or a file has no width: nothing is folded there.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    numbers = {**describe(), "options": vars(options)}
    try:
        with TemporaryDirectory(prefix="mgm-dali-bench-") as folder:
            numbers |= _measure(console, options, Path(folder))
    except UserError as error:
        sys.exit(f"error: {error}")
    numbers["load_at_end"] = os.getloadavg()
    if options.json:
        write_whole(options.json, json.dumps(numbers, indent=1, default=str) + "\n")
        console.print(f"Every round is in {options.json}", markup=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--videos", type=Path, nargs="+", default=[], help="files and folders; none: three are made"
    )
    add("--most-videos", type=int, default=12, help="of more, some are taken")
    add("--rounds", type=int, default=7, help="beside a first one that is not counted")
    add("--clips-per-video", type=int, default=2, help="places, drawn once")
    add("--seed", type=int, default=0, help="of the places")
    add("--peers", type=Path, default=Path(__file__).parents[1] / ".peers", help="installed there")
    add("--no-peers", action="store_true", help="ours and PyAV alone")
    add("--json", type=Path, help="file for all numbers")
    options = parser.parse_args()
    for name in ("most_videos", "rounds", "clips_per_video"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: found {getattr(options, name)}, at least 1")
    return options


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prints every section as it is done; gives all numbers for the file."""
    videos, notes = open_videos(options.videos or make_videos(folder), options.most_videos)
    if not options.videos:
        notes = ["no --videos: three are made, 340x256, 300 frames, x264's default settings"]
    jobs = {"videos": whole_jobs(videos)}
    jobs["clips"], too_short = clip_jobs(videos, options.clips_per_video, options.seed)
    for line in notes + too_short:
        console.print(line, markup=False)
    with _worker("ours", options, console) as ours:
        store = fill_store(ours, videos, folder, options.rounds)
    contenders = {"videos": WHOLE_VIDEO, "clips": clip_contenders(folder / "store-0")}
    timings: dict[str, Timings] = {}
    for name in jobs:
        present = [c for c in contenders[name] if c.peer == "ours" or not options.no_peers]
        with ExitStack() as stack, progress_bar(name) as progress:
            workers = {
                c.label: stack.enter_context(_worker(c.peer, options, console)) for c in present
            }
            timings[name] = run_rounds(present, jobs[name], workers, options.rounds, progress)
        print_section(console, name, timings[name], present, jobs[name])
    print_store(console, store)
    alike = {v.path for v in videos if ((v.width, v.height), v.codec) == (GOAL_SIZE, GOAL_CODEC)}
    chosen = {name: [j.name for j in listed if j.path in alike] for name, listed in jobs.items()}
    verdicts = list(judge(timings, chosen))
    print_goals(console, verdicts, len(alike), len(videos))
    return {
        "videos": [asdict(video) for video in videos],
        "peers": {name: peer.requirement for name, peer in PEERS.items()},
        "store": store,
        "timings": {name: asdict(measured) for name, measured in timings.items()},
        "goals": [
            {
                "ratio": str(v.goal),
                "goal": v.goal.bound,
                "found": v.ratio and asdict(v.ratio),
                "is_met": v.is_met,
            }
            for v in verdicts
        ],
    }


def _worker(peer: str, options: argparse.Namespace, console: Console) -> Worker:
    return start(peer, options.peers, console.print)


def fill_store(
    ours: Worker, videos: Sequence[Video], folder: Path, num_rounds: int
) -> dict[str, Any]:
    """Extracts a few times, each into a new store; `store-0` is read from later."""
    manifest = folder / "videos.csv"
    write_manifest(manifest, videos, [])
    fills = [
        ours.measure("extract", {"manifest": str(manifest), "store": str(folder / f"store-{n}")})
        for n in range(min(num_rounds, MAX_FILLS))
    ]
    shards = (folder / "store-0").glob("*.lmdb")
    num_bytes = sum(shard.stat().st_blocks * 512 for shard in shards)
    return {"num_videos": len(videos), "bytes": num_bytes, "fills": fills}


if __name__ == "__main__":
    main()
