"""Masks of clips as they are found: without vectors, in noise, cut, still, with absurd numbers."""

import pytest
import torch
from made_motion import (
    Made,
    fast,
    generator,
    moving_block,
    no_motion,
    no_vectors,
    one_cell,
    only,
    quarter_pixels,
    scaled,
    seeds,
    still,
)

from mgm_dali.config import MaskConfig
from mgm_dali.masking import MASKS, NEEDS_MOTION, PatchGrid, hidden_per_slice

GRID = PatchGrid(8, 14, 14)
GUIDED = ["motion_guided", "motion_guided_sparse"]
SMALLEST = [PatchGrid(1, 1, 2), PatchGrid(1, 2, 2), PatchGrid(3, 1, 7)]
CENTERS = ["top_1", "top_k", "vote"]


def without_vectors_in(made, slices):
    valid = made.valid.clone()
    for number in slices:
        valid[:, 2 * number : 2 * number + 2] = False
    return only(made, valid)


@pytest.mark.parametrize("strategy", GUIDED)
@pytest.mark.parametrize(
    ("lost", "taken_from"),
    [
        ([0], [1, 1, 2, 3, 4, 5, 6, 7]),
        ([0, 1, 2], [3, 3, 3, 3, 4, 5, 6, 7]),
        ([3, 4], [0, 1, 2, 2, 2, 5, 6, 7]),
        ([7], [0, 1, 2, 3, 4, 5, 6, 6]),
        ([0, 2, 6, 7], [1, 1, 1, 3, 4, 5, 5, 5]),
        ([0, 1, 2, 4, 5, 6, 7], [3] * 8),
    ],
    ids=str,
)
def test_slices_without_vectors_keep_the_last_mask_and_before_the_first_the_first(
    strategy, lost, taken_from
):
    """I-frames carry no vectors; at a stride of 4 both frames of a slice may be such."""
    made, config = moving_block(GRID, 3), MaskConfig(strategy=strategy, jitter=False)
    whole = made.mask(seeds(3), GRID, config)
    found = without_vectors_in(made, lost).mask(seeds(3), GRID, config)
    assert torch.equal(found, whole[:, taken_from])


@pytest.mark.parametrize("strategy", GUIDED)
def test_one_frame_with_vectors_is_enough_for_a_slice(strategy):
    made, config = moving_block(GRID, 2), MaskConfig(strategy=strategy, jitter=False)
    made.motion[:, ::2] = made.motion[:, 1::2]  # both frames of a slice alike
    valid = made.valid.clone()
    valid[:, ::2] = False
    found, whole = (m.mask(seeds(2), GRID, config) for m in (only(made, valid), made))
    assert torch.equal(found, whole)


FALL_BACKS = {
    "motion_guided": "simulated_motion",
    "motion_guided_sparse": "simulated_motion_sparse",
    "flow_warp": "tube",
}


@pytest.mark.parametrize("clips", [no_motion, no_vectors])
@pytest.mark.parametrize("strategy", FALL_BACKS)
def test_a_clip_without_any_motion_is_masked_by_the_strategy_that_needs_none(strategy, clips):
    made = clips(GRID, 4)
    found, instead = (
        made.mask(seeds(4), GRID, MaskConfig(strategy=name))
        for name in (strategy, FALL_BACKS[strategy])
    )
    assert torch.equal(found, instead)


@pytest.mark.parametrize("strategy", sorted(NEEDS_MOTION))
def test_a_still_clip_beside_a_moving_one_changes_neither(strategy):
    moving, nothing = moving_block(GRID), no_motion(GRID)
    both = Made(*map(torch.cat, zip(moving, nothing, strict=True)))
    config = MaskConfig(strategy=strategy)
    first, second = both.mask(seeds(2), GRID, config)
    assert torch.equal(first[None], moving.mask(seeds(2)[:1], GRID, config))
    assert torch.equal(second[None], nothing.mask(seeds(2)[1:], GRID, config))


def share_hidden(noise, center, cells=4, clips=40):
    """Of a moving block, when a share `noise` of all vectors points anywhere."""
    made, random = moving_block(GRID, clips, cells=cells), generator(1)
    block = made.motion.any(-1).view(clips, 8, 2, 14, 2, 14, 2).any(6).any(4).any(2)
    wild = torch.rand(made.known.shape, generator=random) < noise
    vectors = 12 * torch.randn(made.motion.shape, generator=random)
    noisy = made._replace(motion=torch.where(wild[..., None], vectors, made.motion))
    mask = noisy.mask(seeds(clips), GRID, MaskConfig(ratio=0.3, center=center))
    return ((mask & block).sum() / block.sum()).item()


@pytest.mark.parametrize("center", CENTERS)
def test_a_moving_block_is_hidden(center):
    assert share_hidden(0.0, center) == 1


@pytest.mark.parametrize(("noise", "center"), [(0.004, "top_k"), (0.01, "vote"), (0.08, "vote")])
def test_a_moving_block_in_noise_is_hidden_by_vote_and_top_k_but_not_by_top_1(noise, center):
    assert share_hidden(noise, center) > 0.95
    assert share_hidden(noise, "top_1") < 0.5


