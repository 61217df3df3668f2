"""What was measured, by the clip: whatever clocks said, every place of a run takes some time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_runs import SETTINGS

from mgm_dali.config import load_config
from mgm_dali.pipelines.placement import Placement
from mgm_dali.profiling.advice import advise, in_a_sentence
from mgm_dali.profiling.clocks import Spent
from mgm_dali.profiling.computing import Computing
from mgm_dali.profiling.costs import Machine, RankFound, find_bound, limits
from mgm_dali.profiling.feeding import Graph
from mgm_dali.profiling.prepared import Prepared
from mgm_dali.profiling.reading import Reading
from mgm_dali.profiling.step_time import NO_TIME, StepTime
from mgm_dali.profiling.summing import costs_of, facts_of
from mgm_dali.profiling.tasks import StepAsked

BATCH, PASSES = 8, 4
MILLISECOND = StepTime(1e-3, 1e-3)
CONFIG = load_config("configs/smoke/pretrain.yaml", [*SETTINGS, f"training.batch_size={BATCH}"])
PLACEMENT = Placement(torch.device("cpu"), "cpu", motion_source="codec", reason="")
READING = Reading(
    steps=dict.fromkeys(("draw", "read", "index", "decode", "motion"), MILLISECOND),
    whole=MILLISECOND * 5,
    num_clips=3,
    file_bytes=1000.0,
    storage_bytes_per_second=1e9,
    motion_bytes_a_frame=100.0,
    video_bytes_a_frame=1000.0,
    unreadable=0,
)
QUICK = Spent(count=10, seconds=0.01, cpu_seconds=0.01)
GRAPH = Graph(hand_over=QUICK, decode=None, whole=QUICK, copy_seconds=0.0, on_gpu=False)
COMPUTING = Computing(
    num_clips=2,
    parts={
        "mask": MILLISECOND * 2,
        "forward": MILLISECOND * 20,
        "backward": MILLISECOND * 40,
        "optimiser": MILLISECOND * 16,
    },
    whole=Spent(count=5, seconds=5 * 0.078, cpu_seconds=5 * 0.078),
    passes_a_step=1,
    gradient_bytes=1000,
    averaging=NO_TIME,
)


def summed(computing, passes=PASSES):
    return costs_of(CONFIG, StepAsked(passes, None), READING, GRAPH, computing)


def test_a_step_of_more_clips_takes_its_optimiser_once():
    costs = summed(COMPUTING)  # two clips a step here; in the run 8 x 4, so a sixteenth
    assert costs.computing_steps["optimiser"].seconds == pytest.approx(16e-3 / 32)
    assert costs.computing_steps["backward"].seconds == pytest.approx(40e-3 / 2)
    assert costs.computing.seconds == pytest.approx((2 + 20 + 40) * 1e-3 / 2 + 16e-3 / 32)


def test_averaging_is_told_from_the_part_it_is_in():
    costs = summed(replace(COMPUTING, averaging=MILLISECOND * 10))
    assert costs.computing_steps["averaging"].seconds == pytest.approx(10e-3 / 32)
    assert costs.computing_steps["backward"].seconds == pytest.approx(30e-3 / 2)
    assert costs.computing.seconds == pytest.approx((2 + 20 + 30) * 1e-3 / 2 + 26e-3 / 32)


def test_averaging_that_was_slower_alone_than_in_a_step_leaves_it_some_time():
    costs = summed(replace(COMPUTING, averaging=StepTime(5.0, 5.0)))  # others kept the cores busy
    assert costs.computing_steps["averaging"].seconds == pytest.approx(40e-3 / 32)
    assert costs.computing_steps["backward"].seconds == pytest.approx(0)
    assert costs.computing.seconds == pytest.approx((2 + 20) * 1e-3 / 2 + (40 + 16) * 1e-3 / 32)


def any_time(rng):
    """From microseconds to seconds, and more or less of it at work."""
    seconds = 10 ** rng.uniform(-6, 1)
    return StepTime(seconds, seconds * 10 ** rng.uniform(-3, 0.5))


def any_spent(rng, count):
    time = any_time(rng) * count
    return Spent(count, time.seconds, time.cpu_seconds)


def any_profile(rng):
    """Measurements that do not fit together: as if each were taken in another hour."""
    reading = replace(
        READING,
        steps={name: any_time(rng) for name in READING.steps}
        | {"motion": any_time(rng) + any_time(rng) * -1},  # of two measurements, the difference
        whole=any_time(rng),
        file_bytes=10 ** rng.uniform(0, 9),
        storage_bytes_per_second=10 ** rng.uniform(0, 10),
    )
    graph = replace(GRAPH, hand_over=any_spent(rng, 3), whole=any_spent(rng, 3))
    computing = replace(
        COMPUTING,
        num_clips=int(rng.integers(1, BATCH + 1)),
        parts={name: any_time(rng) for name in COMPUTING.parts},
        whole=any_spent(rng, 5),
        averaging=any_time(rng),
    )
    coded = [{name: any_time(rng) for name in ("index", "decode")} for _ in range(2)]
    return reading, graph, computing, Prepared(*coded, 1000, int(rng.integers(1, 10_000)), 1)


@pytest.mark.parametrize("is_gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("workers", [0, 1, 6])
@pytest.mark.parametrize("seed", range(50))
def test_measurements_that_contradict_one_another_are_summed_and_advised_on(seed, workers, is_gpu):
    rng = np.random.default_rng(seed)
    reading, graph, computing, prepared = any_profile(rng)
    asked = StepAsked(PASSES, None)
    costs = costs_of(CONFIG, asked, reading, replace(graph, on_gpu=is_gpu), computing)
    machine = Machine(workers, rng.uniform(0.1, 64), reading.storage_bytes_per_second, is_gpu)
    allowed = limits(costs, machine)
    assert all(0 < rate < math.inf for rate in allowed.values())
    facts = facts_of(CONFIG, "pretrain", asked, PLACEMENT, costs, prepared)
    found = RankFound(10 ** rng.uniform(-2, 4), rng.uniform(0, 1))
    advice = advise(costs, machine, found, facts)
    assert all(1 < one.gain < math.inf for one in advice)
    assert find_bound(costs, machine, found.data_wait_share).clips_per_second > 0
    assert in_a_sentence(costs, machine, found, advice)
