"""What bounds a run and what would help: the model of a run, on costs that are known."""

from dataclasses import replace

import pytest

from mgm_dali.profiling.advice import Facts, advise, in_a_sentence
from mgm_dali.profiling.costs import Costs, Machine, StepTime, find_bound, limits

NO_FACTS = Facts(1, 7, 1, "store", None, None)


def costs_of(reading=0.01, waiting=0.0, graph=0.001, network=0.01, **steps):
    """Costs of so many seconds; a worker computes while it reads, and waits beside."""
    worker_steps = {
        "draw": StepTime(0.0, 0.0),
        "read": StepTime(waiting, 0.0),
        "index": StepTime(0.1 * reading, 0.1 * reading),
        "decode": StepTime(0.8 * reading, 0.8 * reading),
        "motion": StepTime(0.1 * reading, 0.1 * reading),
    }
    parts = {"mask": 0.0, "forward": 0.3, "backward": 0.6, "optimiser": 0.1}
    return Costs(
        worker_steps=worker_steps,
        worker=StepTime(reading + waiting, reading),
        graph_steps={"hand over": 0.4 * graph, "decode": 0.0, "copy": 0.0, "augment": 0.6 * graph},
        graph=StepTime(graph, graph),
        network_steps={
            name: StepTime(share * network, 0.1 * share * network)
            for name, share in {**parts, **steps}.items()
        },
        network=StepTime(network, 0.1 * network),
    )


ROOMY = Machine(num_workers=8, cores=64, is_gpu=True)
BOUNDS = {
    # name: costs, machine, what bounds the run, the step in it, clips a second
    "slow decoder": (costs_of(reading=0.4), ROOMY, "workers", "decode", 20),
    "slow disk": (costs_of(waiting=0.39), ROOMY, "workers", "read", 20),
    "one worker": (costs_of(reading=0.05), replace(ROOMY, num_workers=1), "workers", "decode", 20),
    "huge model": (costs_of(network=0.5), ROOMY, "network", "backward", 2),
    "slow graph": (costs_of(graph=0.1), ROOMY, "graph", "augment", 10),
    "few cores, slow decoder": (
        *(costs_of(reading=0.2), replace(ROOMY, cores=2)),
        *("workers", "decode", 2 / (0.2 + 0.001 + 0.001)),
    ),
    "few cores for all": (
        *(costs_of(reading=0.01, graph=0.01), replace(ROOMY, cores=1)),
        *("cores", "workers", 1 / (0.01 + 0.01 + 0.001)),
    ),
    "no workers, a CPU": (
        *(costs_of(reading=0.03), Machine(0, 64, is_gpu=False)),
        *("workers", "decode", 1 / (0.03 + 0.01)),
    ),
    "no workers, a GPU": (
        *(costs_of(reading=0.03), Machine(0, 64, is_gpu=True)),
        *("workers", "decode", 1 / 0.03),
    ),
}


@pytest.mark.parametrize(("costs", "machine", "name", "step", "rate"), BOUNDS.values(), ids=BOUNDS)
def test_the_bound_is_what_takes_longest_for_a_clip(costs, machine, name, step, rate):
    bound = find_bound(costs, machine)
    assert (bound.name, bound.step) == (name, step)
    assert bound.clips_per_second == pytest.approx(rate)
    assert bound.clips_per_second == min(limits(costs, machine).values())


def test_exhausted_cores_are_told_from_too_few_workers():
    slow = costs_of(reading=0.2)
    assert find_bound(slow, replace(ROOMY, cores=2)).cores_exhausted
    assert not find_bound(slow, replace(ROOMY, num_workers=1)).cores_exhausted


def test_more_workers_are_advised_while_cores_are_free_and_no_more_than_pay():
    costs = costs_of(reading=0.1)  # the network takes 100 clips/s: ten workers feed it
    (best, *_) = advise(costs, replace(ROOMY, num_workers=1), NO_FACTS)
    assert best.change == "data.num_workers=10"
    assert best.clips_per_second == pytest.approx(100)
    assert best.gain == pytest.approx(10)
    assert not best.alters_training


def test_no_workers_are_advised_where_the_cores_are_all_busy():
    costs = costs_of(reading=0.1)
    changes = [one.change for one in advise(costs, Machine(2, 2, False), NO_FACTS)]
    assert not any("num_workers" in change for change in changes)


def test_more_workers_than_cores_are_advised_where_they_wait_for_files():
    costs = costs_of(reading=0.001, waiting=0.1)
    best = advise(costs, Machine(2, 4, is_gpu=True), NO_FACTS)[0]
    assert best.change == "files on faster storage"
    workers = [
        one for one in advise(costs, Machine(2, 4, True), NO_FACTS) if "workers" in one.change
    ]
    assert workers[0].change == "data.num_workers=10"


def test_what_preparing_gains_follows_from_what_was_tried():
    facts = replace(NO_FACTS, prepared=(0.25, 0.25))
    costs, machine = costs_of(reading=0.1), Machine(1, 1, is_gpu=True)
    found = {one.change: one for one in advise(costs, machine, facts)}
    before, after = 0.1 + 0.001 + 0.001, 0.025 + 0.001 + 0.001  # CPU seconds on one core
    assert found["mgm-dali prepare"].gain == pytest.approx(before / after)


def test_a_store_spares_the_time_of_motion_alone():
    facts = replace(NO_FACTS, motion_source="codec")
    found = {one.change: one for one in advise(costs_of(reading=0.1), Machine(1, 64, True), facts)}
    gain = next(one.gain for change, one in found.items() if "motion_store" in change)
    assert gain == pytest.approx(1 / (1 - 0.1 * 0.98))
    assert not any("motion_store" in one.change for one in advise(costs_of(), ROOMY, NO_FACTS))


def test_what_changes_the_training_is_called_so_and_comes_last():
    facts = Facts(1, 8, 1, "codec", (0.9, 0.9), 0.8)
    for costs in (costs_of(reading=0.4), costs_of(network=0.5)):
        flags = [one.alters_training for one in advise(costs, ROOMY, facts)]
        assert flags == sorted(flags) and flags
    changes = {one.change for one in advise(costs_of(network=0.5), ROOMY, facts)}
    assert changes == {"mask.decoded_share=0.5", "training.accumulate_steps=2"}


def test_repeats_are_only_advised_where_they_divide_the_batch():
    slow, machine = costs_of(reading=1.0), replace(ROOMY, cores=1, num_workers=1)
    for batch, advised in ((8, True), (7, False)):
        changes = [one.change for one in advise(slow, machine, replace(NO_FACTS, batch_size=batch))]
        assert ("augment.repeats=2" in changes) == advised


def test_nothing_is_advised_that_would_not_be_noticed():
    well_fed = Machine(8, 64, is_gpu=True)
    assert advise(costs_of(optimiser=0.0), well_fed, replace(NO_FACTS, prepared=(0.1, 0.1))) == []


@pytest.mark.parametrize(("costs", "machine", "name", "step", "rate"), BOUNDS.values(), ids=BOUNDS)
def test_the_sentence_names_the_bound_its_step_and_the_best_change(
    costs, machine, name, step, rate
):
    bound = find_bound(costs, machine)
    advice = advise(costs, machine, NO_FACTS)
    said = in_a_sentence(bound, costs, machine, advice)
    words = {"workers": "Reading", "graph": "DALI's graph", "network": "network", "cores": "cores"}
    assert words[name] in said and step in said
    assert f"{rate:.3g} clips/s" in said
    free = [one for one in advice if not one.alters_training]
    assert (free[0].change if free else "Nothing") in said
    assert said.endswith(".") and "\n" not in said
