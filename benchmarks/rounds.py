"""Rounds of measurements: contenders take turns at every job, so that all share the noise.

round 0 (not counted)   job 1: A B C   job 2: A B C   ...
round 1                 job 1: A B C   job 2: A B C   ...
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from peers import PeerError, Worker

__all__ = ["Contender", "Job", "Ratio", "Timings", "run_rounds"]


@dataclass(frozen=True)
class Contender:
    """One way to do the jobs of a section."""

    label: str
    peer: str
    """A name of `PEERS`, whose interpreter it needs; any other is content with the project's."""
    task: str
    """A name of `TASKS` in `peer_worker.py`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Beside those of the job."""
    is_new: bool = True
    """Meets the file under a name that was never used, so that nothing is remembered of it."""
    does_part: bool = False
    """Too slow for all frames of a job: does some, and the time is scaled."""


@dataclass(frozen=True)
class Job:
    """What every contender of a section does: a whole video, or one clip of it."""

    name: str
    path: Path
    num_frames: int
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """How many times as much time one contender takes as another."""

    median: float
    """Of the medians."""
    low: float
    """The lowest of a single round."""
    high: float


@dataclass
class Timings:
    """Seconds, mostly of CPU time, by label, job and round."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    """Reasons by label and job; a job that failed once is not tried again."""
    notes: list[str] = field(default_factory=list)

    def add(self, contender: Contender, job: Job, answer: Mapping[str, float]) -> None:
        """Keeps what one round took, scaled to the frames of the job where it gave others."""
        given, label = answer["frames"], contender.label
        note = f"{label}: gave {given} of the {job.num_frames} frames of {job.name}; scaled"
        if given != job.num_frames and not contender.does_part and note not in self.notes:
            self.notes.append(note)
        seconds = answer["cpu_seconds"] * job.num_frames / given
        self.seconds.setdefault(label, {}).setdefault(job.name, []).append(seconds)

    def totals(self, label: str, jobs: Collection[str]) -> list[float]:
        """CPU seconds of these jobs together, one number a round."""
        rounds = zip(*(self.seconds[label][job] for job in jobs), strict=True)
        return [sum(seconds) for seconds in rounds]

    def common_jobs(self, *labels: str) -> list[str]:
        """Jobs that all of these contenders have done."""
        done = [self.seconds.get(label, {}) for label in labels]
        return [job for job in done[0] if all(job in jobs for jobs in done)]

    def ratio(self, over: str, under: str, jobs: Collection[str]) -> Ratio | None:
        """Over those of the jobs that both have done; None if there are none."""
        both = set(self.common_jobs(over, under)).intersection(jobs)
        if not both:
            return None
        above, below = self.totals(over, both), self.totals(under, both)
        of_rounds = [a / b for a, b in zip(above, below, strict=True)]
        return Ratio(median(above) / median(below), min(of_rounds), max(of_rounds))


def run_rounds(
    contenders: Sequence[Contender],
    jobs: Sequence[Job],
    workers: Mapping[str, Worker],
    num_rounds: int,
    progress: Callable[[int, int], None],
) -> Timings:
    """Measures every job by every contender, `num_rounds` times after one that is not counted.

    `workers` has a process for each label.
    """
    timings = Timings()
    turns = list(product(range(num_rounds + 1), jobs, contenders))
    with TemporaryDirectory(prefix="mgm-dali-bench-") as folder:
        for done, (number, job, contender) in enumerate(turns, 1):
            failures = timings.failures.setdefault(contender.label, {})
            if job.name in failures:
                continue
            path = _new_name(job.path, Path(folder)) if contender.is_new else job.path
            arguments = {"path": str(path), **job.arguments, **contender.arguments}
            try:
                answer = workers[contender.label].measure(contender.task, arguments)
            except PeerError as error:
                failures[job.name] = str(error)
                timings.seconds.get(contender.label, {}).pop(job.name, None)
                continue
            if number:  # the first round loads libraries and files
                timings.add(contender, job, answer)
            progress(done, len(turns))
    return timings


_numbers = count()


def _new_name(path: Path, folder: Path) -> Path:
    link = folder / f"{next(_numbers)}{path.suffix}"
    link.symlink_to(path.absolute())
    return link
