"""The recipes against tables of the papers, written here independently of them."""

from pathlib import Path
from typing import Any

import pytest
from learning_rates import rates_of
from recipes import PRETRAINING, RECIPES, ROOT, config_of, data_of, head_of

from mgm_dali.config import RunConfig, load_config
from mgm_dali.masking import MASKS
from mgm_dali.models.flops import forward_gflops
from mgm_dali.training.schedule import peak_lr

ABLATIONS = [name for name in RECIPES if name.startswith("ablation/")]


def value_of(config: RunConfig, dotted: str) -> Any:
    value: Any = config
    for key in dotted.split("."):
        value = getattr(value, key)
    return value


def differences(a: RunConfig, b: RunConfig) -> dict[str, Any]:
    """What `b` has otherwise, by dotted key of the second level."""
    one, other = a.model_dump(), b.model_dump()
    return {
        f"{section}.{key}": value
        for section, values in other.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != one[section][key]
    }


COLUMNS = ("k400", "ssv2", "ucf101", "hmdb51", "diving48")
TABLE_6 = {
    "training.base_lr": (1e-3, 5e-4, 5e-4, 5e-4, 5e-4),
    "training.weight_decay": (0.05,) * 5,
    "training.betas": ((0.9, 0.999),) * 5,
    "training.layer_decay": (0.75, 0.75, 0.75, 0.7, 0.7),
    "training.warmup_epochs": (5, 5, 0, 0, 0),
    "training.epochs": (75, 30, 100, 100, 100),
    "augment.repeats": (2,) * 5,
    "augment.flip": (True, False, True, True, True),
    "augment.label_smoothing": (0.1,) * 5,
    "augment.mixup": (0.8,) * 5,
    "augment.cutmix": (1.0,) * 5,
    "augment.rand_augment.layers": (4,) * 5,
    "augment.rand_augment.magnitude": (7,) * 5,
    "augment.rand_augment.magnitude_std": (0.5,) * 5,
    "model.drop_path": (0.1, 0.1, 0.2, 0.2, 0.2),
    "model.head_dropout": (0,) * 5,
    "evaluation.num_segments": (5, 2, 5, 5, 5),
    "evaluation.num_crops": (3,) * 5,
    "clip.sampling": ("dense", "segments", "dense", "dense", "dense"),
}


@pytest.mark.parametrize("data", COLUMNS)
def test_finetuning_has_the_values_of_table_6(data: str) -> None:
    number = COLUMNS.index(data)
    config = config_of(f"finetune/{data}_vitb")
    for key, values in TABLE_6.items():
        assert value_of(config, key) == values[number], key
    videos = config.training.global_batch / config.augment.repeats
    assert videos == 128 and config.model.name == "vit_base"


OURS = ("pretrain/k400_vitb_mgm_fast",)
"""Pretraining that is no paper's."""


@pytest.mark.parametrize(
    "name", [n for n in PRETRAINING if not n.startswith("presets/") and n not in OURS]
)
def test_pretraining_has_the_papers_values(name: str) -> None:
    config = config_of(name)
    is_ssv2 = data_of(name) == "ssv2"
    assert config.clip.sampling == "dense"
    assert config.clip.stride_frames == (2 if is_ssv2 else 4)
    assert config.augment.flip == (not is_ssv2)
    assert (config.augment.crop, config.augment.repeats) == ("multi_scale", 1)
    assert (config.model.num_frames, config.model.image_size) == (16, 224)
    training = config.training
    assert (training.global_batch, training.base_lr, training.weight_decay) == (512, 1.5e-4, 0.05)
    assert (training.betas, training.warmup_epochs) == ((0.9, 0.95), 40)
    if name.startswith("pretrain/"):
        assert (config.mask.strategy, config.mask.ratio) == ("motion_guided", 0.75)
        assert config.mask.jitter and training.epochs == 800
        size = {"vits": "small", "vitb": "base", "vitl": "large"}.get(name.split("_")[-2])
        assert config.model.name == (f"vit_{size}" if size else "timesformer_base")


