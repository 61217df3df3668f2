"""Where the hidden rectangle is: the paper's square, its centre, its jitter, its borders."""

import math

import pytest
import torch
from made_motion import Made, one_cell, quarter_pixels, seeds, still

from mgm_dali.config import MaskConfig
from mgm_dali.masking import PatchGrid, hidden_per_slice
from mgm_dali.masking.centers import (
    PATCH_UNITS,
    hold_last,
    middle_of_strongest,
    simulated_centers,
)
from mgm_dali.masking.centers import (
    strongest as strongest_cell,
)
from mgm_dali.masking.draws import draw
from mgm_dali.masking.rectangle import square_sides
from mgm_dali.masking.strength import of_cells

GRID = PatchGrid(8, 14, 14)
CENTERS = [{"center": "top_1"}, {"center": "top_k"}, {"center": "vote"}]


def strongest(made, top_k=1, grid=GRID):
    """Centres in patches, `[B, t, 2]`, and where anything moves."""
    of_slices = of_cells(made.motion, made.valid, made.valid.shape[1] // 2)
    centers, known = middle_of_strongest(of_slices, top_k, grid)
    return centers / PATCH_UNITS, known


def assert_is_rectangle(one, center_y, center_x, ratio):
    """The mask of one slice, `[h, w]`, is eq. 7's square, shifted inside, up to its rim."""
    height, width = one.shape
    side = math.sqrt(ratio * height * width)
    top = min(max(center_y - side / 2, 0), height - side)
    left = min(max(center_x - side / 2, 0), width - side)
    inside, touched = set(), set()
    for row in range(height):
        for column in range(width):
            middle_y, middle_x = row + 0.5, column + 0.5
            # A token whose middle is clear of the rim must be hidden, or shown.
            if top < middle_y - 0.01 < middle_y + 0.01 < top + side and (
                left < middle_x - 0.01 < middle_x + 0.01 < left + side
            ):
                inside.add((row, column))
            if top - 1 < middle_y < top + side + 1 and left - 1 < middle_x < left + side + 1:
                touched.add((row, column))
    hidden = {tuple(place) for place in one.nonzero().tolist()}
    assert hidden <= touched
    # Where the square holds more token middles than are to be hidden, the rim loses some.
    assert len(inside - hidden) <= max(len(inside) - len(hidden), 0)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75, 0.9])
def test_motion_guided_hides_the_papers_rectangle_up_to_its_rim(ratio):
    path = [(2 * f % 28, (5 * f + 3) % 28) for f in range(16)]
    made = one_cell(path, GRID)
    made.motion[0, 1::2] *= 2  # the second frame of each tubelet moves more: its centre counts
    mask = made.mask(seeds(1), GRID, MaskConfig(ratio=ratio, jitter=False))[0]
    for one, (row, column) in zip(mask, path[1::2], strict=True):
        assert one.sum() == hidden_per_slice(ratio, GRID)
        assert_is_rectangle(one, (row + 0.5) / 2, (column + 0.5) / 2, ratio)


