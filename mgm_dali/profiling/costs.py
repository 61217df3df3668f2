"""What a clip costs, and which part of a machine bounds a run: a model that fits on a page.

    worker processes ---> DALI's graph ---> network        side by side, each with its own clip
    \\_________________ processor cores _________________/   which all of them share

A clip needs each for some time, measured alone. Nothing can be faster than the one that takes
longest for a clip: that is the bound, and its rate is the prediction. Time is in seconds a clip of
one rank; W worker processes take W clips at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Bound", "Costs", "Machine", "StepTime", "find_bound", "limits", "mean_time"]

OWN_SHARE = 0.7
"""Who takes more than this share of the CPU time is what exhausts the cores."""


@dataclass(frozen=True)
class StepTime:
    """Time of one step of the work."""

    seconds: float
    cpu_seconds: float


def mean_time(taken: Sequence[StepTime]) -> StepTime:
    """The mean of both times."""
    count = len(taken)
    return StepTime(
        sum(one.seconds for one in taken) / count,
        sum(one.cpu_seconds for one in taken) / count,
    )


@dataclass(frozen=True)
class Machine:
    """What one rank has."""

    num_workers: int
    """0: the clips are read in the run's own process, between its steps."""
    cores: float
    """The machine's, by the ranks on it."""
    is_gpu: bool


@dataclass(frozen=True)
class Costs:
    """What one clip takes."""

    worker_steps: dict[str, StepTime]
    """`draw`, `read`, `index`, `decode`, `motion`: what a worker process does."""
    worker: StepTime
    """All of them."""
    graph_steps: dict[str, float]
    """Seconds: `hand over`, `decode` (by NVDEC), `copy`, `augment`; each alone."""
    graph: StepTime
    """All of them, for as long as the graph is busy with a clip."""
    network_steps: dict[str, StepTime]
    """`mask`, `forward`, `backward`, `optimiser`."""
    network: StepTime
    """All of them: the device is busy for so long."""

    @property
    def cpu_seconds(self) -> float:
        """Of all processes."""
        return self.worker.cpu_seconds + self.graph.cpu_seconds + self.network.cpu_seconds


@dataclass(frozen=True)
class Bound:
    """What a run waits for."""

    name: str
    """`workers`, `graph` or `network`; `cores` if all of these exhaust them together."""
    step: str
    """What takes most of its time."""
    step_share: float
    cores_exhausted: bool
    """The processor, not the number of processes or the device, is at its end."""
    clips_per_second: float
    """Of one rank; nothing makes more of them."""


def limits(costs: Costs, machine: Machine) -> dict[str, float]:
    """Clips a second that each part would allow by itself."""
    reading = costs.worker.seconds
    if machine.num_workers == 0 and not machine.is_gpu:
        reading += costs.network.seconds  # one after the other, in one process
    return {
        "workers": max(machine.num_workers, 1) / reading,
        "graph": 1 / costs.graph.seconds,
        "network": 1 / costs.network.seconds,
        "cores": machine.cores / costs.cpu_seconds,
    }


def find_bound(costs: Costs, machine: Machine) -> Bound:
    """The part that allows the fewest clips."""
    allowed = limits(costs, machine)
    name = min(allowed, key=lambda part: allowed[part])
    shares = {
        "workers": costs.worker.cpu_seconds,
        "graph": costs.graph.cpu_seconds,
        "network": costs.network.cpu_seconds,
    }
    who = name
    if name == "cores":
        largest = max(shares, key=lambda part: shares[part])
        who = largest if shares[largest] > OWN_SHARE * sum(shares.values()) else "cores"
    steps = {
        "workers": {name: step.seconds for name, step in costs.worker_steps.items()},
        "graph": costs.graph_steps,
        "network": {name: step.seconds for name, step in costs.network_steps.items()},
        "cores": shares,
    }[who]
    step = max(steps, key=lambda part: steps[part])
    return Bound(
        name=who,
        step=step,
        step_share=steps[step] / sum(steps.values()),
        cores_exhausted=name == "cores",
        clips_per_second=allowed[name],
    )