def test_the_fast_recipe_sees_as_many_clips_in_as_many_steps_at_the_same_rates() -> None:
    base, fast = config_of("pretrain/k400_vitb_mgm"), config_of("pretrain/k400_vitb_mgm_fast")
    repeats, batch = fast.augment.repeats, fast.training.global_batch
    assert batch == base.training.global_batch and repeats == 4
    for length in ("epochs", "warmup_epochs"):
        shorter, whole = getattr(fast.training, length), getattr(base.training, length)
        assert shorter * repeats == whole, "an epoch shows each video as often as it is repeated"
    rates = rates_of(base.training, 1024, batch)
    of_fast = rates_of(fast.training, 1024, batch // repeats)  # of each video four clips
    assert len(rates) == 1600 and of_fast == pytest.approx(rates, rel=1e-9)
    changed = {"augment", "training", "output_dir"}
    assert base.model_dump(exclude=changed) == fast.model_dump(exclude=changed)


ABLATED = {
    "mgm": ("67.3", {}),
    "backbone_vits": ("61.1", {"model.name": "vit_small"}),
    "backbone_timesformer": (
        "64.7",
        {"model.name": "timesformer_base", "model.attention": "divided"},
    ),
    "guidance_flow": ("66.0", {"motion.source": "store"}),
    "jitter_off": ("67.1", {"mask.jitter": False}),
    "data_k400": ("79.9", {"clip.stride_frames": 4, "augment.flip": True}),
    "data_mini_k200": (None, {"clip.stride_frames": 4, "augment.flip": True}),
    "ratio_60": (None, {"mask.ratio": 0.6}),
    "ratio_90": (None, {"mask.ratio": 0.9}),
    "mask_random": (None, {"mask.strategy": "random", "mask.ratio": 0.9}),
    "mask_tube": ("65.0", {"mask.strategy": "tube", "mask.ratio": 0.9}),
    "mask_block": ("62.9", {"mask.strategy": "block"}),
    "mask_simulated": ("65.9", {"mask.strategy": "simulated_motion"}),
    "mask_simulated_sparse": ("64.6", {"mask.strategy": "simulated_motion_sparse"}),
    "mask_motion_sparse": ("65.1", {"mask.strategy": "motion_guided_sparse"}),
    "mask_flow_warp": (None, {"mask.strategy": "flow_warp", "mask.ratio": 0.9}),
    "center_top_k": (None, {"mask.center": "top_k"}),
    "center_vote": (None, {"mask.center": "vote"}),
    "border_grow": (None, {"mask.border": "grow"}),
    "camera_subtracted": (None, {"motion.subtract_camera": True}),
    "motion_window": (None, {"motion.accumulate": "window"}),
    "decoded_half": (None, {"mask.decoded_share": 0.5}),
}
"""Of each ablation the top-1 that the paper reports, and all it has otherwise than the base."""


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_says_and_nothing_else(name: str) -> None:
    score, changes = ABLATED[name.removeprefix("ablation/")]
    base = config_of("ablation/mgm")
    assert base.training.epochs == 200
    assert differences(base, config_of(name)) == changes
    expected = head_of(name)["Expected"]
    assert (expected.split()[0] == score) if score else expected.startswith("no number")


def test_every_kind_of_mask_and_each_row_of_table_4_has_an_ablation() -> None:
    assert {name.removeprefix("ablation/") for name in ABLATIONS} == set(ABLATED)
    assert {config_of(name).mask.strategy for name in ABLATIONS} == set(MASKS)


PRESETS = {
    #                  videos a step, flip, mask, ratio, peak rate
    "mgm-paper": (512, True, "motion_guided", 0.75, 3e-4),
    "videomae-paper": (1024, True, "tube", 0.9, 6e-4),
    "videomae-scripts": (2048, False, "tube", 0.9, 1.2e-3),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_what_was_published(preset: str, tmp_path: Path) -> None:
    config = config_of(f"presets/{preset}")
    batch, flip, strategy, ratio, rate = PRESETS[preset]
    assert (config.training.global_batch, config.augment.flip) == (batch, flip)
    assert (config.mask.strategy, config.mask.ratio) == (strategy, ratio)
    assert peak_lr(config.training.base_lr, batch) == pytest.approx(rate)
    assert config.augment.repeats == 1
    assert (config.evaluation.num_segments, config.evaluation.num_crops) == (5, 3)
    path = tmp_path / "ssv2.yaml"  # as docs/recipes.md takes one to another data set
    ssv2 = RECIPES["pretrain/ssv2_vitb_mgm"]
    path.write_text(f"base: [{RECIPES[f'presets/{preset}']}, {ssv2}]\n", encoding="utf-8")
    other = load_config(path)
    assert other.training == config.training and other.mask == config.mask
    assert (other.augment.flip, other.clip.stride_frames) == (False, 2)


def test_the_page_compares_the_presets_by_the_same_figures() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    configs = [config_of(f"presets/{preset}") for preset in PRESETS]
    batches = [config.training.global_batch or 0 for config in configs]
    visible = [8 * (196 - hidden) for hidden in (147, 176, 176)]
    costs = [3 * forward_gflops(c.model, v) for c, v in zip(configs, visible, strict=True)]
    rows = {
        "clips a step": batches,
        "peak learning rate": [f"{1.5e-4 * b / 256:.1e}".replace("e-0", "e-") for b in batches],
        "TFLOP a step": [round(c * b / 1e3) for c, b in zip(costs, batches, strict=True)],
        "steps of 800 epochs": [f"{240_000 * 800 / b:,.0f}" for b in batches],
    }
    for what, cells in rows.items():
        assert f"| {what} | {' | '.join(map(str, cells))} |" in page


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("pretrain/k400_vitb_mgm", {800: 80.8, 400: 80.3, 1200: 81.2, 1600: 81.7}),
        ("pretrain/ssv2_vitb_mgm", {800: 70.6, 400: 69.6, 1200: 71.6, 1600: 71.8, 2400: 72.1}),
    ],
)
def test_a_head_quotes_the_paper_for_each_number_of_epochs(
    name: str, scores: dict[int, float]
) -> None:
    expected = head_of(name)["Expected"]
    assert expected.startswith(f"{scores.pop(800)} top-1 after configs/finetune/")
    epochs, others = (", ".join(map(str, row)) for row in (scores, scores.values()))
    assert expected.endswith(f"; {others} with training.epochs of {epochs} (the paper).")
