"""Masks of every strategy: exact counts, and nothing that depends on batch, rank or moment."""

import pytest
import torch
from made_motion import (
    KINDS,
    Made,
    holes,
    one_cell,
    quarter_pixels,
    seeds,
    some_frames,
    still,
)

from mgm_dali.config import MaskConfig, RunConfig
from mgm_dali.errors import UserError
from mgm_dali.masking import (
    MASKS,
    NEEDS_MOTION,
    PatchGrid,
    hidden_per_slice,
    make_mask,
)
from mgm_dali.pipelines import Share, make_loader

GRID = PatchGrid(8, 14, 14)
GRIDS = [GRID, PatchGrid(16, 14, 14), PatchGrid(8, 7, 7), PatchGrid(8, 4, 4), PatchGrid(8, 16, 16)]
RATIOS = [round(0.05 * k, 2) for k in range(1, 20)]
STEADY = [("simulated_motion", False), ("motion_guided", False)]
"""Without jitter the moving rectangles too hide as much in every slice."""
OPTIONS = {
    "jitter off": {"jitter": False},
    "grow": {"border": "grow"},
    "top_k": {"center": "top_k"},
    "vote": {"center": "vote"},
}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("strategy", "jitter"), [*dict.fromkeys(MASKS, True).items(), *STEADY])
def test_every_strategy_hides_its_exact_count_at_every_ratio(strategy, jitter, grid):
    made = holes(grid, 2)
    for ratio in RATIOS:
        config = MaskConfig(strategy=strategy, ratio=ratio, jitter=jitter)
        if grid.h == 4 and ratio == 0.05:  # 0.8 of a token
            with pytest.raises(UserError, match=r"mask\.ratio"):
                made.mask(seeds(2), grid, config)
            continue
        mask = made.mask(seeds(2), grid, config)
        assert mask.shape == (2, *grid) and mask.dtype == torch.bool
        assert (mask.sum((1, 2, 3)) == grid.t * hidden_per_slice(ratio, grid)).all()
        if not jitter or (strategy, False) not in STEADY:
            assert (mask.sum((2, 3)) == hidden_per_slice(ratio, grid)).all()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_count_is_exact_for_every_kind_of_motion_and_option(kind, options):
    grid = PatchGrid(4, 7, 7)
    for ratio in RATIOS:
        mask = KINDS[kind](grid, 3).mask(seeds(3), grid, MaskConfig(ratio=ratio, **options))
        assert (mask.sum((1, 2, 3)) == 4 * hidden_per_slice(ratio, grid)).all()


def test_counts_are_those_of_the_published_implementations():
    assert hidden_per_slice(0.75, GRID) == 147
    assert hidden_per_slice(0.9, GRID) == 176
    assert hidden_per_slice(0.7, PatchGrid(1, 10, 1)) == 7  # 0.7 * 10 is 6.999...96 in floats


def test_counts_are_those_of_exact_fractions():
    for grid in GRIDS:
        for k in range(1, 20):
            exact = k * grid.h * grid.w // 20
            if exact:
                assert hidden_per_slice(0.05 * k, grid) == exact


@pytest.mark.parametrize("ratio", [0.05, 0.9999999999])
def test_a_ratio_that_hides_nothing_or_everything_is_refused(ratio):
    with pytest.raises(UserError, match=r"mask\.ratio.*of the 16 tokens"):
        hidden_per_slice(ratio, PatchGrid(8, 4, 4))


@pytest.mark.parametrize("strategy", MASKS)
@pytest.mark.parametrize("shape", [(2, 8, 14, 14, 2), (2, 16, 28, 28, 1), (3, 16, 28, 28, 2)])
def test_motion_of_another_clip_is_refused_and_both_shapes_are_named(strategy, shape):
    made = still(GRID, 2)
    with pytest.raises(ValueError, match="motion") as error:
        make_mask(torch.zeros(shape), made.valid, seeds(2), GRID, MaskConfig(strategy=strategy))
    assert str(list(shape)) in str(error.value) and "[2, 16, 28, 28, 2]" in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("motion_valid", (2, 8), torch.bool),
        ("motion_valid", (2, 16), torch.float32),
        ("motion_known", (2, 16, 14, 14), torch.bool),
        ("motion_known", (2, 16, 28, 28), torch.uint8),
        ("seed", (2,), torch.int32),
    ],
)
def test_whatever_else_is_of_another_clip_is_refused_by_its_name(name, shape, dtype):
    made, wrong = still(GRID, 2), torch.ones(shape, dtype=dtype)
    given = {"motion_valid": made.valid, "motion_known": made.known, "seed": seeds(2), name: wrong}
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, found {dtype} ") as error:
        make_mask(made.motion, grid=GRID, config=MaskConfig(), **given)
    assert str(error.value).endswith(str(list(shape)))


@pytest.mark.parametrize("strategy", sorted(NEEDS_MOTION))
@pytest.mark.parametrize("center", ["top_1", "vote"])
def test_what_is_said_of_frames_without_vectors_does_not_matter(strategy, center):
    made, config = some_frames(GRID, 3), MaskConfig(strategy=strategy, center=center)
    invalid = ~made.valid[..., None, None]
    assert invalid.any()
    motion = made.motion + 50 * invalid[..., None]
    found = make_mask(motion, made.valid, seeds(3), GRID, config, made.known | invalid)
    assert torch.equal(found.view(-1, *GRID), made.mask(seeds(3), GRID, config))


