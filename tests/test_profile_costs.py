"""What bounds a run and what would help: the model of a run, on costs that are known."""

from dataclasses import replace

import pytest

from mgm_dali.profiling.advice import Facts, advise, in_a_sentence
from mgm_dali.profiling.costs import Costs, Machine, RankFound, as_found, find_bound, limits
from mgm_dali.profiling.step_time import StepTime

TO_STORE = "mgm-dali extract, then data.motion_store=STORE"
NO_FACTS = Facts(
    repeats=1,
    batch_size=7,
    accumulate_steps=1,
    has_global_batch=True,
    motion_source="store",
    to_store=TO_STORE,
    prepared=None,
    prepared_bytes=1.0,
    half_decoded=None,
)
FILE_BYTES = 1000
UNLIMITED = 1e12


def both(seconds, busy=1.0):
    return StepTime(seconds, busy * seconds)


def costs_of(reading=0.01, waiting=0.0, graph=0.001, computing=0.01, **shares):
    """Costs of so many seconds; a worker computes while it reads, and waits beside."""
    parts = {"mask": 0.0, "forward": 0.3, "backward": 0.6, "optimiser": 0.1, "averaging": 0.0}
    return Costs(
        worker_steps={
            "draw": both(0.0),
            "read": StepTime(waiting, 0.0),
            "index": both(0.1 * reading),
            "decode": both(0.8 * reading),
            "motion": both(0.1 * reading),
        },
        worker=StepTime(reading + waiting, reading),
        file_bytes=FILE_BYTES,
        graph_steps={"hand over": both(0.4 * graph), "augment": both(0.6 * graph)},
        graph=both(graph),
        computing_steps={
            name: both(share * computing, 0.1) for name, share in {**parts, **shares}.items()
        },
        computing=both(computing, 0.1),
    )


ROOMY = Machine(num_workers=8, cores=64, storage_bytes_per_second=UNLIMITED, is_gpu=True)
SLOW_STORAGE = replace(ROOMY, storage_bytes_per_second=20 * FILE_BYTES)
ON_CPU = replace(ROOMY, is_gpu=False, num_workers=0)
BOUNDS = {
    # name: costs, machine, what bounds the run, the step in it, clips a second
    "slow decoder": (costs_of(reading=0.4), ROOMY, "workers", "decode", 20),
    "far storage": (costs_of(waiting=0.39), ROOMY, "workers", "read", 20),
    "slow storage": (costs_of(waiting=0.05), SLOW_STORAGE, "storage", "read", 20),
    "one worker": (costs_of(reading=0.05), replace(ROOMY, num_workers=1), "workers", "decode", 20),
    "huge model": (costs_of(computing=0.5), ROOMY, "computing", "backward", 2),
    "slow ranks": (costs_of(computing=0.5, averaging=0.9), ROOMY, "computing", "averaging", 2),
    "slow graph": (costs_of(graph=0.1), ROOMY, "graph", "augment", 10),
    "few cores, slow decoder": (
        *(costs_of(reading=0.2), replace(ROOMY, cores=2)),
        *("workers", "decode", 2 / (0.2 + 0.001 + 0.001)),
    ),
    "few cores for all": (
        *(costs_of(reading=0.01, graph=0.01), replace(ROOMY, cores=1)),
        *("cores", "workers", 1 / (0.01 + 0.01 + 0.001)),
    ),
    "no workers, slow decoder": (
        *(costs_of(reading=0.03), ON_CPU),
        *("workers", "decode", 1 / (0.03 + 0.01)),
    ),
    "no workers, huge model": (
        *(costs_of(reading=0.001, computing=0.5), ON_CPU),
        *("computing", "backward", 1 / (0.001 + 0.5)),
    ),
    "no workers, a GPU": (
        *(costs_of(reading=0.03), replace(ROOMY, num_workers=0)),
        *("workers", "decode", 1 / 0.03),
    ),
}


@pytest.mark.parametrize(("costs", "machine", "place", "step", "rate"), BOUNDS.values(), ids=BOUNDS)
def test_the_bound_is_what_takes_longest_for_a_clip(costs, machine, place, step, rate):
    bound = find_bound(costs, machine)
    assert (bound.place, bound.step) == (place, step)
    assert bound.clips_per_second == pytest.approx(rate)
    assert bound.clips_per_second == min(limits(costs, machine).values())


