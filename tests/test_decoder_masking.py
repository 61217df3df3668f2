"""Decoder masking: exactly so many of the hidden tokens, by VideoMAEv2's running cell."""

import pytest
import torch
from made_motion import holes, seeds, still

from mgm_dali.config import MaskConfig
from mgm_dali.masking import MASKS, PatchGrid, decoded_count, decoded_tokens

GRIDS = [PatchGrid(8, 14, 14), PatchGrid(16, 14, 14), PatchGrid(8, 7, 7), PatchGrid(8, 16, 16)]
GRID = GRIDS[0]
SHARES = [round(0.05 * k, 2) for k in range(1, 21)]


def everything_hidden(clips, grid=GRID):
    return torch.ones(clips, grid.num_tokens, dtype=torch.bool)


@pytest.mark.parametrize("strategy", MASKS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_exactly_so_many_of_the_hidden_tokens_are_predicted(strategy, grid):
    mask = holes(grid, 2).mask(seeds(2), grid, MaskConfig(strategy=strategy)).flatten(1)
    less = torch.zeros_like(mask)
    for share in SHARES:
        count = decoded_count(int(mask[0].sum()), share)
        found = decoded_tokens(mask, seeds(2), grid, count)
        assert found.dtype == torch.bool and found.shape == mask.shape
        assert (found.sum(1) == count).all()
        assert (found <= mask).all(), "hidden ones only"
        assert (less <= found).all(), "a larger share has those of a smaller one, and more"
        less = found
    assert torch.equal(found, mask), "the whole share is all that is hidden"


def test_the_count_is_the_share_rounded_down_and_at_least_one():
    assert decoded_count(1176, 0.5) == 588
    assert decoded_count(1175, 0.5) == 587
    assert decoded_count(10, 0.7) == 7  # 0.7 * 10 is 6.999...96 in floats
    assert decoded_count(3, 0.1) == 1
    assert all(decoded_count(n, 1.0) == n for n in range(1, 2000))


def running_cell(start, grid):
    """VideoMAEv2's cell: of a queue of two to leave out and two to predict, read on by one."""
    queue = [False, False, True, True]
    return [
        queue[(2 * (row % 2) + column % 2 + start + number) % 4]
        for number in range(grid.t)
        for row in range(grid.h)
        for column in range(grid.w)
    ]


@pytest.mark.parametrize("grid", [GRIDS[0], GRIDS[1], GRIDS[3]], ids=str)
def test_where_all_is_hidden_half_is_predicted_as_in_videomaev2(grid):
    found = decoded_tokens(everything_hidden(60, grid), seeds(60), grid, grid.num_tokens // 2)
    expected = [running_cell(start, grid) for start in range(4)]
    starts = {expected.index(clip) for clip in found.tolist()}
    assert starts == {0, 1, 2, 3}


def test_the_cell_runs_on_by_one_place_a_slice_and_comes_to_each_as_often():
    found = decoded_tokens(everything_hidden(20), seeds(20), GRID, GRID.num_tokens // 2)
    cells = found.view(20, 8, 7, 2, 7, 2).movedim(3, 4).flatten(4)  # [B, t, 7, 7, 4]
    assert (cells.sum(4) == 2).all()
    assert torch.equal(cells[:, 1:], cells[:, :-1].roll(-1, 4))
    for first in range(5):
        assert (cells[:, first : first + 4].sum(1) == 2).all()


def test_every_hidden_place_of_a_tube_is_predicted_in_some_slice():
    mask = still(GRID, 50).mask(seeds(50), GRID, MaskConfig(strategy="tube", ratio=0.9)).flatten(1)
    found = decoded_tokens(mask, seeds(50), GRID, decoded_count(8 * 176, 0.5)).view(50, 8, 196)
    times = found.sum(1)[mask.view(50, 8, 196)[:, 0]]
    # Half of the slices, but for the few places that make the count exact.
    assert times.min() >= 2 and times.max() <= 6
    assert (times == 4).float().mean() > 0.8


def test_each_slice_predicts_about_half_of_what_it_hides():
    mask = still(GRID, 50).mask(seeds(50), GRID, MaskConfig()).flatten(1)
    found = decoded_tokens(mask, seeds(50), GRID, decoded_count(8 * 147, 0.5))
    of_slices = found.view(50, 8, 196).sum(2) / 147
    assert of_slices.min() > 0.35 and of_slices.max() < 0.65


def test_a_clips_predicted_tokens_do_not_depend_on_its_batch():
    mask = holes(GRID, 5).mask(seeds(5), GRID, MaskConfig()).flatten(1)
    together = decoded_tokens(mask, seeds(5), GRID, 500)
    for rows in ([2], [4, 3, 2, 1, 0], [1, 1, 4]):
        part = decoded_tokens(mask[rows], seeds(5)[rows], GRID, 500)
        assert torch.equal(part, together[rows])


def test_a_mask_in_any_layout_is_read_alike_and_stays_as_it_was():
    mask = holes(GRID, 5).mask(seeds(5), GRID, MaskConfig()).flatten(1)
    before, columns_first = mask.clone(), mask.T.contiguous().T
    expected = decoded_tokens(mask, seeds(5), GRID, 500)
    assert torch.equal(mask, before)
    assert torch.equal(decoded_tokens(columns_first, seeds(5), GRID, 500), expected)


@pytest.mark.parametrize("num_decoded", [0, -1, 1569])
def test_predicting_nothing_or_more_than_all_is_refused(num_decoded):
    with pytest.raises(ValueError, match=f"found {num_decoded}, expected 1 to 1568"):
        decoded_tokens(torch.ones(1, 1568, dtype=torch.bool), seeds(1), GRID, num_decoded)


def test_a_mask_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"mask: expected .*\[1, 1568\], found .*\[1, 128\]"):
        decoded_tokens(torch.ones(1, 128, dtype=torch.bool), seeds(1), GRID, 4)
