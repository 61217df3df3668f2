"""Every mask equals a slow reference in plain Python, to the token."""

import pytest
import torch
from made_motion import KINDS, holes, moving_block, quarter_pixels, scaled, seeds
from reference_masks import STRATEGIES, reference_decoded, reference_mask

from mgm_dali.config import MaskConfig
from mgm_dali.masking import MASKS, PatchGrid, decoded_tokens, make_mask

RATIOS = (0.75, 0.9, 0.3, 0.5)
SMALL = [PatchGrid(4, 3, 9), PatchGrid(2, 1, 5), PatchGrid(1, 5, 2)]
LARGE = [PatchGrid(8, 14, 14), PatchGrid(16, 14, 14), PatchGrid(8, 7, 7), PatchGrid(8, 16, 16)]
RECTANGLES = [
    {},
    {"jitter": False},
    {"border": "grow"},
    {"border": "grow", "jitter": False},
]
CENTERS = [
    {"center": "top_k", "top_k": 5},
    {"center": "top_k", "top_k": 10_000},
    {"center": "vote"},
    {"center": "vote", "border": "grow"},
]
OPTIONS = {
    "block": RECTANGLES[::2],
    "simulated_motion": RECTANGLES,
    "simulated_motion_sparse": RECTANGLES[::2],
    "motion_guided": RECTANGLES + CENTERS,
    "motion_guided_sparse": RECTANGLES[::2],
}
"""Those that a strategy looks at; a strategy that is not named has none but its ratio."""


def assert_equal_to_reference(made, seed, grid, config):
    found = make_mask(made.motion, made.valid, seed, grid, config, made.known)
    clips = zip(made.motion, made.valid, made.known, seed, found, strict=True)
    for motion, valid, known, one, mask in clips:
        lists = motion.tolist(), valid.tolist(), known.tolist()
        assert mask.tolist() == reference_mask(*lists, one.item(), grid, config)


def test_the_reference_has_every_strategy():
    assert STRATEGIES.keys() == MASKS.keys()


@pytest.mark.parametrize("grid", SMALL, ids=str)
@pytest.mark.parametrize("strategy", MASKS)
def test_small_masks_equal_the_reference_for_every_option_and_motion(strategy, grid):
    for number, make in enumerate(KINDS.values()):
        for options in OPTIONS.get(strategy, [{}]):
            ratio = RATIOS[number % len(RATIOS)]
            config = MaskConfig(strategy=strategy, ratio=ratio, **options)
            assert_equal_to_reference(make(grid, 2, number), seeds(2, number), grid, config)


@pytest.mark.parametrize("grid", LARGE, ids=str)
@pytest.mark.parametrize("strategy", MASKS)
def test_masks_of_the_sizes_in_use_equal_the_reference(strategy, grid):
    """The options of a strategy are dealt out over the sizes, each to one or two."""
    made, place, options = holes(grid, 1, seed=3), LARGE.index(grid), OPTIONS.get(strategy, [{}])
    for chosen in options[place % len(options) :: len(LARGE)]:
        config = MaskConfig(strategy=strategy, ratio=RATIOS[place % 2], **chosen)
        assert_equal_to_reference(made, seeds(1, 3), grid, config)


@pytest.mark.parametrize("grid", SMALL + LARGE, ids=str)
def test_predicted_tokens_equal_the_reference(grid):
    for number, share in enumerate((0.1, 0.5, 0.8, 1.0)):
        made, seed = quarter_pixels(grid, 2), seeds(2, number)
        mask = made.mask(seed, grid, MaskConfig(ratio=RATIOS[number])).flatten(1)
        count = max(1, int(share * int(mask[0].sum())))
        found = decoded_tokens(mask, seed, grid, count)
        for clip in range(2):
            expected = reference_decoded(mask[clip].tolist(), seed[clip].item(), grid, count)
            assert found[clip].tolist() == expected


def test_masks_equal_the_reference_for_seeds_of_any_size():
    grid, made = SMALL[0], moving_block(SMALL[0], 5)
    seed = torch.tensor((0, 1, -1, 2**63 - 1, -(2**63)))
    for strategy in MASKS:
        assert_equal_to_reference(made, seed, grid, MaskConfig(strategy=strategy))


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [round(0.05 * k, 2) for k in range(2, 20)])
@pytest.mark.parametrize("strategy", MASKS)
def test_masks_equal_the_reference_at_every_ratio(strategy, ratio):
    for grid in (PatchGrid(4, 7, 7), PatchGrid(4, 5, 3), PatchGrid(3, 4, 4)):
        for options in OPTIONS.get(strategy, [{}]):
            config = MaskConfig(strategy=strategy, ratio=ratio, **options)
            assert_equal_to_reference(scaled(grid, 2), seeds(2), grid, config)
