"""What DeepSpeed is told: our settings and the user's, and no word of either in silence."""

import copy

import pytest
import torch

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.training.deepspeed_options import OURS, PASSED_ON, deepspeed_options
from mgm_dali.training.engine import _import_deepspeed
from mgm_dali.training.world import World

CPU = torch.device("cpu")
TRAINING = {
    "batch_size": 3,
    "accumulate_steps": 5,
    "gradient_clipping": 0.5,
    "zero_stage": 2,
    "precision": "bf16",
}


def options(section, world_size=1, **training):
    config = RunConfig.model_validate({"training": {**TRAINING, **training}, "deepspeed": section})
    return deepspeed_options(config, World(0, world_size, CPU))


PASSED_VALUES = {
    "train_batch_size": 15,
    "train_micro_batch_size_per_gpu": 3,
    "gradient_accumulation_steps": 5,
    "gradient_clipping": 0.5,
    "zero_optimization": {"overlap_comm": False},
    "bf16": {"immediate_grad_update": False},
    "fp16": {"enabled": False},
    "data_types": {"grad_accum_dtype": "fp32"},
    "communication_data_type": "fp32",
    "gradient_predivide_factor": 2.0,
    "aio": {"thread_count": 2},
    "steps_per_print": 7,
    "flops_profiler": {"enabled": False},
    "comms_logger": {"enabled": False},
    "csv_monitor": {"enabled": False},
    "seed": 1,
}
"""A value of each section that is passed on and is no switch."""


EXPECTED = {
    "train_batch_size": 3 * 5,
    "train_micro_batch_size_per_gpu": 3,
    "gradient_accumulation_steps": 5,
    "gradient_clipping": 0.5,
    "zero_optimization": {"stage": 2},
    "bf16": {"enabled": True},
    "fp16": {"enabled": False},
}
"""What the training section of these tests says to DeepSpeed."""


def test_without_a_word_of_the_users_the_training_section_says_everything():
    found = options({})
    assert {key: found[key] for key in EXPECTED} == EXPECTED
    assert found.keys() - EXPECTED.keys() == {"steps_per_print", "zero_force_ds_cpu_optimizer"}
    assert found["zero_force_ds_cpu_optimizer"] is False


@pytest.mark.parametrize("key", sorted(OURS))
def test_a_section_that_has_no_say_is_refused_and_the_one_that_has_is_named(key):
    for value in ({"enabled": True}, {}, None, False):
        with pytest.raises(UserError) as refused:
            options({key: value})
        assert str(refused.value).startswith(f"deepspeed.{key}: ")
        assert str(refused.value).endswith(OURS[key])


def test_what_has_the_say_instead_is_a_setting_that_exists():
    fields = RunConfig().training.model_dump()
    for key, repair in OURS.items():
        for word in repair.replace(";", " ").split():
            if word.startswith("training."):
                assert word.removeprefix("training.") in fields, key


@pytest.mark.parametrize("key", sorted(PASSED_ON))
def test_a_section_that_is_passed_on_arrives_as_it_was_said(key):
    value = PASSED_VALUES.get(key, True)
    found = options({key: value})[key]
    if isinstance(value, dict):
        assert found.items() >= value.items()
    else:
        assert found == value


@pytest.mark.parametrize(
    "key", ["zero_optimisation", "zero", "Optimizer", "bfloat16", "", "nebula"]
)
def test_a_section_that_deepspeed_would_pass_over_is_refused(key):
    with pytest.raises(UserError, match=rf"^deepspeed\.{key}: is no section .*zero_optimization"):
        options({"steps_per_print": 1, key: {}})


CONTRADICTIONS = {
    "train_batch_size": (30, "15"),
    "train_micro_batch_size_per_gpu": (4, "3"),
    "gradient_accumulation_steps": (1, "5"),
    "gradient_clipping": (1.0, "0.5"),
    "zero_optimization.stage": (3, "2"),
    "bf16.enabled": (False, "True"),
    "fp16.enabled": (True, "False"),
    "zero_optimization": (True, "{'stage': 2}"),
    "bf16": (None, "{'enabled': True}"),
}


@pytest.mark.parametrize("key", CONTRADICTIONS)
def test_what_contradicts_the_training_section_is_refused_with_both_values(key):
    said, ours = CONTRADICTIONS[key]
    section, _, inner = key.partition(".")
    with pytest.raises(UserError) as refused:
        options({section: {inner: said} if inner else said})
    assert f"deepspeed.{key}: {said!r} contradicts {ours}" in str(refused.value)
    assert "change it there and remove it here" in str(refused.value)


def test_what_agrees_with_the_training_section_changes_nothing():
    assert options(EXPECTED) == options({})


@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_the_batch_counts_all_ranks(world_size):
    assert options({}, world_size)["train_batch_size"] == 15 * world_size
    with pytest.raises(UserError, match="train_batch_size"):
        options({"train_batch_size": 15 * (world_size + 1)}, world_size)


def test_stage_three_leaves_torchs_linear_function_alone_unless_it_is_asked_to():
    def zero(stage, **said):
        section = {"zero_optimization": said} if said else {}
        return options(section, zero_stage=stage)["zero_optimization"]

    assert zero(3) == {"stage": 3, "memory_efficient_linear": False}
    assert zero(3, overlap_comm=True)["memory_efficient_linear"] is False
    assert zero(3, memory_efficient_linear=True) == {"stage": 3, "memory_efficient_linear": True}
    assert zero(2) == {"stage": 2}
    with pytest.raises(UserError, match=r"deepspeed\.zero_optimization: False contradicts"):
        options({"zero_optimization": False}, zero_stage=3)


def test_the_users_section_is_not_written_to():
    section = {"zero_optimization": {"overlap_comm": True}, "bf16": {"enabled": True}}
    before = copy.deepcopy(section)
    options(section, zero_stage=3)
    assert section == before


class Listening(dict):
    """A configuration that notes which keys it is asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = set()

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key):
        self.asked.add(key)
        return super().__contains__(key)

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)


@pytest.fixture(scope="module")
def deepspeed_config():
    _import_deepspeed(CPU)
    from deepspeed.runtime.config import DeepSpeedConfig

    return DeepSpeedConfig


@pytest.mark.parametrize("key", sorted(PASSED_ON))
def test_the_installed_deepspeed_listens_to_every_section_that_is_passed_on(deepspeed_config, key):
    values = Listening(options({key: PASSED_VALUES.get(key, True)}))
    deepspeed_config(values)
    assert key in values.asked
