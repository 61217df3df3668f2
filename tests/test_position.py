"""The position tables: against the formula in Python's own floats, and stretched to other grids."""

import math

import pytest
import torch
from networks import normal_clip, randomised, uneven_masks
from small_timesformer import small_timesformer

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import ModelConfig
from mgm_dali.models import BACKBONES, build_autoencoder, build_classifier
from mgm_dali.models.position import (
    position_grid,
    sinusoid_table,
    space_time_table,
    stretch_table,
)


@pytest.mark.parametrize("width", [64, 96, 768])
def test_the_table_is_the_formula(width: int) -> None:
    table = sinusoid_table(1568, width)
    assert table.shape == (1568, width) and table.dtype == torch.float32
    for n in (0, 1, 195, 1567):
        for j in (0, 1, 2, 31, width - 2, width - 1):
            angle = n / 10000 ** (2 * (j // 2) / width)
            expected = math.cos(angle) if j % 2 else math.sin(angle)
            assert table[n, j].item() == pytest.approx(expected, abs=1e-7)


def test_no_two_tokens_share_a_position() -> None:
    assert torch.pdist(sinusoid_table(1568, 128)).min() > 0.1


SMALL, LONGER, LARGER = PatchGrid(2, 4, 4), PatchGrid(4, 4, 4), PatchGrid(2, 6, 6)


def ramps(grid: PatchGrid) -> torch.Tensor:
    """Codes `[N, 3]` that are a token's place in the clip, each from 0 to 1."""
    axes = [(torch.arange(n) + 0.5) / n for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)


@pytest.mark.parametrize("target", [LONGER, LARGER, PatchGrid(4, 6, 6), PatchGrid(2, 2, 2)])
def test_a_stretched_table_says_where_in_the_clip_a_token_is(target: PatchGrid) -> None:
    source = PatchGrid(2, 4, 4)
    stretched = stretch_table(ramps(source), source, target)
    assert stretched.shape == (target.num_tokens, 3)
    # Away from the border, where nothing lies to interpolate with, a ramp stays that ramp.
    places = ramps(target)
    inside = ((places[:, 1:] > 0.3) & (places[:, 1:] < 0.7)).all(1)
    inside &= (places[:, 0] >= 0.25) & (places[:, 0] <= 0.75)
    if target.h > 2:
        assert inside.any()
        found, expected = stretched[inside], places[inside]
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    order = stretched.reshape(*target, 3)
    for axis in range(3):
        along = order[..., axis].movedim(axis, 0)
        assert (along[1:] > along[:-1]).all()


def test_a_table_of_the_same_grid_stays_as_it_is() -> None:
    table = sinusoid_table(32, 64)
    assert stretch_table(table, SMALL, SMALL) is table


def test_a_place_keeps_its_code_where_only_time_is_stretched() -> None:
    table = torch.randn(16, 8).repeat(2, 1)  # all slices alike
    torch.testing.assert_close(stretch_table(table, SMALL, LONGER), table.repeat(2, 1))


def test_learned_positions_are_the_sum_of_a_place_and_a_time() -> None:
    place, time = torch.randn(1, 16, 8), torch.randn(1, 2, 8)
    table = space_time_table(place, time)
    for n in (0, 5, 16, 31):
        assert torch.equal(table[n], time[0, n // 16] + place[0, n % 16])


@pytest.mark.parametrize("name", ["vit_micro", "timesformer_base"])
def test_a_network_can_have_the_positions_of_other_clips(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_timesformer(monkeypatch)
    learned = ModelConfig(name=name, num_frames=4, image_size=64, num_classes=3)
    stretched = ModelConfig(
        name=name, num_frames=8, image_size=96, position_frames=4, position_size=64, num_classes=3
    )
    assert position_grid(stretched) == SMALL
    for build in (build_autoencoder, build_classifier):
        before, after = randomised(build(learned)), build(stretched)
        after.load_state_dict(before.state_dict())  # no table depends on the new grid
        trunks = [getattr(network, "encoder", network) for network in (before, after)]
        expected = stretch_table(trunks[0].positions(), SMALL, PatchGrid(4, 6, 6))
        assert torch.equal(trunks[1].positions(), expected)
    autoencoder = build_autoencoder(stretched)
    width = BACKBONES[name].decoder_width
    decoder = stretch_table(sinusoid_table(32, width), SMALL, PatchGrid(4, 6, 6))
    assert torch.equal(autoencoder.decoder_position, decoder)
    for dtype in (torch.float32, torch.bfloat16):
        video, mask = normal_clip(stretched), uneven_masks(stretched, hidden=100)
        assert autoencoder.to(dtype)(video, mask).isfinite()


@pytest.mark.parametrize(("key", "value"), [("position_frames", 3), ("position_size", 50)])
def test_a_clip_that_no_grid_fits_is_refused(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{key}: {value} is not a multiple"):
        ModelConfig(**{key: value})