@pytest.mark.parametrize("options", CENTERS, ids=str)
@pytest.mark.parametrize("border", ["shift", "grow"])
def test_the_moving_cell_is_hidden_wherever_it_is(border, options):
    for cell in [(0, 0), (0, 27), (27, 0), (27, 27), (13, 14), (5, 20)]:
        for ratio in (0.25, 0.5, 0.75):
            config = MaskConfig(ratio=ratio, border=border, **options)
            mask = one_cell([cell] * 16, GRID).mask(seeds(1), GRID, config)[0]
            assert mask[:, cell[0] // 2, cell[1] // 2].all()


def test_growing_at_the_border_keeps_the_centre():
    config = MaskConfig(ratio=0.25, border="grow", jitter=False)
    mask = one_cell([(0, 0)] * 16, GRID).mask(seeds(1), GRID, config)[0]
    # A ball around the corner that holds 49 tokens is the 7 x 7 corner.
    assert mask[:, :7, :7].all()


def test_shifting_at_the_border_keeps_the_square():
    config = MaskConfig(ratio=0.25, jitter=False)
    mask = one_cell([(0, 5)] * 16, GRID).mask(seeds(1), GRID, config)[0]
    assert mask[:, :7].sum() == mask.sum()
    assert mask.any(1).sum(1).tolist() == [7] * 8


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("grid", [GRID, PatchGrid(4, 3, 9), PatchGrid(2, 1, 5)], ids=str)
def test_the_sides_make_a_square_of_the_wanted_area_that_fits_the_frame(grid, ratio):
    height, width = (side / PATCH_UNITS for side in square_sides(ratio, grid))
    assert height * width == pytest.approx(ratio * grid.h * grid.w, rel=0.01)
    assert height <= grid.h and width <= grid.w
    if max(height, width) < min(grid.h, grid.w):
        assert height == width


@pytest.mark.parametrize("options", CENTERS, ids=str)
def test_a_rigid_things_equal_vectors_put_the_square_on_its_middle(options):
    made = still(GRID)
    made.motion[:, :, 4:10, 14:24] = torch.tensor((3.0, -2.0))  # patches 2 to 5 and 7 to 12
    config = MaskConfig(ratio=0.2, jitter=False, **options)
    mask = made.mask(seeds(1), GRID, config)[0]
    for one in mask:
        assert_is_rectangle(one, 3.5, 9.5, 0.2)


@pytest.mark.parametrize("top_k", [1, 7, 32, 10_000])
def test_the_middle_of_a_rigid_thing_does_not_depend_on_k(top_k):
    made = still(GRID)
    made.motion[:, :, 4:10, 14:24, 0] = 3
    centers, known = strongest(made, top_k)
    assert known.all() and (centers == torch.tensor((3.5, 9.5))).all()


def test_the_middle_of_the_k_strongest_is_their_mean():
    made = still(GRID)
    for strength, column in enumerate((2, 4, 20)):
        made.motion[:, :, 6, column, 1] = 5.0 - strength
    columns = [strongest(made, top_k)[0][0, 0, 1].item() for top_k in (1, 2, 3)]
    expected = [2.5 / 2, 3.5 / 2, (26 / 3 + 0.5) / 2]
    assert columns == pytest.approx(expected, abs=1 / PATCH_UNITS)


@pytest.mark.parametrize("top_k", [9, 10, 16, 40])
def test_cells_that_tie_for_the_last_places_share_them(top_k):
    """A small fast thing over a pan: few votes of the background do not outweigh it."""
    made = still(GRID)
    made.motion[..., 0] = 2.0
    made.motion[:, :, 0:3, 0:3, 0] = 6.0
    places = torch.cartesian_prod(torch.arange(28), torch.arange(28)).double()
    thing = (places < 3).all(1)
    others = places[~thing].mean(0)
    mean = (9 * places[thing].mean(0) + (top_k - 9) * others) / top_k
    centers, _ = middle_of_strongest(of_cells(made.motion, made.valid, 8), top_k, GRID)
    expected = (mean + 0.5) / 2 * PATCH_UNITS
    assert (centers[0] - expected).abs().max() <= 1


def test_the_strongest_cell_is_one_that_no_other_exceeds():
    made = quarter_pixels(GRID, 8)
    lengths = made.motion.double().norm(dim=-1).mul(made.valid[..., None, None])
    lengths = lengths.view(8, 8, 2, 28, 28).amax(2)
    centers, known = strongest_cell(of_cells(made.motion, made.valid, 8), GRID)
    row, column = (centers * 2 // PATCH_UNITS).unbind(-1)
    found = lengths.flatten(2).gather(2, (row * 28 + column)[..., None])[..., 0]
    assert known.all() and torch.equal(found, lengths.amax((2, 3)))


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
def test_of_two_equal_things_far_apart_one_is_hidden_and_not_what_is_between(ratio):
    made = still(GRID)
    for corner in (slice(0, 4), slice(24, 28)):
        made.motion[:, :, corner, corner, 0] = 5.0
    for mask in made.mask(seeds(1), GRID, MaskConfig(ratio=ratio))[0]:
        assert mask[:2, :2].all() or mask[-2:, -2:].all()


def test_a_pan_gives_a_centred_mask():
    pan = still(GRID)._replace(motion=torch.full((1, 16, 28, 28, 2), 2.5))
    for options in CENTERS:
        config = MaskConfig(ratio=0.5, jitter=False, **options)
        for one in pan.mask(seeds(1), GRID, config)[0]:
            assert_is_rectangle(one, 7, 7, 0.5)


def test_frames_without_vectors_hold_the_last_centre():
    spot = [None, None, (4, 4), (4, 4), None, None, (20, 20), (20, 20), *[None] * 8]
    centers, known = strongest(one_cell(spot, GRID))
    assert known[0].tolist() == [False, True, False, True, *[False] * 4]
    held = hold_last(centers, known, otherwise=torch.zeros_like(centers))
    first, second = [2.25, 2.25], [10.25, 10.25]
    assert held[0].tolist() == [first, first, first, *[second] * 5]


def test_invalid_frames_are_not_looked_at():
    made = one_cell([(4, 4)] * 16, GRID)
    made.motion[0, 3, 20, 20] = 100.0
    made.valid[0, 3] = False
    centers, _ = strongest(made)
    assert centers[0, 1].tolist() == [2.25, 2.25]


@pytest.mark.parametrize("margins", [(768, 768), (0, 0), (500, 1792)], ids=str)
def test_simulated_centres_move_by_whole_patches_and_turn_round_at_the_walls(margins):
    centers = simulated_centers(draw(torch.arange(500), GRID), GRID, margins)
    for axis, (size, margin) in enumerate(zip(GRID[1:], margins, strict=True)):
        along = centers[..., axis]
        room = size * PATCH_UNITS - 2 * margin
        assert (along >= margin).all() and (along <= margin + max(room, 1)).all()
        if room < 1024:
            continue
        steps = along.diff()
        first, last = steps[:, :-1], steps[:, 1:]
        fastest = steps.abs().amax(1)
        assert set(fastest.tolist()) == {0, PATCH_UNITS, 2 * PATCH_UNITS}
        # Where a step is shorter than the others, or turns, a wall was in its way.
        free = (steps == fastest[:, None]) | (steps == -fastest[:, None])
        assert free.float().mean() > 0.75
        turned = (first * last < 0) & free[:, :-1] & free[:, 1:]
        at_wall = torch.minimum(along - margin, margin + room - along)[:, 1:-1]
        assert (at_wall[turned] == 0).all()
        reached = torch.minimum(along[:, :-1] - margin, margin + room - along[:, :-1])
        assert (reached[~free] < fastest[:, None].expand_as(reached)[~free]).all()


def test_centres_that_do_not_move_start_where_the_others_do():
    draws = draw(torch.arange(50), GRID)
    walking = simulated_centers(draws, GRID, (768, 768))
    standing = simulated_centers(draws, GRID, (768, 768), moving=False)
    assert torch.equal(standing, walking[:, :1].expand_as(standing))


def test_jitter_changes_the_shape_but_not_the_sum():
    made = one_cell([(13, 13)] * 16, GRID)
    made = Made(*(field.expand(200, *field.shape[1:]) for field in made))
    mask = made.mask(torch.arange(200), GRID, MaskConfig(ratio=0.5))
    widths, heights = mask.any(2).sum(2), mask.any(3).sum(2)
    assert len(widths.unique()) > 2
    assert ((widths - heights).abs() <= 4).all()
    assert (mask.sum((1, 2, 3)) == 8 * 98).all()
    assert ((mask.sum((2, 3)) - 98).abs() <= 1).all()
    unstretched = made.mask(torch.arange(200), GRID, MaskConfig(ratio=0.5, jitter=False))
    for end in (0, -1):  # at the first and the last slice the rectangle is back at the square
        rest = mask[:, end] ^ unstretched[:, end]
        assert rest.sum((1, 2)).max() <= 1


@pytest.mark.parametrize("strategy", ["random", "tube", "block", "motion_guided_sparse"])
def test_jitter_is_of_moving_rectangles_only(strategy):
    made = quarter_pixels(GRID, 2)
    masks = [
        made.mask(seeds(2), GRID, MaskConfig(strategy=strategy, jitter=jitter))
        for jitter in (True, False)
    ]
    assert torch.equal(*masks)
