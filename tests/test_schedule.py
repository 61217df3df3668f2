"""Learning rate and length of a run, against the rule in plain numbers."""

import math

import pytest
import torch
from learning_rates import rates_of

from mgm_dali.config import RunConfig, TrainingConfig
from mgm_dali.errors import UserError
from mgm_dali.training.schedule import (
    peak_lr,
    seed_step,
    total_steps,
    with_accumulation,
)


def test_the_peak_is_scaled_by_the_batch_over_256():
    assert peak_lr(1.5e-4, 512) == pytest.approx(3e-4)
    assert peak_lr(1.5e-4, 16) == pytest.approx(1.5e-4 / 16)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"epochs": 3}, 300), ({"epochs": 0.25}, 25), ({"epochs": 3, "max_steps": 7}, 7)],
)
def test_the_length_counts_epochs_unless_steps_are_given(settings, expected):
    assert total_steps(TrainingConfig(**settings), 1000, 10) == expected


def test_a_last_short_stretch_is_one_more_step():
    assert total_steps(TrainingConfig(epochs=1), 1001, 10) == 101


def test_warm_up_is_linear_from_zero_and_then_a_cosine_falls():
    config = TrainingConfig(epochs=4, warmup_epochs=1, base_lr=0.256, min_lr=0.0256)
    found, peak, low = rates_of(config), 0.01, 0.001
    for step in range(100):
        assert found[step] == pytest.approx(peak * step / 100)
    for step in range(100, 400):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 100) / 300))
        assert found[step] == pytest.approx(low + (peak - low) * cosine)


def test_a_layer_of_a_lower_scale_follows_below():
    config = TrainingConfig(epochs=1, base_lr=0.256)
    for full, half in zip(rates_of(config), rates_of(config, scale=0.5), strict=True):
        assert half == pytest.approx(full / 2)


def test_warm_up_takes_half_of_a_short_run_at_the_most():
    found = rates_of(TrainingConfig(max_steps=10, warmup_epochs=40, base_lr=0.256))
    assert found.index(max(found)) == 5


def test_the_noise_of_a_step_depends_on_seed_step_and_rank_alone():
    def noise(*of):
        seed_step(*of)
        return torch.rand(3).tolist()

    assert noise(1, 2, 0) == noise(1, 2, 0)
    assert len({tuple(noise(*of)) for of in [(1, 2, 0), (2, 2, 0), (1, 3, 0), (1, 2, 1)]}) == 4


def accumulated(world_size, **training):
    return with_accumulation(RunConfig(training=TrainingConfig(**training)), world_size).training


@pytest.mark.parametrize(
    ("global_batch", "batch_size", "world_size", "steps"),
    [(8, 8, 1, 1), (64, 8, 1, 8), (64, 8, 2, 4), (64, 8, 8, 1), (768, 4, 3, 64), (6, 1, 2, 3)],
)
def test_any_ranks_that_can_share_a_global_batch_make_it_whole(
    global_batch, batch_size, world_size, steps
):
    for said in (1, steps):  # 1 is what it is when nothing is said
        found = accumulated(
            world_size, global_batch=global_batch, batch_size=batch_size, accumulate_steps=said
        )
        assert found.accumulate_steps == steps and found.batch_size == batch_size
        assert found.batch_size * found.accumulate_steps * world_size == global_batch


@pytest.mark.parametrize(
    ("global_batch", "batch_size", "world_size"), [(63, 8, 1), (64, 8, 3), (4, 8, 1), (8, 8, 2)]
)
def test_ranks_that_cannot_share_a_global_batch_are_told_what_would_do(
    global_batch, batch_size, world_size
):
    multiple = batch_size * world_size
    with pytest.raises(UserError, match=rf"^training\.global_batch: .*multiple of {multiple}; cha"):
        accumulated(world_size, global_batch=global_batch, batch_size=batch_size)


def test_an_accumulation_that_contradicts_the_global_batch_is_refused():
    with pytest.raises(UserError, match=r"^training\.accumulate_steps: 3 contradicts 4"):
        accumulated(2, global_batch=64, batch_size=8, accumulate_steps=3)


@pytest.mark.parametrize("world_size", [1, 5])
def test_without_a_global_batch_the_config_stays_what_it_is(world_size):
    config = RunConfig(training=TrainingConfig(batch_size=3, accumulate_steps=7))
    assert with_accumulation(config, world_size) is config
