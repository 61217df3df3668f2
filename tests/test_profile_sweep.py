"""What a sweep tries, and which it calls the best."""

import json

import pytest
from training_runs import SETTINGS
from typer.testing import CliRunner

from mgm_dali.cli import app
from mgm_dali.config import load_config
from mgm_dali.errors import UserError
from mgm_dali.profiling.sweep import SHORT_NAMES, Tried, best_of, combinations, split_axes

CONFIG = "configs/smoke/pretrain.yaml"


def test_overrides_with_several_values_are_axes_and_short_names_are_spelt_out():
    plain, axes = split_axes(["model.name=vit_micro", "workers=1,2", "mask.ratio=0.75,0.9"])
    assert plain == ["model.name=vit_micro"]
    assert axes == {"data.num_workers": ["1", "2"], "mask.ratio": ["0.75", "0.9"]}


def test_a_list_or_a_path_as_a_value_is_no_axis_and_single_values_may_have_short_names():
    single = ["training.betas=[0.9,0.95]", "data.train=/my,data/a.csv", "batch_size=4"]
    plain, axes = split_axes([*single, "workers=1,2"])
    assert plain == [*single[:2], "training.batch_size=4"]
    assert axes == {"data.num_workers": ["1", "2"]}


def test_a_key_with_several_values_twice_is_refused():
    with pytest.raises(UserError, match=r"data\.num_workers has several values twice"):
        split_axes(["workers=1,2", "data.num_workers=3,4"])


def test_all_combinations_are_tried_once():
    found = combinations({"a": ["1", "2"], "b": ["3", "4", "5"]})
    assert len(found) == len(set(found)) == 6
    assert found[0] == ("a=1", "b=3") and found[-1] == ("a=2", "b=5")


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_every_short_name_is_of_a_key_that_there_is(name):
    section, key = SHORT_NAMES[name].split(".")
    assert key in type(getattr(load_config(CONFIG), section)).model_fields


def tried(name, rate, problem=None):
    return Tried((name,), None if problem else object(), rate, problem)


def test_of_those_that_are_as_fast_the_first_is_the_best():
    found = [tried("workers=1", 50), tried("workers=2", 99), tried("workers=4", 100)]
    assert best_of(found).overrides == ("workers=2",)


def test_if_nothing_works_that_is_said_with_the_reason():
    with pytest.raises(UserError, match="too small"):
        best_of([tried("batch_size=512", 0.0, "the GPU's memory is too small for it")])


def test_a_sweep_without_values_is_refused():
    with pytest.raises(UserError, match="workers=1,2,4"):
        split_axes(["model.name=vit_micro"])


def test_a_sweep_tries_each_choice_for_real_and_keeps_the_best_as_overrides(
    moving_shapes, tmp_path
):
    arguments = ["profile", CONFIG, f"data.train={moving_shapes}", *SETTINGS, "--sweep"]
    arguments += ["batch_size=2,4", "kernel=sdpa,cudnn,soft", "--seconds", "5", "-o", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert [one["overrides"] for one in found] == [
        [f"training.batch_size={size}", f"training.attention_kernel={kernel}"]
        for size in (2, 4)
        for kernel in ("sdpa", "cudnn", "soft")
    ]
    for worked, unusable, unknown in (found[:3], found[3:]):
        assert "cudnn cannot be used here" in unusable["problem"]
        assert "attention_kernel" in unknown["problem"]
        together = worked["together"]
        rate = together["clips"] / together["seconds"]
        assert worked["clips_per_second"] == pytest.approx(rate, rel=1e-4)
    best = (tmp_path / "overrides.txt").read_text().split()
    assert load_config(CONFIG, best).training.attention_kernel == "sdpa"
    assert best[0] in done.output
