"""What would make a run faster, and by how much: changes tried in the model, not on the machine."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mgm_dali.profiling.costs import Bound, Costs, Machine, StepTime, find_bound, limits

__all__ = ["Advice", "Facts", "advise", "in_a_sentence"]

LEAST_GAIN = 1.03
"""Below it nobody would see the difference."""
STORE_GAIN = 50
"""How many times as fast as live the store gives motion, at least (RESULTS.md, Motion)."""
SLOW_STORAGE = 0.2
"""Of a worker's time that goes by waiting for files, from which on that is worth saying."""

MOST_WORKERS_A_CORE = 4


@dataclass(frozen=True)
class Facts:
    """What advice depends on beside the costs."""

    repeats: int
    """`augment.repeats`."""
    batch_size: int
    accumulate_steps: int
    motion_source: str | None
    prepared: tuple[float, float] | None
    """What is left of a worker's wall and CPU time for a clip once `mgm-dali prepare` has made its
    video anew, as shares; None if that was not tried."""
    half_decoded: float | None
    """What forward and backward take with `mask.decoded_share=0.5`, as a share of now; None if
    that cannot be set."""


@dataclass(frozen=True)
class Advice:
    """One change, and what it would give by the model."""

    change: str
    """Overrides, or a command."""
    clips_per_second: float
    gain: float
    """How many times as many clips as now."""
    alters_training: bool
    """What is learnt is no longer the same."""


def advise(costs: Costs, machine: Machine, facts: Facts) -> list[Advice]:
    """The changes that pay: first those that leave the training as it is, the best one first."""
    now = find_bound(costs, machine).clips_per_second
    found = []
    for change, other_costs, other_machine, alters in _ideas(costs, machine, facts):
        rate = find_bound(other_costs, other_machine).clips_per_second
        if rate > LEAST_GAIN * now:
            found.append(Advice(change, rate, rate / now, alters))
    return sorted(found, key=lambda one: (one.alters_training, -one.gain))


def in_a_sentence(bound: Bound, costs: Costs, machine: Machine, advice: list[Advice]) -> str:
    """What bounds the run, and what to do about it."""
    allowed = limits(costs, machine)
    share = f"{bound.step_share:.0%} of"
    if bound.name == "workers":
        who = f"{machine.num_workers or 'no'} worker process(es)"
        said = (
            f"Reading bounds this run: {who} give {bound.clips_per_second:.3g} clips/s, the "
            f"network could take {allowed['network']:.3g}; {share} a worker's time is {bound.step}"
        )
    elif bound.name == "graph":
        said = (
            f"DALI's graph bounds this run: it gives {bound.clips_per_second:.3g} clips/s, the "
            f"network could take {allowed['network']:.3g}; {share} its time is {bound.step}"
        )
    elif bound.name == "network":
        readable = min(allowed["workers"], allowed["graph"])
        said = (
            f"The network bounds this run: it takes {bound.clips_per_second:.3g} clips/s, and "
            f"{readable:.3g} could be read; {share} a step is {bound.step}"
        )
    else:
        said = (
            f"The processor bounds this run: its cores allow {bound.clips_per_second:.3g} clips/s, "
            f"and {share} their time goes to the {bound.step}"
        )
    if bound.cores_exhausted and bound.name != "cores":
        said += f"; {machine.cores:.3g} core(s) are all there is"
    free = [one for one in advice if not one.alters_training]
    if free:
        best = free[0]
        return (
            f"{said}. {best.change} would give about {best.clips_per_second:.3g} clips/s, "
            f"{best.gain:.1f} times as many."
        )
    return f"{said}. Nothing that leaves the training as it is would make it clearly faster."


Idea = tuple[str, Costs, Machine, bool]


def _ideas(costs: Costs, machine: Machine, facts: Facts) -> Iterator[Idea]:
    yield from _workers(costs, machine)
    if facts.prepared is not None:
        yield "mgm-dali prepare", _read_in(costs, *facts.prepared), machine, False
    waiting = sum(step.seconds - step.cpu_seconds for step in costs.worker_steps.values())
    if waiting > SLOW_STORAGE * costs.worker.seconds:
        computing = costs.worker.cpu_seconds / costs.worker.seconds
        yield "files on faster storage", _read_in(costs, computing, 1.0), machine, False
    if facts.motion_source not in (None, "store"):
        motion = costs.worker_steps["motion"]
        spared = 1 - 1 / STORE_GAIN
        left = 1 - spared * motion.seconds / costs.worker.seconds
        cpu_left = 1 - spared * motion.cpu_seconds / costs.worker.cpu_seconds
        change = "mgm-dali extract, then data.motion_store=STORE"
        yield change, _read_in(costs, left, cpu_left), machine, False
    doubled = 2 * facts.repeats
    if facts.batch_size % doubled == 0:
        yield f"augment.repeats={doubled}", _read_in(costs, 0.5, 0.5), machine, True
    if facts.half_decoded is not None:
        parts = costs.network_steps
        spared = (1 - facts.half_decoded) * (parts["forward"].seconds + parts["backward"].seconds)
        yield "mask.decoded_share=0.5", _computed_in(costs, spared), machine, True
    spared = costs.network_steps["optimiser"].seconds / 2
    change = f"training.accumulate_steps={2 * facts.accumulate_steps}"
    yield change, _computed_in(costs, spared), machine, True


def _workers(costs: Costs, machine: Machine) -> Iterator[Idea]:
    """As few worker processes as give the most: more than cores pay where they wait for files."""
    numbers = range(1, MOST_WORKERS_A_CORE * max(int(machine.cores), 1) + 1)
    options = {number: replace(machine, num_workers=number) for number in numbers}
    rates = {n: find_bound(costs, option).clips_per_second for n, option in options.items()}
    enough = min(n for n in numbers if rates[n] > 0.98 * max(rates.values()))
    yield f"data.num_workers={enough}", costs, options[enough], False


def _read_in(costs: Costs, share: float, cpu_share: float) -> Costs:
    """With these shares of a worker's wall and CPU time."""
    worker = StepTime(costs.worker.seconds * share, costs.worker.cpu_seconds * cpu_share)
    return replace(costs, worker=worker)


def _computed_in(costs: Costs, spared_seconds: float) -> Costs:
    share = 1 - spared_seconds / sum(step.seconds for step in costs.network_steps.values())
    network = StepTime(costs.network.seconds * share, costs.network.cpu_seconds * share)
    return replace(costs, network=network)
