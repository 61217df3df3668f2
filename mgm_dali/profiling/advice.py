"""What would make a run faster, and by how much: changes tried in the model, not on the machine."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mgm_dali.profiling.costs import Bound, Costs, Machine, RankFound, as_found, find_bound, limits
from mgm_dali.profiling.step_time import StepTime

__all__ = ["Advice", "Facts", "advise", "in_a_sentence"]

LEAST_GAIN = 1.05
"""Below it nobody would see the difference."""
STORED_SECONDS = 0.001
"""What the motion of a clip takes from a store (RESULTS.md, Motion)."""
MOST_WORKERS_A_CORE = 4
LEAST_SHARE = 0.02
"""Of its time that is left to a worker, whatever it is spared: two measurements differ a little."""
TO_TRY = {
    # what bounds a run: settings of which the model does not know the effect
    "storage": "workers=4,8,16",
    "workers": "prefetch=1,2,4",
    "graph": "prefetch=1,2,4 batch_size=8,16",
    "computing": "compile=false,true batch_size=8,16",
    "cores": "workers=1,2,4",
}
ROUGHLY = 0.75
"""A run that reaches less than this share of what its parts promise is not explained by them."""


@dataclass(frozen=True)
class Facts:
    """What advice depends on beside the costs."""

    repeats: int
    """`augment.repeats`."""
    batch_size: int
    accumulate_steps: int
    has_global_batch: bool
    motion_source: str | None
    to_store: str
    """What fills a motion store of that source and takes motion from it."""
    prepared: StepTime | None
    """What a worker takes for a clip once `mgm-dali prepare` has made its video anew, as shares of
    now; None if that was not tried, or would not pay."""
    prepared_bytes: float
    """The size of its file then, as a share of now."""
    half_decoded: float | None
    """What forward and backward take with `mask.decoded_share=0.5`, as a share of now; None if
    that cannot be set."""


@dataclass(frozen=True)
class Advice:
    """One change, and what it would give by the model."""

    change: str
    """Overrides, or a command."""
    gain: float
    """How many times as many clips as now."""
    alters_training: bool
    """What is learnt is no longer the same."""


def advise(costs: Costs, machine: Machine, found: RankFound, facts: Facts) -> list[Advice]:
    """The changes that pay: first those that leave the training as it is, the best one first."""
    most_workers = MOST_WORKERS_A_CORE * max(int(machine.cores), 1)
    costs, machine = as_found(costs, machine, found)
    now = find_bound(costs, machine).clips_per_second
    advice = []
    for change, other_costs, other_machine, alters in _ideas(costs, machine, facts, most_workers):
        gain = find_bound(other_costs, other_machine).clips_per_second / now
        if gain > LEAST_GAIN:
            advice.append(Advice(change, gain, alters))
    return sorted(advice, key=lambda one: (one.alters_training, -one.gain))


def in_a_sentence(costs: Costs, machine: Machine, found: RankFound, advice: list[Advice]) -> str:
    """What bounds the run, and what to do about it: of what was found, explained by the model."""
    bound = find_bound(costs, machine, found.data_wait_share)
    said = (
        f"{_subject(bound, costs, machine)} this run: {found.clips_per_second:.3g} clips/s a rank, "
        f"waiting for data {found.data_wait_share:.0%}; {bound.step_share:.0%} of "
        f"{_whose(bound)} is {bound.step}"
    )
    if bound.cores_exhausted and bound.place != "cores":
        said += f"; {machine.cores:.3g} core(s) are all there is"
    promised = min(limits(costs, machine).values())
    if found.clips_per_second < ROUGHLY * promised:
        said += (
            f". The parts alone promise {promised:.3g}: they share more than this "
            "model knows, or the machine was busy"
        )
    free = [one for one in advice if not one.alters_training]
    if not free:
        return (
            f"{said}. Of what can be predicted, nothing that leaves the training as it is helps; "
            f"--sweep {TO_TRY[bound.place]} tries what cannot."
        )
    rate = free[0].gain * found.clips_per_second
    return (
        f"{said}. {free[0].change} would give about {rate:.3g} clips/s, {free[0].gain:.1f} times "
        "as many."
    )


def _subject(bound: Bound, costs: Costs, machine: Machine) -> str:
    if bound.place == "workers":
        allowed = limits(costs, machine)["workers"]
        who = f"{machine.num_workers or 'no'} worker process(es), good for {allowed:.3g} clips/s,"
        return f"Reading by {who} bounds"
    return {
        "storage": "The storage bounds",
        "graph": "DALI's graph bounds",
        "computing": "Computing bounds",
        "cores": "The processor bounds",
    }[bound.place]


def _whose(bound: Bound) -> str:
    return {
        "storage": "that time",
        "workers": "a worker's time",
        "graph": "its time",
        "computing": "a step",
        "cores": "its time",
    }[bound.place]


Idea = tuple[str, Costs, Machine, bool]


def _ideas(costs: Costs, machine: Machine, facts: Facts, most_workers: int) -> Iterator[Idea]:
    read = costs.worker_steps["read"]
    waiting = max(read.seconds - read.cpu_seconds, 0.0)
    least = min(costs.worker.cpu_seconds / costs.worker.seconds, 1.0)
    left = max(1 - waiting / costs.worker.seconds, least)
    quick = replace(machine, storage_bytes_per_second=float("inf"))
    yield "files on faster storage", _read_in(costs, StepTime(left, 1.0)), quick, False
    yield _of_workers(costs, machine, most_workers)
    if facts.prepared is not None:
        smaller = replace(costs, file_bytes=costs.file_bytes * facts.prepared_bytes)
        yield "mgm-dali prepare", _read_in(smaller, facts.prepared), machine, False
    if facts.motion_source not in (None, "store"):
        motion = costs.worker_steps["motion"]
        stored = StepTime(
            1 - max(motion.seconds - STORED_SECONDS, 0) / costs.worker.seconds,
            1 - max(motion.cpu_seconds - STORED_SECONDS, 0) / costs.worker.cpu_seconds,
        )
        yield facts.to_store, _read_in(costs, stored), machine, False
    doubled = 2 * facts.repeats
    if facts.batch_size % doubled == 0:
        halved = replace(_read_in(costs, StepTime(0.5, 0.5)), file_bytes=costs.file_bytes / 2)
        yield f"augment.repeats={doubled}", halved, machine, True
    if facts.half_decoded is not None:
        halved = _in_shares(costs, facts.half_decoded, "forward", "backward")
        yield "mask.decoded_share=0.5", halved, machine, True
    if not facts.has_global_batch:
        change = f"training.accumulate_steps={2 * facts.accumulate_steps}"
        yield change, _in_shares(costs, 0.5, "optimiser", "averaging"), machine, True


def _of_workers(costs: Costs, machine: Machine, most: int) -> Idea:
    """As few worker processes as give the most: more than cores pay where they wait for files."""
    options = [replace(machine, num_workers=number) for number in range(1, most + 1)]
    rates = [find_bound(costs, option).clips_per_second for option in options]
    best = max(rates)
    enough = next(option for option, rate in zip(options, rates, strict=True) if rate > 0.98 * best)
    return f"data.num_workers={enough.num_workers}", costs, enough, False


def _read_in(costs: Costs, shares: StepTime) -> Costs:
    """With these shares of a worker's wall and CPU time."""
    worker = StepTime(
        costs.worker.seconds * max(shares.seconds, LEAST_SHARE),
        costs.worker.cpu_seconds * max(shares.cpu_seconds, LEAST_SHARE),
    )
    return replace(costs, worker=worker)


def _in_shares(costs: Costs, share: float, *steps: str) -> Costs:
    """With this share of what these steps of computing take."""
    return costs.computed_otherwise({name: costs.computing_steps[name] * share for name in steps})