@pytest.mark.parametrize("noise", [0.002, 0.02, 0.1, 0.3])
def test_vote_and_top_k_are_never_worse_than_top_1_in_noise(noise):
    top_1, top_k, vote = (share_hidden(noise, center) for center in CENTERS)
    assert top_k > top_1 - 0.03 and vote > top_1 - 0.03


@pytest.mark.parametrize("strategy", GUIDED)
def test_a_cut_moves_the_mask_of_its_own_slice_alone(strategy):
    made, config = moving_block(GRID, 2), MaskConfig(strategy=strategy)
    cut = made._replace(motion=made.motion.clone())
    cut.motion[:, 7] = 30 * torch.randn(28, 28, 2, generator=generator(0))
    before, after = (m.mask(seeds(2), GRID, config) for m in (made, cut))
    others = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(before[:, others], after[:, others])
    assert not torch.equal(before[:, 3], after[:, 3])


def test_a_cut_parts_the_warped_mask_on_its_far_side_only():
    made, config = quarter_pixels(GRID, 2), MaskConfig(strategy="flow_warp")
    cut = made._replace(motion=made.motion.clone())
    cut.motion[:, 5] = 30 * torch.randn(28, 28, 2, generator=generator(0))
    before, after = (m.mask(seeds(2), GRID, config) for m in (made, cut))
    assert torch.equal(before[:, 3:], after[:, 3:])
    assert not torch.equal(before[:, :2], after[:, :2])


@pytest.mark.parametrize("strategy", MASKS)
def test_any_number_as_motion_gives_the_exact_count(strategy):
    for number in (0.0, -0.0, 1e-30, 1e30, -1e30, 3e38, float("inf")):
        made = still(GRID, 2)
        made.motion[:, :, 3:9, 5:20] = number
        for clips in (made, made._replace(motion=torch.full_like(made.motion, number))):
            for center in CENTERS if strategy == "motion_guided" else CENTERS[:1]:
                config = MaskConfig(strategy=strategy, center=center)
                assert (clips.mask(seeds(2), GRID, config).sum((1, 2, 3)) == 8 * 147).all()


@pytest.mark.parametrize("strategy", sorted(NEEDS_MOTION))
def test_minus_zero_and_less_than_half_a_sixteenth_of_a_pixel_are_no_motion(strategy):
    config = MaskConfig(strategy=strategy, center="vote")
    expected = still(GRID, 2).mask(seeds(2), GRID, config)
    for number in (-0.0, 1e-30, -0.03):
        made = still(GRID, 2)
        made.motion[:] = number
        assert torch.equal(made.mask(seeds(2), GRID, config), expected)


@pytest.mark.parametrize("strategy", sorted(NEEDS_MOTION))
def test_vectors_out_of_any_frame_are_like_the_longest_that_count(strategy):
    config = MaskConfig(strategy=strategy)
    masks = []
    for length in (400.0, 1e30):
        made = still(GRID, 2)
        made.motion[:, :, 3:9, 5:20] = length
        masks.append(made.mask(seeds(2), GRID, config))
    assert torch.equal(*masks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("strategy", MASKS)
def test_motion_of_any_precision_gives_one_mask(strategy, dtype):
    made = quarter_pixels(GRID, 2, longest=255)  # exact in all of them; not so their squares
    other = made._replace(motion=made.motion.to(dtype))
    for center in CENTERS if strategy == "motion_guided" else CENTERS[:1]:
        config = MaskConfig(strategy=strategy, center=center)
        assert torch.equal(*(m.mask(seeds(2), GRID, config) for m in (made, other)))


@pytest.mark.parametrize("strategy", GUIDED)
def test_how_far_a_thing_moves_matters_but_not_whereto(strategy):
    made, config = scaled(GRID, 3), MaskConfig(strategy=strategy)
    turned = made._replace(motion=-made.motion)
    assert torch.equal(*(m.mask(seeds(3), GRID, config) for m in (made, turned)))


def test_a_mirrored_clip_has_the_mirrored_centre():
    made = one_cell([(5, 20)] * 16, GRID)
    mirrored = made._replace(motion=made.motion.flip(3) * torch.tensor((-1.0, 1.0)))
    config = MaskConfig(ratio=0.3, jitter=False)
    left, right = (m.mask(seeds(1), GRID, config).float().mean((0, 1, 2)) for m in (mirrored, made))
    middle = [(share * torch.arange(14)).sum() / share.sum() for share in (left, right)]
    assert abs(middle[0] + middle[1] - 13) < 0.2


@pytest.mark.parametrize("strategy", MASKS)
@pytest.mark.parametrize("grid", SMALLEST, ids=str)
def test_the_smallest_clips_have_masks(strategy, grid):
    for center in CENTERS:
        config = MaskConfig(strategy=strategy, ratio=0.5, center=center)
        mask = fast(grid, 2).mask(seeds(2), grid, config)
        assert (mask.sum((1, 2, 3)) == grid.t * hidden_per_slice(0.5, grid)).all()
