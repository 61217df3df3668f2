"""Clips a second and CPU time of whole pretraining, from files to weights, against others.

    python benchmarks/end_to_end.py --videos FOLDER --json numbers.json

Ours is what `mgm-dali pretrain` runs. The others load as VideoMAE does (decord, Pillow, PyTorch's
DataLoader, tube masks made by it) and train VideoMAE's own network, written from its description,
or that of transformers. All see the same clips, hide 0.9 of the tokens, compute in the same numbers
with as many threads, and read with as many processes. Each has a process of its own, they take
turns, and ratios are those of medians over the rounds.

What it does not show: on a CPU the network takes most of the time, so that this is hardly more than
`model.py` with a little of `loader.py`, and who reads faster gains little. On a GPU loading weighs
more; that has not been run yet. Nor does it show what is learnt.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from clips import add_video_options, chosen_videos, new_files
from command import add_common_options, parse, run
from loader import LEAST_AHEAD
from loader_feeds import our_config, planned_clips
from loader_worker import Stretch
from motion import fill_store
from peer_loaders import MASK_RATIO
from peers import PEERS, start
from ratios import peer_rows, summary
from rich.console import Console
from rounds import Contender
from step_contenders import HUGGINGFACE, OFFICIAL
from tables import failure_lines, print_rates
from turns import CLIPS, CPU, WALL, run_turns

from mgm_dali.config import RunConfig
from mgm_dali.data_commands import progress_bar

WORKER = Path(__file__).with_name("end_to_end_worker.py")
SIZES = ("vit_micro", "vit_tiny", "vit_small", "vit_base")
NUM_MADE = 6
QUICK = {"rounds": 1, "batch_size": 2}
WAITING = "waiting for data"
SECONDS_ALLOWED = 1800.0
"""For one contender's turn."""


def main() -> None:
    """Measures, prints a table, and writes all numbers to a file if asked."""
    # As our own command line sets it: threads that have nothing to do leave the cores to those who
    # read. It is the same for all.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run(_options(), _measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add_video_options(parser, NUM_MADE, most=100)
    add("--size", choices=SIZES, default="vit_tiny", help="of the network")
    add("--batch-size", type=int, default=4, help="clips")
    add("--workers", type=int, default=2, help="processes of each contender that read")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of torch, on the CPU")
    add("--rounds", type=int, default=3, help="in each all start anew")
    add("--warm-up", type=int, default=2, help="steps before those that are measured")
    add("--steps", type=int, default=4, help="that are measured")
    add_common_options(parser)
    counts = ("most_videos", "batch_size", "workers", "threads", "rounds", "warm_up", "steps")
    return parse(parser, counts, QUICK)


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    videos = chosen_videos(console, options, folder, NUM_MADE)
    stretch = Stretch(options.batch_size, options.workers, options.warm_up, options.steps)
    num_rows = (stretch.num_warm_up + stretch.num_batches + LEAST_AHEAD) * stretch.batch_size
    manifest = new_files(videos, folder, num_rows)
    with start("ours", options.peers, console.print) as ours:
        fill_store(ours, videos, folder, num_rounds=1)
    sizes = stretch.batch_size, stretch.num_workers
    live = _trained(our_config(manifest, *sizes), options)
    stored = _trained(our_config(manifest, *sizes, motion_store=folder / "store-0"), options)
    contenders = _contenders(live, stored, with_peers=not options.no_peers)
    shared = {
        "stretch": asdict(stretch),
        "threads": options.threads,
        "clips": planned_clips(manifest, RunConfig.model_validate(live), num_rows),
    }

    def measure(contender: Contender) -> dict[str, float]:
        with start(contender.peer, options.peers, console.print, WORKER) as worker:
            arguments = {**shared, **contender.arguments}
            return worker.measure(contender.task, arguments, SECONDS_ALLOWED)

    extras = {WAITING: "waited_share"}
    with progress_bar("trainings") as progress:
        timings = run_turns(contenders, options.rounds, measure, extras, progress)
    title = f"pretraining {options.size}, {MASK_RATIO:g} hidden: medians"
    print_rates(console, title, timings, contenders, {WAITING: ".0%"})
    is_ours = {contender.label: contender.task == "ours" for contender in contenders}
    rows = peer_rows(
        {kind: timings[kind] for kind in (CPU, WALL)},
        [label for label, own in is_ours.items() if not own],
        [label for label, own in is_ours.items() if own],
        CLIPS,
    )
    return {
        "videos": [asdict(video) for video in videos],
        "peers": {name: peer.requirement for name, peer in PEERS.items()},
        "stretch": asdict(stretch),
        "timings": {name: asdict(measured) for name, measured in timings.items()},
        **summary(
            f"time of a clip's pretraining, {options.size}, the other's / ours",
            others=rows,
            not_measured=failure_lines(timings[CPU]),
        ),
    }


def _trained(config: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The config of a loader as that of a pretraining with tubes."""
    on_gpu = torch.cuda.is_available()
    training = {
        "precision": "bf16" if on_gpu else "fp32",
        "max_steps": options.warm_up + options.steps + 1,
        "log_every_steps": 1,
    }
    return {
        **config,
        "device": "cuda" if on_gpu else "cpu",
        "model": {"name": options.size},
        "mask": {"strategy": "tube", "ratio": MASK_RATIO},
        "training": {**config["training"], **training},
    }


def _contenders(
    live: dict[str, Any], stored: dict[str, Any], *, with_peers: bool
) -> Sequence[Contender]:
    """Ours with and without motion, live and from a store, then the others."""
    guided = {"strategy": "motion_guided", "ratio": MASK_RATIO}
    ours = {
        "ours: tubes": live,
        "ours: motion_guided, live vectors": {**live, "mask": guided},
        "ours: motion_guided, from a store": {**stored, "mask": guided},
    }
    contenders = [
        Contender(label, "ours", "ours", {"config": config}) for label, config in ours.items()
    ]
    others = {"VideoMAE's way": OFFICIAL, f"{HUGGINGFACE}, VideoMAE's loading": HUGGINGFACE}
    if with_peers:
        contenders += [
            Contender(label, "decord", "peer", {"config": live, "network": network})
            for label, network in others.items()
        ]
    return contenders


if __name__ == "__main__":
    main()