def test_what_was_found_decides_on_which_side_the_bound_is():
    costs = costs_of(reading=0.079, computing=0.01)  # 8 workers: 101 clips/s, computing 100
    assert find_bound(costs, ROOMY).place == "computing"
    assert find_bound(costs, ROOMY, data_wait_share=0.5).place == "workers"
    assert find_bound(costs, ROOMY, data_wait_share=0.1).place == "computing"
    slower = costs_of(reading=0.081)
    assert find_bound(slower, ROOMY).place == "workers"
    assert find_bound(slower, ROOMY, data_wait_share=0.01).place == "computing"


def test_exhausted_cores_are_told_from_too_few_workers():
    slow = costs_of(reading=0.2)
    assert find_bound(slow, replace(ROOMY, cores=2)).cores_exhausted
    assert not find_bound(slow, replace(ROOMY, num_workers=1)).cores_exhausted


def as_promised(costs, machine):
    """A run that does what the model says."""
    bound = find_bound(costs, machine)
    waits = {"computing": 0.0, "cores": 0.1}.get(bound.limit, 0.5)
    return RankFound(bound.clips_per_second, waits)


def changes_of(costs, machine, facts=NO_FACTS):
    return {one.change: one for one in advise(costs, machine, as_promised(costs, machine), facts)}


def test_more_workers_are_advised_while_cores_are_free_and_no_more_than_pay():
    costs = costs_of(reading=0.1)  # computing takes 100 clips/s: ten workers feed it
    (best, *_) = changes_of(costs, replace(ROOMY, num_workers=1)).values()
    assert best.change == "data.num_workers=10"
    assert best.gain == pytest.approx(10)
    assert not best.alters_training


def test_no_workers_are_advised_where_the_cores_are_all_busy():
    busy = replace(ROOMY, num_workers=2, cores=2)
    assert not any("num_workers" in change for change in changes_of(costs_of(reading=0.1), busy))


def test_more_workers_than_cores_are_advised_where_they_wait_for_a_storage_that_has_more():
    costs = costs_of(reading=0.001, waiting=0.1)
    far = replace(ROOMY, num_workers=2, cores=4)
    assert "data.num_workers=10" in changes_of(costs, far)
    assert "files on faster storage" in changes_of(costs, far)


def test_no_number_of_workers_helps_a_storage_that_gives_no_more():
    changes = changes_of(costs_of(waiting=0.05), SLOW_STORAGE)
    assert list(changes) == ["files on faster storage"]
    assert changes["files on faster storage"].gain == pytest.approx(5)


def test_a_worker_that_waits_for_a_core_is_not_advised_faster_storage():
    costs = costs_of(reading=0.1)
    preempted = {name: replace(t, seconds=2 * t.seconds) for name, t in costs.worker_steps.items()}
    slow = replace(costs, worker_steps=preempted, worker=StepTime(0.2, 0.1))
    assert not any("storage" in change for change in changes_of(slow, ROOMY))


def test_what_preparing_gains_follows_from_what_was_tried():
    facts = replace(NO_FACTS, prepared=StepTime(0.25, 0.25))
    machine = replace(ROOMY, num_workers=1, cores=1)
    gain = changes_of(costs_of(reading=0.1), machine, facts)["mgm-dali prepare"].gain
    before, after = 0.1 + 0.001 + 0.001, 0.025 + 0.001 + 0.001  # CPU seconds on one core
    assert gain == pytest.approx(before / after)


def test_a_store_spares_the_time_of_motion_but_for_a_millisecond():
    facts = replace(NO_FACTS, motion_source="codec")
    found = changes_of(costs_of(reading=0.1), replace(ROOMY, num_workers=1), facts)
    assert found[TO_STORE].gain == pytest.approx(0.1 / (0.1 - 0.01 + 0.001))


