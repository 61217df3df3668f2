"""Trains on two hosts that live on this machine (hosts.py), and lets one of them die.

    sudo .venv/bin/python tests/cluster/two_hosts.py [--keep] [NAME ...]

DeepSpeed starts its ranks over ssh and pdsh, torchrun is started on each host; one rank a host, on
the CPU. Needs root, for the namespaces. NAME is one of `CHECKS`; by default all are made, which
takes some minutes. `--keep` leaves the logs. Exit status 1 if a check fails.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hosts import make_hosts, missing_tools
from jobs import START_SECONDS, Cluster, Failure, Job, rank_of, under_way

from mgm_dali.demo_videos import make_demo_videos

END_SECONDS = 120
"""Longest that a run may go on once it cannot: DeepSpeed gives ranks 30 s, one after the other."""
CONFIG = """
device: cpu
data: {train: videos.csv, num_workers: 1}
clip: {stride_frames: 2}
motion: {without_vectors: ignore}
model: {name: vit_micro, num_frames: 8, image_size: 64}
training:
  max_steps: 3
  batch_size: 4
  precision: fp32
  attention_kernel: sdpa
  base_lr: 0.05
  checkpoint_every_steps: 3
  log_every_steps: 1
"""
ENDLESS = "training.max_steps=100000"


def same_losses(cluster: Cluster, launcher: str) -> str:
    """Two hosts take the first step that one process takes with all the clips."""
    with cluster.job(f"alone-{launcher}", "none", "training.batch_size=8") as job:
        if job.wait(START_SECONDS):
            raise Failure("one process alone failed")
    expected = job.losses()
    with cluster.job(f"same-{launcher}", launcher) as job:
        status = job.wait(START_SECONDS)
        if status:
            raise Failure(f"exit status {status}")
        if "2 rank(s)" not in (job.output / "train.log").read_text():
            raise Failure("train.log does not speak of 2 ranks")
        cluster.require_nothing_left()
    found = job.losses()
    if len(found) != len(expected) or abs(found[0] - expected[0]) > 1e-5:
        raise Failure(f"losses {found} instead of {expected}")
    apart = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    return f"first loss {found[0]:.6f}, alone {expected[0]:.6f}; {apart:.1e} apart in 3 steps"


def killed(cluster: Cluster, launcher: str) -> str:
    """The rank on beta is killed: all ends, with a message, and nothing is left behind."""
    with cluster.job(f"killed-{launcher}", launcher, ENDLESS) as job:
        under_way(cluster, job)
        os.kill(rank_of(cluster.beta).pid, signal.SIGKILL)
        return ended(cluster, job)


def vanished(cluster: Cluster, launcher: str) -> str:
    """beta's cable is pulled: alpha ends, with a message, and so does what runs on beta."""
    with cluster.job(f"vanished-{launcher}", launcher, ENDLESS) as job:
        under_way(cluster, job)
        cluster.beta.unplug()
        try:
            return ended(cluster, job)
        finally:
            cluster.beta.plug()


def ended(cluster: Cluster, job: Job) -> str:
    """How a run that lost a rank came to its end, which it must, and must say why."""
    began = time.monotonic()
    status = job.wait(END_SECONDS)
    seconds = time.monotonic() - began
    cluster.require_nothing_left()
    said = [line for line in job.text().splitlines() if "rror: " in line and "rank" in line]
    if not status:
        raise Failure("exit status 0, though a rank was lost")
    if not said:
        raise Failure("no message")
    return f"ended after {seconds:.0f} s with status {status}: {said[0]}"


def preempted(cluster: Cluster, launcher: str) -> str:
    """SIGTERM to the first launcher: both ranks save behind the same step, and end."""
    by_request_alone = "training.checkpoint_every_steps=100000"
    with cluster.job(f"preempted-{launcher}", launcher, ENDLESS, by_request_alone) as job:
        under_way(cluster, job)
        ours = job.launchers[0].pid
        first = min(process for process in cluster.alpha.processes() if process.pid > ours)
        began = time.monotonic()
        os.kill(first.pid, signal.SIGTERM)
        status = job.wait(END_SECONDS)
        seconds = time.monotonic() - began
        cluster.require_nothing_left()
        saved = sorted(path.name for path in (job.output / "checkpoints").glob("step-*"))
        if not saved:
            raise Failure("nothing was saved")
        return f"saved {saved[-1]}, ended after {seconds:.0f} s with status {status}"


