"""Recipes in configs/: their heads say what the code computes, and each can train."""

import re
from pathlib import Path

import pytest
from feature_runs import ALONE
from made_people import write_people
from recipes import (
    DETECTING,
    FIELDS,
    FINETUNING,
    PRETRAINING,
    PROBE_FIELDS,
    PROBING,
    RECIPES,
    ROOT,
    command_of,
    config_of,
    data_of,
    head_of,
    overrides_of,
)

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import RunConfig, load_config
from mgm_dali.config.layers import merge_layers, read_layers
from mgm_dali.masking import NEEDS_MOTION, decoded_count, hidden_per_slice
from mgm_dali.models import BACKBONES
from mgm_dali.models.flops import forward_gflops
from mgm_dali.motion.extract import extract
from mgm_dali.motion.recipe import Recipe
from mgm_dali.pipelines import Share
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.training.feature_store import FeatureSpec
from mgm_dali.training.finetune import finetune
from mgm_dali.training.metrics import read_steps
from mgm_dali.training.objective_choice import objective_of
from mgm_dali.training.pretrain import pretrain
from mgm_dali.training.probe import PROBES
from mgm_dali.training.schedule import peak_lr, with_accumulation
from mgm_dali.video.manifest import read_manifest

VIDEOS = {
    "k400": 240_000,
    "ssv2": 168_913,
    "mini-k200": 80_000,
    "ucf101": 9_537,
    "hmdb51": 3_570,
    "diving48": 15_027,
    "ava": 235 * (1798 - 902 + 1),
}
"""Training videos of each data set: those of the official lists, of Kinetics-400 about.

Of AVA the annotated seconds, each of which is a sample if it shows people.
"""

JUDGED_VIDEOS = {
    "k400": 20_000,
    "ssv2": 24_777,
    "ucf101": 3_783,
    "hmdb51": 1_530,
    "diving48": 1_970,
}
"""Validation or test videos of the same lists."""


def gflops_of(config: RunConfig, stage: str) -> float:
    grid = token_grid(config.model)
    if stage == "finetune":
        return forward_gflops(config.model, grid.num_tokens)
    hidden = grid.t * hidden_per_slice(config.mask.ratio, grid)
    decoded = decoded_count(hidden, config.mask.decoded_share)
    return forward_gflops(config.model, grid.num_tokens - hidden, decoded)


@pytest.mark.parametrize("name", [*RECIPES, *PROBING])
def test_every_head_is_whole_and_honest(name: str) -> None:
    head, fields = head_of(name), PROBE_FIELDS if name in PROBING else FIELDS
    assert list(head)[: 1 + len(fields)] == ["Title", *fields]
    assert head["Title"].endswith(".") and all(head[field] for field in fields)
    assert re.search(r"\d|no number", head["Expected"])
    assert head["Status"] == "not run to the end by us; only the same code at smoke size."


@pytest.mark.parametrize("name", RECIPES)
def test_the_run_line_works_as_it_is_written(name: str) -> None:
    *launcher, stage, path = command_of(name)[:5]
    assert launcher == ["deepspeed", "--module", "mgm_dali"]
    assert ROOT / path == RECIPES[name]
    overrides = overrides_of(name)
    assert len(overrides) == len(command_of(name)) - 5, "a word that is no override"
    config = load_config(RECIPES[name], [f"{key}={value}" for key, value in overrides.items()])
    assert stage == ("finetune" if name in FINETUNING else "pretrain")
    if stage == "finetune":
        data = data_of(name)
        assert f"{config.data.val}" in (f"{data}-val.csv", f"{data}-val/videos.csv")
        assert config.model.init in {config_of(n).output_dir for n in PRETRAINING}
    else:
        looks_at_motion = config.mask.strategy in NEEDS_MOTION
        assert (config.data.motion_store is not None) == looks_at_motion


RANKS = {"--nnodes=2:4": (16, 24, 32), "-np 8": (8,)}
"""Of the lines for several machines that start others than four machines of eight."""


@pytest.mark.parametrize("name", PRETRAINING)
def test_the_lines_for_several_machines_start_every_pretraining(name: str) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").replace("\\\n", "")
    part = page.partition("## Four machines")[2].partition("## In a container")[0]
    code = "".join(re.findall(r"```sh\n(.*?)```", part, re.DOTALL))
    lines = [line.partition("  #")[0] for line in code.splitlines() if "pretrain CONFIG" in line]
    assert len(lines) == 7
    for line in lines:
        config = load_config(RECIPES[name], line.partition(" CONFIG")[2].split())
        for ranks in next((found for word, found in RANKS.items() if word in line), (32,)):
            training = with_accumulation(config, ranks).training
            each = training.batch_size * training.accumulate_steps
            assert each * ranks == training.global_batch, line