def test_what_changes_the_training_is_called_so_and_comes_last():
    facts = replace(
        NO_FACTS,
        batch_size=8,
        has_global_batch=False,
        motion_source="codec",
        prepared=StepTime(0.9, 0.9),
        half_decoded=0.8,
    )
    for costs in (costs_of(reading=0.4), costs_of(computing=0.5)):
        flags = [one.alters_training for one in changes_of(costs, ROOMY, facts).values()]
        assert flags == sorted(flags) and flags
    found = changes_of(costs_of(computing=0.5, averaging=0.1), ROOMY, facts)
    assert set(found) == {"mask.decoded_share=0.5", "training.accumulate_steps=2"}


def test_no_accumulation_is_advised_where_it_follows_from_the_global_batch():
    facts = replace(NO_FACTS, batch_size=8, accumulate_steps=4)
    assert changes_of(costs_of(computing=0.5, averaging=0.5), ROOMY, facts) == {}


def test_repeats_are_only_advised_where_they_divide_the_batch():
    slow, machine = costs_of(reading=1.0), replace(ROOMY, cores=1, num_workers=1)
    for batch, advised in ((8, True), (7, False)):
        found = changes_of(slow, machine, replace(NO_FACTS, batch_size=batch))
        assert ("augment.repeats=2" in found) == advised


def test_nothing_is_advised_that_would_not_be_noticed():
    assert changes_of(costs_of(), ROOMY, replace(NO_FACTS, prepared=StepTime(0.1, 0.1))) == {}


def test_no_reading_is_advised_to_a_run_that_never_waits_whatever_the_model_says():
    slow = costs_of(reading=0.089, computing=0.009)  # 8 workers: 90 clips/s, computing 111
    assert "data.num_workers=10" in changes_of(slow, ROOMY)
    never_waits = RankFound(100.0, data_wait_share=0.02)
    assert advise(slow, ROOMY, never_waits, NO_FACTS) == []


def test_a_run_that_waits_is_advised_what_its_reading_lacks_whatever_the_model_says():
    quick = costs_of(reading=0.079, computing=0.01)  # 8 workers: 101 clips/s, computing 100
    assert changes_of(quick, ROOMY) == {}
    found = RankFound(80.0, data_wait_share=0.5)
    (best,) = advise(quick, ROOMY, found, NO_FACTS)
    assert best.change == "data.num_workers=10", "each reads 10 clips/s, not 12.6"
    assert best.gain * found.clips_per_second == pytest.approx(100)


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize(("wait_share", "more"), [(0.5, 0.7), (0.01, 1.2), (0.1, 1.0)])
def test_held_to_what_was_found_the_model_says_just_that(bound, wait_share, more):
    costs, machine, *_, rate = bound
    found = RankFound(more * rate, wait_share)
    assert find_bound(*as_found(costs, machine, found)).clips_per_second == pytest.approx(
        more * rate
    )


def test_reading_that_seems_to_wait_longer_than_it_takes_is_still_advised_faster_storage():
    noisy = costs_of(reading=0.005, waiting=0.2)  # the step alone was slower than the whole
    noisy = replace(noisy, worker=StepTime(0.19, 0.005))
    found = changes_of(noisy, ROOMY)
    assert found["files on faster storage"].gain == pytest.approx(0.19 / 8 / 0.01)


WORDS = {
    "storage": "storage",
    "workers": "Reading",
    "graph": "DALI's graph",
    "computing": "Computing",
    "cores": "processor",
}


@pytest.mark.parametrize(("costs", "machine", "place", "step", "rate"), BOUNDS.values(), ids=BOUNDS)
def test_the_sentence_names_the_bound_its_step_and_the_best_change(
    costs, machine, place, step, rate
):
    found = RankFound(0.9 * rate, 0.1)
    advice = advise(costs, machine, found, NO_FACTS)
    said = in_a_sentence(costs, machine, found, advice)
    assert WORDS[place] in said and step in said
    assert f"{0.9 * rate:.3g} clips/s" in said, "of what was found, not of what the model says"
    free = [one for one in advice if not one.alters_training]
    assert (free[0].change if free else "nothing") in said
    if free:
        assert f"{0.9 * rate * free[0].gain:.3g} clips/s" in said
    assert said.endswith(".") and "\n" not in said
    assert "promise" not in said


def test_the_sentence_says_where_the_parts_do_not_explain_what_was_found():
    costs = costs_of(computing=0.5)
    said = in_a_sentence(costs, ROOMY, RankFound(1.0, 0.0), [])
    assert "The parts alone promise 2" in said
