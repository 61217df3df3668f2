"""CPU time of motion and of clips, against other libraries, measured in the same run.

    python benchmarks/motion.py --videos FOLDER --json numbers.json

Every contender runs in a process of its own, on one core, and they take turns (`rounds.py`). What
counts is CPU time, user and system, of all its threads. Ratios are those of medians over the
rounds; beside them stand the lowest and the highest of a single round.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clips import add_video_options, chosen_videos, clip_jobs, whole_jobs
from command import add_common_options, parse, run
from contenders import GOALS, WHOLE_VIDEO, clip_contenders, judge
from peers import PEERS, Worker, start
from ratios import summary, verdict_rows
from rich.console import Console
from rounds import Timings, run_rounds
from tables import failure_lines, print_goals, print_section, print_store

from mgm_dali.data_commands import progress_bar
from mgm_dali.video.manifest import Video, write_manifest

GOAL_SIZE, GOAL_CODEC = (340, 256), "h264"
MAX_FILLS = 3
NUM_MADE = 3
QUICK = {"rounds": 2, "clips_per_video": 1, "most_videos": 3}


def main() -> None:
    """Measures, prints tables, and writes all numbers to a file if asked."""
    run(_options(), _measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_video_options(parser, NUM_MADE, most=12)
    add("--rounds", type=int, default=7, help="beside a first one that is not counted")
    add("--clips-per-video", type=int, default=2, help="places, drawn once")
    add("--seed", type=int, default=0, help="of the places")
    add_common_options(parser)
    return parse(parser, ("most_videos", "rounds", "clips_per_video"), QUICK)


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prints every section as it is done; gives all numbers for the file."""
    videos = chosen_videos(console, options, folder, NUM_MADE)
    jobs = {"videos": whole_jobs(videos)}
    jobs["clips"], too_short = clip_jobs(videos, options.clips_per_video, options.seed)
    for line in too_short:
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
    verdicts = list(judge(GOALS, timings, chosen))
    of_these = f"the {len(alike)} of {len(videos)} videos that are H.264 of 340x256"
    print_goals(console, f"goals: CPU time on {of_these}", verdicts)
    all_jobs = {name: [job.name for job in listed] for name, listed in jobs.items()}
    of_all = [row | {"goal": None} for row in verdict_rows(judge(GOALS, timings, all_jobs))]
    failed = [line for name in jobs for line in failure_lines(timings[name], len(jobs[name]))]
    return {
        "videos": [asdict(video) for video in videos],
        "peers": {name: peer.requirement for name, peer in PEERS.items()},
        "store": store,
        "timings": {name: asdict(measured) for name, measured in timings.items()},
        "goals": [verdict.as_dict() for verdict in verdicts],
        **summary("CPU time of the same frames, the other's / ours", verdicts, of_all, failed),
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