@pytest.mark.parametrize("strategy", MASKS)
def test_a_clips_mask_does_not_depend_on_its_batch(strategy):
    made, seed, config = holes(GRID, 5), seeds(5), MaskConfig(strategy=strategy)
    together = made.mask(seed, GRID, config)
    for rows in ([0], [3], [4, 3, 2, 1, 0], [1, 1, 4]):
        part = Made(*(field[rows] for field in made))
        assert torch.equal(part.mask(seed[rows], GRID, config), together[rows])


@pytest.mark.parametrize("strategy", MASKS)
def test_another_seed_gives_another_mask_and_the_same_gives_the_same(strategy):
    made, config = quarter_pixels(GRID), MaskConfig(strategy=strategy)
    first, again, other = (made.mask(torch.tensor([seed]), GRID, config) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("strategy", sorted(MASKS.keys() - NEEDS_MOTION))
def test_a_strategy_that_needs_no_motion_does_not_look_at_it(strategy):
    config = MaskConfig(strategy=strategy)
    masks = [KINDS[kind](GRID, 2).mask(seeds(2), GRID, config) for kind in ("fast", "no vectors")]
    assert torch.equal(*masks)


@pytest.mark.parametrize("strategy", sorted(NEEDS_MOTION))
def test_a_strategy_that_needs_motion_looks_at_it(strategy):
    config = MaskConfig(strategy=strategy)
    masks = [KINDS[kind](GRID).mask(seeds(1), GRID, config) for kind in ("fast", "no motion")]
    assert not torch.equal(*masks)


@pytest.mark.parametrize("strategy", MASKS)
def test_the_arguments_stay_as_they_were_in_whatever_layout(strategy):
    made, seed, config = holes(GRID, 3), seeds(3), MaskConfig(strategy=strategy, center="vote")
    before = [field.clone() for field in made]
    expected = made.mask(seed, GRID, config)
    assert all(map(torch.equal, made, before))
    frames_first = made._replace(motion=made.motion.transpose(0, 1).contiguous().transpose(0, 1))
    planes = made._replace(motion=made.motion.movedim(-1, 2).contiguous().movedim(2, -1))
    for other in (frames_first, planes):
        assert not other.motion.is_contiguous()
        assert torch.equal(other.mask(seed, GRID, config), expected)


def kept_for_backward(tensor):
    raise AssertionError(f"kept for a backward pass: {list(tensor.shape)}")


@pytest.mark.parametrize("strategy", MASKS)
def test_masks_have_no_gradient_and_do_not_depend_on_how_networks_compute(strategy):
    made, seed, config = quarter_pixels(GRID, 2), seeds(2), MaskConfig(strategy=strategy)
    expected = made.mask(seed, GRID, config)
    learnt = made._replace(motion=made.motion.clone().requires_grad_())
    with torch.autograd.graph.saved_tensors_hooks(kept_for_backward, kept_for_backward):
        assert not learnt.mask(seed, GRID, config).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(learnt.mask(seed, GRID, config), expected)
    with torch.inference_mode():
        assert torch.equal(made.mask(seed, GRID, config), expected)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(made.mask(seed, GRID, config), expected)
    finally:
        torch.set_float32_matmul_precision(precision)


def test_masks_are_the_same_for_one_two_and_four_ranks(moving_shapes, tmp_path):
    config = RunConfig.model_validate(
        {
            "output_dir": tmp_path,
            "device": "cpu",
            "data": {"train": moving_shapes, "num_workers": 0},
            "clip": {"stride_frames": 2},
            "model": {"name": "vit_micro", "num_frames": 8, "image_size": 64},
        }
    )
    grid = PatchGrid(4, 4, 4)
    of_world = {}
    for ranks in (1, 2, 4):
        masks = of_world[ranks] = {}
        for rank in range(ranks):
            with make_loader(config, "pretrain", Share(12 // ranks, rank, ranks)) as loader:
                batch = next(iter(loader))
            for strategy in MASKS:
                mask = make_mask(
                    *(batch.motion, batch.motion_valid, batch.seed, grid),
                    MaskConfig(strategy=strategy),
                    batch.motion_known,
                )
                for row, one in zip(batch.index.tolist(), mask.tolist(), strict=True):
                    masks[strategy, row] = one
        assert len(masks) == 12 * len(MASKS)
    assert of_world[1] == of_world[2] == of_world[4]


def test_known_cells_are_by_default_those_of_valid_frames():
    made = one_cell([None, (3, 3), (4, 4), None, *[(5, 5)] * 12], GRID)
    for strategy in sorted(NEEDS_MOTION):
        config = MaskConfig(strategy=strategy)
        mask = make_mask(made.motion, made.valid, seeds(1), GRID, config).view(1, *GRID)
        assert torch.equal(mask, made.mask(seeds(1), GRID, config))


def test_the_table_knows_the_same_names_as_the_config():
    assert set(MASKS) == set(MaskConfig.model_fields["strategy"].annotation.__args__)
    assert set(MASKS) >= NEEDS_MOTION