def elastic(cluster: Cluster, launcher: str) -> str:
    """beta dies and comes back: the run goes on with one rank, then two, on the same clips."""
    steps = ("training.max_steps=60", "training.checkpoint_every_steps=60")
    with cluster.job("alone-elastic", "none", "training.batch_size=8", *steps) as job:
        if job.wait(START_SECONDS):
            raise Failure("one process alone failed")
    expected = job.losses()
    settings = ("training.checkpoint_every_steps=5", "training.global_batch=8")
    done = []
    with cluster.job(f"elastic-{launcher}", launcher, ENDLESS, *settings) as job:
        for num_ranks, times in ((2, 1), (1, 1), (2, 2)):
            if num_ranks == 1:
                for process in cluster.beta.processes():
                    os.kill(process.pid, signal.SIGKILL)
            elif times == 2:
                job.start_again(1)
            goal = len(job.losses()) + 10
            job.wait_until(
                lambda n=num_ranks, t=times, g=goal: job.heads(n) >= t and len(job.losses()) >= g,
                f"at work with {num_ranks} rank(s)",
            )
            done.append(f"{len(job.losses())} steps with {num_ranks}")
        found = job.losses()
    worst = max(abs(a - b) for a, b in zip(found, expected, strict=False))
    if worst > 1e-2:
        raise Failure(f"losses {found[:60]} instead of {expected}")
    return f"{', '.join(done)} rank(s); losses at most {worst:.0e} from those of one process"


CHECKS: dict[str, tuple[Callable[[Cluster, str], str], str]] = {
    f"{check.__name__}-{launcher}": (check, launcher)
    for check in (same_losses, killed, vanished, preempted)
    for launcher in ("deepspeed", "torchrun")
} | {"elastic-torchrun": (elastic, "elastic_torchrun")}


def make(cluster: Cluster, name: str) -> bool:
    """Makes one check and says how it went."""
    check, launcher = CHECKS[name]
    began = time.monotonic()
    try:
        result, passed = check(cluster, launcher), True
    except Failure as failure:
        logs = sorted(cluster.folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        tail = logs[-1].read_text(errors="replace").splitlines()[-40:]
        result, passed = "\n    ".join([str(failure), f"{logs[-1]}:", *tail]), False
    say(f"{'ok    ' if passed else 'FAILED'} {name} ({time.monotonic() - began:.0f} s): {result}")
    return passed


def prepare(folder: Path) -> None:
    """The videos, their manifest and the configuration that all runs share."""
    make_demo_videos(folder / "videos", 24, seed=1, num_workers=0)
    index = ["index", folder / "videos", "-o", folder / "videos.csv"]
    subprocess.run([sys.executable, "-m", "mgm_dali", *index], check=True, capture_output=True)
    (folder / "config.yaml").write_text(CONFIG)


def main() -> int:
    """All checks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CHECKS))
    parser.add_argument("--keep", action="store_true", help="leave the logs")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - CHECKS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no such check")
    if os.geteuid():
        sys.exit("error: network namespaces need root; run it with sudo")
    if packages := missing_tools():
        sys.exit(f"error: tools are missing; apt-get install {' '.join(packages)}")
    signal.signal(signal.SIGTERM, leave)
    folder = Path(tempfile.mkdtemp(prefix="mgm-dali-cluster-"))
    try:
        prepare(folder)
        with make_hosts(folder) as (alpha, beta):
            cluster = Cluster(alpha, beta, folder)
            passed = [make(cluster, name) for name in arguments.names or CHECKS]
    finally:
        if arguments.keep:
            say(f"kept {folder}")
        else:
            shutil.rmtree(folder)
    return 0 if all(passed) else 1


def leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM cleans up, too."""
    sys.exit(143)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
