"""Masks: exact counts, the paper's rectangle, and nothing that depends on batch or moment."""

import math

import pytest
import torch

from mgm_dali.config import MaskConfig
from mgm_dali.errors import UserError
from mgm_dali.masking import MASKS, NEEDS_MOTION, PatchGrid, hidden_per_slice, make_mask
from mgm_dali.masking.centers import hold_last, simulated_centers, strongest_motion
from mgm_dali.uniforms import uniforms

GRID = PatchGrid(8, 14, 14)
GRIDS = [GRID, PatchGrid(16, 14, 14), PatchGrid(8, 7, 7), PatchGrid(8, 4, 4), PatchGrid(8, 16, 16)]
RATIOS = [round(0.05 * k, 2) for k in range(1, 20)]


def random_motion(grid, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    motion = torch.randn(batch, 2 * grid.t, 2 * grid.h, 2 * grid.w, 2, generator=generator)
    valid = torch.rand(batch, 2 * grid.t, generator=generator) > 0.2
    return motion, valid, torch.randint(0, 2**62, (batch,), generator=generator)


def moving_spot(path, grid=GRID, pixels=6.0):
    """Motion of one 8x8 cell a frame: `path` lists (row, column) cells, None for no vectors."""
    motion = torch.zeros(1, len(path), 2 * grid.h, 2 * grid.w, 2)
    valid = torch.ones(1, len(path), dtype=torch.bool)
    for frame, cell in enumerate(path):
        if cell is None:
            valid[0, frame] = False
        else:
            motion[0, frame, cell[0], cell[1], 0] = pixels
    return motion, valid


@pytest.mark.parametrize("strategy", MASKS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_strategy_hides_its_exact_count_at_every_ratio(strategy, grid):
    motion, valid, seed = random_motion(grid)
    for ratio in RATIOS:
        if ratio * grid.h * grid.w < 1:
            continue
        mask = make_mask(motion, valid, seed, grid, MaskConfig(strategy=strategy, ratio=ratio))
        assert mask.shape == (3, grid.num_tokens) and mask.dtype == torch.bool
        assert (mask.sum(1) == grid.t * hidden_per_slice(ratio, grid)).all()


@pytest.mark.parametrize("strategy", MASKS)
def test_without_jitter_every_slice_hides_the_same_count(strategy):
    config = MaskConfig(strategy=strategy, jitter=False)
    mask = make_mask(*random_motion(GRID), GRID, config).view(3, *GRID)
    assert (mask.sum((2, 3)) == 147).all()


def test_counts_are_those_of_the_published_implementations():
    assert hidden_per_slice(0.75, GRID) == 147
    assert hidden_per_slice(0.9, GRID) == 176
    assert hidden_per_slice(0.7, PatchGrid(1, 10, 1)) == 7  # 0.7 * 10 is 6.999...96 in floats


@pytest.mark.parametrize("ratio", [0.05, 0.9999999999])
def test_a_ratio_that_hides_nothing_or_everything_is_refused(ratio):
    with pytest.raises(UserError, match=r"mask\.ratio"):
        hidden_per_slice(ratio, PatchGrid(8, 4, 4))


@pytest.mark.parametrize("strategy", MASKS)
def test_a_clips_mask_does_not_depend_on_its_batch(strategy):
    motion, valid, seed = random_motion(GRID, batch=5)
    config = MaskConfig(strategy=strategy)
    together = make_mask(motion, valid, seed, GRID, config)
    for row in range(5):
        one = slice(row, row + 1)
        alone = make_mask(motion[one], valid[one], seed[one], GRID, config)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("strategy", MASKS)
def test_another_seed_gives_another_mask_and_the_same_gives_the_same(strategy):
    motion, valid, _ = random_motion(GRID, batch=1)
    masks = [
        make_mask(motion, valid, torch.tensor([seed]), GRID, MaskConfig(strategy=strategy))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("strategy", MASKS)
def test_masks_survive_no_motion_and_absurd_motion(strategy):
    config = MaskConfig(strategy=strategy)
    for motion in (torch.zeros(2, 16, 28, 28, 2), torch.full((2, 16, 28, 28, 2), 1e30)):
        for valid in (torch.zeros(2, 16, dtype=torch.bool), torch.ones(2, 16, dtype=torch.bool)):
            mask = make_mask(motion, valid, torch.tensor([1, 2]), GRID, config)
            assert (mask.sum(1) == 8 * 147).all()


@pytest.mark.parametrize("strategy", MASKS)
def test_masks_trace_without_waiting_for_the_device(strategy):
    """Fake tensors have no values: a rule that asked for one would fail here."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        motion = torch.zeros(2, 16, 28, 28, 2)
        valid = torch.ones(2, 16, dtype=torch.bool)
        seed = torch.ones(2, dtype=torch.int64)
        mask = make_mask(motion, valid, seed, GRID, MaskConfig(strategy=strategy))
    assert mask.shape == (2, GRID.num_tokens)


def test_a_tube_is_the_same_in_all_slices():
    mask = make_mask(*random_motion(GRID), GRID, MaskConfig(strategy="tube")).view(3, *GRID)
    assert (mask == mask[:, :1]).all()


def reference_rectangle(center_y, center_x, ratio, grid):
    """Eq. 7 in plain loops: tokens inside a side x side square, shifted to lie in the frame."""
    side = math.sqrt(ratio * grid.h * grid.w)
    top = min(max(center_y - side / 2, 0), grid.h - side)
    left = min(max(center_x - side / 2, 0), grid.w - side)
    inside, touched = set(), set()
    for row in range(grid.h):
        for column in range(grid.w):
            middle_y, middle_x = row + 0.5, column + 0.5
            # A token whose middle is clear of the rim must be hidden, or shown.
            if top < middle_y - 1e-4 < middle_y + 1e-4 < top + side and (
                left < middle_x - 1e-4 < middle_x + 1e-4 < left + side
            ):
                inside.add((row, column))
            if top - 1 < middle_y < top + side + 1 and left - 1 < middle_x < left + side + 1:
                touched.add((row, column))
    return inside, touched


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75, 0.9])
def test_motion_guided_hides_the_papers_rectangle_up_to_its_rim(ratio):
    path = [(2 * f % 28, (5 * f + 3) % 28) for f in range(16)]
    motion, valid = moving_spot(path)
    motion[0, 1::2] *= 2  # the second frame of each tubelet moves more: its centre counts
    config = MaskConfig(ratio=ratio, jitter=False)
    mask = make_mask(motion, valid, torch.tensor([3]), GRID, config).view(*GRID)
    for t in range(GRID.t):
        row, column = path[2 * t + 1]
        inside, touched = reference_rectangle((row + 0.5) / 2, (column + 0.5) / 2, ratio, GRID)
        hidden = {tuple(place) for place in mask[t].nonzero().tolist()}
        count = hidden_per_slice(ratio, GRID)
        assert len(hidden) == count
        # Where the square holds more token middles than the count, the rim loses some.
        assert hidden <= touched
        assert len(inside - hidden) <= max(len(inside) - count, 0)


def test_the_moving_cell_is_hidden_wherever_it_is():
    for cell in [(0, 0), (0, 27), (27, 0), (27, 27), (13, 14), (5, 20)]:
        motion, valid = moving_spot([cell] * 16)
        for ratio in (0.25, 0.5, 0.75):
            config = MaskConfig(ratio=ratio)
            mask = make_mask(motion, valid, torch.tensor([1]), GRID, config).view(*GRID)
            assert mask[:, cell[0] // 2, cell[1] // 2].all()


def test_growing_at_the_border_keeps_the_centre():
    motion, valid = moving_spot([(0, 0)] * 16)
    config = MaskConfig(ratio=0.25, border="grow", jitter=False)
    mask = make_mask(motion, valid, torch.tensor([1]), GRID, config).view(*GRID)
    # A ball around the corner that holds 49 tokens is the 7 x 7 corner.
    assert mask[0, :7, :7].all()


def test_frames_without_vectors_hold_the_last_centre():
    spot = [None, None, (4, 4), (4, 4), None, None, (20, 20), (20, 20), *[None] * 8]
    motion, valid = moving_spot(spot)
    centers, known = strongest_motion(motion, valid, GRID)
    assert known[0].tolist() == [False, True, False, True, *[False] * 4]
    held = hold_last(centers, known, otherwise=torch.zeros_like(centers))
    first, second = [2.25, 2.25], [10.25, 10.25]
    assert held[0].tolist() == [first, first, first, *[second] * 5]


def test_invalid_frames_are_not_looked_at():
    motion, valid = moving_spot([(4, 4)] * 16)
    motion[0, 3, 20, 20] = 100.0
    valid[0, 3] = False
    centers, _ = strongest_motion(motion, valid, GRID)
    assert centers[0, 1].tolist() == [2.25, 2.25]


def test_a_clip_without_any_motion_is_masked_by_simulated_motion():
    motion, valid = torch.zeros(1, 16, 28, 28, 2), torch.ones(1, 16, dtype=torch.bool)
    seed = torch.tensor([7])
    still = make_mask(motion, valid, seed, GRID, MaskConfig(jitter=False))
    simulated = make_mask(motion, valid, seed, GRID, MaskConfig(strategy="simulated_motion"))
    assert torch.equal(still, simulated)


def test_simulated_centres_move_steadily_and_stay_inside():
    margin = torch.tensor((3.0, 3.0))
    centers = simulated_centers(torch.arange(500), GRID, margin)
    assert (centers >= 3 - 1e-4).all() and (centers <= 11 + 1e-4).all()
    steps = (centers[:, 1:] - centers[:, :-1]).abs()
    assert (steps <= 2 + 1e-4).all()
    assert (steps.amax((1, 2)) > 0.5).float().mean() > 0.9


def test_jitter_changes_the_shape_but_not_the_sum():
    motion, valid = moving_spot([(13, 13)] * 16)
    motion, valid = motion.expand(200, -1, -1, -1, -1), valid.expand(200, -1)
    mask = make_mask(motion, valid, torch.arange(200), GRID, MaskConfig(ratio=0.5)).view(200, *GRID)
    widths = mask.any(2).sum(2)
    assert len(widths.unique()) > 2
    assert (mask.sum((1, 2, 3)) == 8 * 98).all()
    assert ((mask.sum((2, 3)) - 98).abs() <= 1).all()


def test_uniforms_are_uniform_and_unrelated():
    numbers = uniforms(torch.arange(2000), stream=0, count=196)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.002 and abs(numbers.var() - 1 / 12) < 0.001
    assert torch.corrcoef(numbers[:50]).triu(1).abs().max() < 0.35
    other = uniforms(torch.arange(2000), stream=1, count=196)
    assert not torch.equal(numbers, other)
    assert abs(((numbers - 0.5) * (other - 0.5)).mean()) < 0.001


def test_uniforms_equal_the_published_generator_in_plain_integers():
    """SplitMix64's finaliser, restated with Python's big integers."""
    whole = (1 << 64) - 1

    def mix(x):
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & whole
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & whole
        return x ^ x >> 31

    for seed in (0, 1, 2**62 + 12345):
        state = mix((2 * seed + 1 + 0xD1342543DE82EF95 * 3) & whole)
        expected = [mix((state + 0x9E3779B97F4A7C15 * k) & whole) >> 40 for k in range(1, 9)]
        found = uniforms(torch.tensor([seed]), stream=3, count=8)[0] * 2**24
        assert found.long().tolist() == expected


def test_the_table_knows_the_same_names_as_the_config():
    assert set(MASKS) == set(MaskConfig.model_fields["strategy"].annotation.__args__)
    assert set(MASKS) >= NEEDS_MOTION
