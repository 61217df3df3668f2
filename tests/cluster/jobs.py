"""Runs on two hosts, as their launchers start them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hosts import CABLE, Host, Process

from mgm_dali.training.metrics import read_metrics

__all__ = ["LAUNCHERS", "START_SECONDS", "Cluster", "Failure", "Job", "rank_of", "under_way"]

START_SECONDS = 240
"""Longest that a run may take to its first steps."""
VARIABLES = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE}


class Failure(Exception):
    """A check has found something else than it expected."""


class Job:
    """A run on both hosts, as its launchers see it."""

    def __init__(self, commands: list[list[str]], log: Path, output: Path) -> None:
        """Starts the launchers; what they and the ranks say goes to `log`."""
        self._commands, self._log, self.output = commands, log, output
        self.launchers = [self._start(number) for number in range(len(commands))]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            command = self._commands[number]
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def start_again(self, number: int) -> None:
        """Starts one of the launchers anew."""
        self.launchers[number].wait()
        self.launchers[number] = self._start(number)

    def wait(self, seconds: float) -> int:
        """The first launcher's exit status. Raises `Failure` if they are not gone in time."""
        deadline = time.monotonic() + seconds
        for launcher in self.launchers:
            try:
                launcher.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise Failure(f"still running after {seconds:.0f} s") from None
        return self.launchers[0].returncode

    def losses(self) -> list[float]:
        """The loss of each step."""
        path = self.output / "metrics.jsonl"
        return [entry["loss"] for entry in read_metrics(path)] if path.exists() else []

    def text(self) -> str:
        """All that was said."""
        return self._log.read_text(errors="replace")

    def heads(self, num_ranks: int) -> int:
        """How often the run has begun, or gone on, with so many ranks."""
        path = self.output / "train.log"
        return path.read_text().count(f"; {num_ranks} rank(s)") if path.exists() else 0

    def wait_until(self, happened: Callable[[], bool], what: str) -> None:
        """Raises `Failure` if it has not happened in time, or the launchers are gone before."""
        deadline = time.monotonic() + START_SECONDS
        while not happened():
            if all(launcher.poll() is not None for launcher in self.launchers):
                raise Failure(f"ended before {what}")
            if time.monotonic() > deadline:
                raise Failure(f"not yet {what} after {START_SECONDS} s")
            time.sleep(0.5)


@dataclass
class Cluster:
    """The two hosts, and a folder that both have."""

    alpha: Host
    beta: Host
    folder: Path

    @contextmanager
    def job(self, name: str, launcher: str, *overrides: str) -> Iterator[Job]:
        """Starts a run; whatever is left of it at the end is killed."""
        output, log = self.folder / name, self.folder / f"{name}.log"
        words = ["pretrain", "config.yaml", f"output_dir={output}", *overrides]
        job = Job(LAUNCHERS[launcher](self, words), log, output)
        try:
            yield job
        finally:
            for start in job.launchers:
                start.kill()
                start.wait()
            for process in self.left():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def left(self) -> list[Process]:
        """All processes on both hosts but those that make them hosts."""
        return [*self.alpha.processes(), *self.beta.processes()]

    def require_nothing_left(self) -> None:
        """Raises `Failure` if the run has left processes behind, after some seconds for them."""
        for _ in range(20):
            if not (left := self.left()):
                return
            time.sleep(1)
        raise Failure(f"left behind: {'; '.join(process.command[:150] for process in left)}")

    def environment(self) -> dict[str, str]:
        return {**os.environ, **VARIABLES}


def by_deepspeed(cluster: Cluster, words: list[str]) -> list[list[str]]:
    """One command on alpha; the rest is ssh's."""
    (cluster.folder / "hosts.txt").write_text("alpha slots=1\nbeta slots=1\n")
    variables = "".join(f"{name}={value}\n" for name, value in VARIABLES.items())
    (cluster.folder / ".deepspeed_env").write_text(variables)
    deepspeed = Path(sys.executable).parent / "deepspeed"
    start = [deepspeed, "--hostfile", "hosts.txt", "--module", "mgm_dali", *words]
    return [cluster.alpha.command(cluster.folder, cluster.environment(), *start)]


def by_torchrun(cluster: Cluster, words: list[str]) -> list[list[str]]:
    """The same command on each host, but for --node-rank."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meeting = [f"--master-addr={cluster.alpha.address}", "--master-port=29400"]
    module = ["-m", "mgm_dali", *words]
    return [
        host.command(
            cluster.folder,
            cluster.environment(),
            *(*torchrun, f"--node-rank={number}", *meeting, *module),
        )
        for number, host in enumerate((cluster.alpha, cluster.beta))
    ]


def by_elastic_torchrun(cluster: Cluster, words: list[str]) -> list[list[str]]:
    """The same command on each host: one or two of them, as they come and go."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=alpha:29400", "--rdzv-id=test"]
    start = [*torchrun, *rendezvous, "--max-restarts=5", "-m", "mgm_dali", *words]
    # Without it whoever comes later is never told where the ranks meet (PyTorch 2.13).
    environment = cluster.environment() | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return [
        host.command(cluster.folder, environment, *start) for host in (cluster.alpha, cluster.beta)
    ]


def by_nobody(cluster: Cluster, words: list[str]) -> list[list[str]]:
    """One process on alpha."""
    start = [sys.executable, "-m", "mgm_dali", *words]
    return [cluster.alpha.command(cluster.folder, cluster.environment(), *start)]


LAUNCHERS: dict[str, Callable[[Cluster, list[str]], list[list[str]]]] = {
    "none": by_nobody,
    "deepspeed": by_deepspeed,
    "torchrun": by_torchrun,
    "elastic_torchrun": by_elastic_torchrun,
}


def rank_of(host: Host) -> Process:
    """The process that trains there: the first that a launcher has told its rank."""
    ranks = [process for process in host.processes() if "LOCAL_RANK" in process.environ]
    if not ranks:
        raise Failure(f"no rank on {host.name}")
    return min(ranks)


def under_way(cluster: Cluster, job: Job) -> None:
    """Waits until both hosts train."""
    job.wait_until(lambda: len(job.losses()) >= 2, "at work")
    for number, host in enumerate((cluster.alpha, cluster.beta)):
        if rank_of(host).environ["RANK"] != str(number):
            raise Failure(f"{host.name} has rank {rank_of(host).environ['RANK']}")