@pytest.mark.parametrize("name", RECIPES)
def test_the_heads_figures_are_what_the_code_computes(name: str) -> None:
    head, config, stage = head_of(name), config_of(name), command_of(name)[3]
    videos = VIDEOS[data_of(name)]
    samples = "moments of 235 training videos" if name in DETECTING else "training videos"
    assert f"{videos:,} {samples}" in head["Data"]
    found = re.fullmatch(
        r"(\d+) videos x (\d) clips? a step, peak rate (\S+); ([\d,]+) clips an epoch\.",
        head["Batch"],
    )
    repeats, clips = config.augment.repeats, config.training.global_batch
    assert clips is not None and found is not None
    assert (int(found[1]), int(found[2])) == (clips // repeats, repeats)
    assert found[3] == f"{peak_lr(config.training.base_lr, clips // repeats):.1e}"
    assert found[4] == f"{videos * repeats:,}"
    gflops = gflops_of(config, stage)
    total = 3 * gflops * videos * repeats * config.training.epochs / 1e9  # backward: twice forward
    assert head["Cost"] == (
        f"{gflops:.1f} GFLOPs a clip and forward pass; {total:.3g} EFLOPs for "
        f"{config.training.epochs:g} epochs of training."
    )


@pytest.mark.parametrize("name", PROBING)
def test_the_run_line_of_a_probe_works_as_it_is_written(name: str) -> None:
    before, _, after = " ".join(command_of(name)).partition("probe configs/")
    assert before in ("mgm-dali ", "deepspeed --module mgm_dali ")
    path, *overrides = after.split()
    assert ROOT / "configs" / path == PROBING[name]
    config = load_config(PROBING[name], overrides)
    assert (config.data.train, config.data.val) == (
        Path(f"{data_of(name)}.csv"),
        Path(f"{data_of(name)}-val.csv"),
    )
    assert config.model.init in {config_of(n).output_dir for n in PRETRAINING}


@pytest.mark.parametrize("name", PROBING)
def test_the_figures_of_a_probe_are_what_the_code_computes(name: str) -> None:
    head, config = head_of(name), config_of(name)
    train, val = VIDEOS[data_of(name)], JUDGED_VIDEOS[data_of(name)]
    judged = "test" if "test videos" in head["Data"] else "validation"
    assert f"{train:,} training and {val:,} {judged} videos" in head["Data"]
    probe, views = config.probe, config.evaluation
    learned = train * probe.train_segments * probe.train_crops
    tested = val * views.num_segments * views.num_crops
    gflops = forward_gflops(config.model, token_grid(config.model).num_tokens)
    assert head["Cost"] == (
        f"{gflops:.1f} GFLOPs a clip, once: {learned:,} training and {tested:,} {judged} clips, "
        f"{(learned + tested) * gflops / 1e9:.2f} EFLOP."
    )
    assert set(probe.kinds) == set(PROBES), "its disk holds the features of all"
    tokens = token_grid(config.model).t * probe.attentive.tokens_per_side**2
    width = BACKBONES[config.model.name].width
    sizes = {}
    for kept in (0, tokens):
        spec = FeatureSpec("train", {}, learned + tested, 1, width, kept)
        sizes[kept] = (spec.num_bytes - spec.num_rows) / 1e9  # without a byte that says who is read
    means, all_tokens = sizes[0], sizes[tokens] - sizes[0]
    assert head["Disk"].startswith(
        f"{means:.1f} GB of means and {all_tokens:.{1 if all_tokens < 10 else 0}f} GB of tokens, "
        "in RUN/features"
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_of_recipes_has_each_with_the_same_figures(name: str) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    start = f"| [{name.split('/')[1]}](../configs/{name}.yaml) |"
    (row,) = [line for line in page.splitlines() if line.startswith(start)]
    gflops, eflops = re.findall(r"([\d.]+) [GE]FLOPs", head_of(name)["Cost"])
    cells = [cell.strip() for cell in row.split("|")]
    assert gflops in cells and eflops in cells
    scores = set(re.findall(r"\b\d\d\.\d\b", row)) - {gflops, eflops}
    assert scores <= set(re.findall(r"\b\d\d\.\d\b", head_of(name)["Expected"]))


def test_the_page_of_recipes_links_to_files_that_exist() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / "docs" / link).exists(), link


@pytest.mark.parametrize("name", RECIPES)
def test_any_usual_number_of_gpus_gives_the_same_batch(name: str) -> None:
    config = config_of(name)
    for ranks, smaller in ((1, 1), (2, 1), (4, 1), (8, 1), (16, 2), (32, 4), (64, 16)):
        training = config.training.model_copy(
            update={"batch_size": config.training.batch_size // smaller}
        )
        shared = with_accumulation(config.model_copy(update={"training": training}), ranks).training
        batch = shared.batch_size * shared.accumulate_steps * ranks
        assert batch == config.training.global_batch
        assert shared.batch_size % config.augment.repeats == 0


def test_no_two_recipes_write_into_the_same_folder() -> None:
    folders = [config_of(name).output_dir for name in (*RECIPES, *PROBING)]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("name", [n for n in RECIPES if not n.startswith("presets/")])
def test_a_recipe_based_on_another_says_nothing_twice(name: str) -> None:
    *bases, own = read_layers(RECIPES[name])
    if not bases:
        assert name in ("pretrain/k400_vitb_mgm", "finetune/k400_vitb", *DETECTING)
        return
    below, tree = merge_layers(bases), own.values
    said = [
        (section, key)
        for section, values in tree.items()
        if isinstance(values, dict)
        for key in values
    ]
    assert 0 < len(said) + len(tree) <= 12
    for section, key in said:
        assert below.get(section, {}).get(key) != tree[section][key], f"{section}.{key}"


SMOKE = (
    *("device=cpu", "data.num_workers=0", "clip.stride_frames=1"),
    *("model.name=vit_micro", "model.num_frames=4", "model.image_size=64"),
    *("training.precision=fp32", "training.attention_kernel=sdpa", "training.max_steps=1"),
    *("training.batch_size=4", "training.global_batch=4", "training.warmup_epochs=0"),
    *("evaluation.num_segments=1", "evaluation.num_crops=1", "evaluation.batch_size=12"),
)
"""Makes any recipe one step of a few clips; what it trains, and how, stays as it is."""


def at_smoke_size(name: str, manifest: Path, folder: Path) -> RunConfig:
    overrides = [
        *SMOKE,
        f"data.train={manifest}",
        f"data.val={manifest}",
        f"output_dir={folder}/run",
    ]
    if name in DETECTING:
        made = write_people(folder / "people", 4, 0)
        overrides += [f"data.train={made.manifest}", f"data.val={made.manifest}"]
        overrides += [f"detection.actions={made.actions}", "detection.excluded=null"]
        overrides += [f"detection.train={made.people}", f"detection.val={made.people}"]
        overrides += ["detection.first_second=0", "training.epochs=1"]
    if config_of(name).motion.source == "store":
        store = folder / "motion"
        extract(read_manifest(manifest), store, Recipe("codec"), num_workers=0)
        overrides += [f"data.motion_store={store}"]
    return load_config(RECIPES[name], overrides)


def take_a_step(name: str, manifest: Path, folder: Path) -> None:
    config = at_smoke_size(name, manifest, folder)
    train = finetune if name in FINETUNING else pretrain
    assert train(config).is_file()
    (step,) = read_steps(config.output_dir / "metrics.jsonl")
    assert step["grad_norm"] > 0


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gets_its_clips(name: str, moving_shapes: Path, tmp_path: Path) -> None:
    config = at_smoke_size(name, moving_shapes, tmp_path)
    stage = "finetune" if name in FINETUNING else "pretrain"
    needs_motion = stage == "pretrain" and config.mask.strategy in NEEDS_MOTION
    manifest = None
    if name in DETECTING:
        manifest = objective_of(config, ALONE, to_train=True)[1].manifest
    with ClipLoader(
        config, stage, Share(4), needs_motion=needs_motion, manifest=manifest
    ) as loader:
        videos = 12 if name in DETECTING else 24  # three moments of four videos
        assert len(loader) == videos * config.augment.repeats // 4


@pytest.mark.parametrize("name", ["presets/videomae-scripts", "finetune/ssv2_vitb"])
def test_a_recipe_takes_a_step(name: str, moving_shapes: Path, tmp_path: Path) -> None:
    take_a_step(name, moving_shapes, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_step(name: str, moving_shapes: Path, tmp_path: Path) -> None:
    take_a_step(name, moving_shapes, tmp_path)
