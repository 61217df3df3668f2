"""What a clip costs, and what bounds a run: a model that fits on a page, held to what was found.

    worker processes ---> DALI's graph ---> computing      side by side, each with its own clip
    storage, and the processor's cores                     which all of them share

A clip needs each of them for some time. No run is faster than the one that allows the fewest clips.
Time is in seconds a clip of one rank; W worker processes take W clips at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mgm_dali.profiling.step_time import StepTime, total_time

__all__ = ["Bound", "Costs", "Machine", "RankFound", "as_found", "find_bound", "limits"]

OWN_SHARE = 0.7
"""Who takes more than this share of the CPU time is what exhausts the cores."""
STARVED, FED = 0.15, 0.05
"""Shares of the time that a run waits for clips: above the one reading bounds it, below the other
computing does; in between the model decides."""
FEEDING = ("storage", "workers", "graph")


@dataclass(frozen=True)
class Machine:
    """What one rank has."""

    num_workers: int
    """0: the clips are read in the run's own process, between its steps."""
    cores: float
    storage_bytes_per_second: float
    """Of files that nobody has read before; the share of one rank."""
    is_gpu: bool


@dataclass(frozen=True)
class Costs:
    """What one clip takes."""

    worker_steps: dict[str, StepTime]
    """`draw`, `read`, `index`, `decode`, `motion`: what a worker process does."""
    worker: StepTime
    """All of them."""
    file_bytes: float
    """That are read."""
    graph_steps: dict[str, StepTime]
    """`hand over`, `decode` (by NVDEC), `copy`, `augment`. On a GPU they run side by side: each
    with those before it, as far as they are slower than these."""
    graph: StepTime
    """All of them, for as long as the graph is busy with a clip."""
    computing_steps: dict[str, StepTime]
    """`mask`, `forward`, `backward`, `optimiser`, `averaging` over the ranks."""
    computing: StepTime
    """All of them."""

    @property
    def places(self) -> dict[str, tuple[dict[str, StepTime], StepTime]]:
        """The steps of each place that takes time, and all of them."""
        return {
            "workers": (self.worker_steps, self.worker),
            "graph": (self.graph_steps, self.graph),
            "computing": (self.computing_steps, self.computing),
        }

    @property
    def cpu_seconds(self) -> float:
        """Of all processes."""
        return self.worker.cpu_seconds + self.graph.cpu_seconds + self.computing.cpu_seconds

    def computed_otherwise(self, steps: Mapping[str, StepTime]) -> "Costs":
        """With these steps of computing instead of its own: the whole changes as their sum does.

        To take their difference from the whole could leave less than nothing: steps are timed one
        by one, at other moments than the whole.
        """
        changed = {**self.computing_steps, **steps}
        before, after = total_time(self.computing_steps.values()), total_time(changed.values())
        computing = StepTime(
            self.computing.seconds * after.seconds / before.seconds,
            self.computing.cpu_seconds * after.cpu_seconds / before.cpu_seconds,
        )
        return replace(self, computing_steps=changed, computing=computing)


@dataclass(frozen=True)
class RankFound:
    """What one rank did when everything was at work."""

    clips_per_second: float
    data_wait_share: float
    skipped: int = 0
    """Clips whose videos cannot be read."""


@dataclass(frozen=True)
class Bound:
    """What a run waits for."""

    limit: str
    """Which of `limits` it is."""
    place: str
    """Who is to be named for it: the same, or who takes nearly all of the cores."""
    step: str
    """What takes most of its time."""
    step_share: float
    cores_exhausted: bool
    """The processor, not the number of processes or the device, is at its end."""
    clips_per_second: float
    """That it allows one rank."""


def limits(costs: Costs, machine: Machine) -> dict[str, float]:
    """Clips a second that each place would allow by itself."""
    reading = costs.worker.seconds
    if machine.num_workers == 0 and not machine.is_gpu:
        reading += costs.computing.seconds  # one after the other, in one process
    return {
        "storage": machine.storage_bytes_per_second / max(costs.file_bytes, 1),
        "workers": max(machine.num_workers, 1) / reading,
        "graph": 1 / costs.graph.seconds,
        "computing": 1 / costs.computing.seconds,
        "cores": machine.cores / costs.cpu_seconds,
    }


def find_bound(costs: Costs, machine: Machine, data_wait_share: float | None = None) -> Bound:
    """The place that allows the fewest clips, among those that a run's waiting leaves open."""
    allowed = limits(costs, machine)
    places = list(allowed)
    if data_wait_share is not None and data_wait_share > STARVED:
        places.remove("computing")
    elif data_wait_share is not None and data_wait_share < FED:
        places = [place for place in places if place not in FEEDING]
    limit = min(places, key=lambda place: allowed[place])
    place = _who(limit, costs, machine)
    steps = _seconds_by_step(place, costs)
    step = max(steps, key=lambda name: steps[name])
    return Bound(
        limit=limit,
        place=place,
        step=step,
        step_share=steps[step] / sum(steps.values()),
        cores_exhausted=limit == "cores",
        clips_per_second=allowed[limit],
    )


def as_found(costs: Costs, machine: Machine, found: RankFound) -> tuple[Costs, Machine]:
    """The model, held to what a run did: what bounds it allows just that, all else no less."""
    bound = find_bound(costs, machine, found.data_wait_share)
    allowed = limits(costs, machine)
    rate = found.clips_per_second
    slower = {
        limit: clips / (rate if limit == bound.limit else max(clips, rate))
        for limit, clips in allowed.items()
    }
    if machine.num_workers == 0 and not machine.is_gpu:  # the one process does both
        slower["computing"] = slower["workers"]
    return replace(
        costs,
        worker_steps={n: _taking(slower["workers"], s) for n, s in costs.worker_steps.items()},
        worker=_taking(slower["workers"], costs.worker),
        graph=_taking(slower["graph"], costs.graph),
        computing_steps={
            n: _taking(slower["computing"], s) for n, s in costs.computing_steps.items()
        },
        computing=_taking(slower["computing"], costs.computing),
    ), replace(
        machine,
        cores=machine.cores / slower["cores"],
        storage_bytes_per_second=machine.storage_bytes_per_second / slower["storage"],
    )


def _taking(factor: float, time: StepTime) -> StepTime:
    """As much work, which takes so many times as long."""
    return replace(time, seconds=factor * time.seconds)


def _who(limit: str, costs: Costs, machine: Machine) -> str:
    """Who is to be named for a limit."""
    alone = machine.num_workers == 0 and not machine.is_gpu
    if limit == "workers" and alone and costs.computing.seconds > costs.worker.seconds:
        return "computing"  # the one process does both
    if limit != "cores":
        return limit
    shares = _cpu_seconds_by_place(costs)
    largest = max(shares, key=lambda place: shares[place])
    return largest if shares[largest] > OWN_SHARE * costs.cpu_seconds else "cores"


def _seconds_by_step(place: str, costs: Costs) -> dict[str, float]:
    if place == "cores":
        return _cpu_seconds_by_place(costs)
    if place == "storage":
        return {"read": costs.worker_steps["read"].seconds}
    steps, _ = costs.places[place]
    return {name: step.seconds for name, step in steps.items()}


def _cpu_seconds_by_place(costs: Costs) -> dict[str, float]:
    return {place: whole.cpu_seconds for place, (_, whole) in costs.places.items()}
