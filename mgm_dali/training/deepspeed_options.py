"""DeepSpeed's configuration: what ours says, and the user's `deepspeed:` section around it.

The two can never say different things in silence, and no word of the user's goes unheard: DeepSpeed
itself passes over a section whose name it does not know.
"""

from typing import Any

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.training.world import World

__all__ = ["deepspeed_options"]

OURS = {
    "amp": "training.precision says in which numbers the network computes",
    "torch_autocast": "training.precision says in which numbers the network computes",
    "optimizer": "the training section says how AdamW steps",
    "scheduler": "the training section says the learning rate of each step",
    "activation_checkpointing": "training.checkpoint_activations says it",
    "compile": "training.compile says it",
    "checkpoint": "checkpoints are not DeepSpeed's; the training section says which are kept",
    "data_efficiency": "clips come from this project's loader",
    "curriculum_learning": "clips come from this project's loader",
    "elasticity": "training.global_batch lets a run go on with another number of ranks",
    "tensorboard": "RUN/tensorboard has everything",
    "wandb": "training.wandb_project says it",
}
"""Sections of DeepSpeed that have no say here, and what has."""

PASSED_ON = {
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
    *("gradient_clipping", "zero_optimization", "bf16", "fp16", "data_types"),
    *("communication_data_type", "prescale_gradients", "gradient_predivide_factor"),
    *("zero_force_ds_cpu_optimizer", "zero_allow_untested_optimizer", "aio"),
    *("steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state"),
    *("flops_profiler", "comms_logger", "csv_monitor", "disable_allgather"),
}
"""Sections that DeepSpeed knows and that change how, not what, is computed."""


def deepspeed_options(config: RunConfig, world: World) -> dict[str, Any]:
    """The tree that DeepSpeed is given.

    Raises `UserError` if the user's section contradicts ours, decides what is not DeepSpeed's to
    decide here, or holds a word that DeepSpeed does not know.
    """
    training = config.training
    for key in sorted(config.deepspeed):
        if key in OURS:
            raise UserError(f"deepspeed.{key}: is not DeepSpeed's to choose here: {OURS[key]}")
        if key not in PASSED_ON:
            raise UserError(
                f"deepspeed.{key}: is no section of DeepSpeed's that can be used here; those are "
                f"{', '.join(sorted(PASSED_ON))}"
            )
    batch = training.batch_size * training.accumulate_steps * world.size
    ours = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": training.batch_size,
        "gradient_accumulation_steps": training.accumulate_steps,
        "gradient_clipping": training.gradient_clipping,
        "zero_optimization": {"stage": training.zero_stage},
        "bf16": {"enabled": training.precision == "bf16"},
        "fp16": {"enabled": training.precision == "fp16"},
    }
    users = dict(config.deepspeed)
    zero = users.get("zero_optimization", {})
    if training.zero_stage and isinstance(zero, dict):
        users["zero_optimization"] = {**_zero_defaults(training.zero_stage, world), **zero}
    defaults = {"steps_per_print": 10**9, "zero_force_ds_cpu_optimizer": False}
    return _merge(ours, {**defaults, **users}, "deepspeed")


def _zero_defaults(stage: Any, world: World) -> dict[str, Any]:
    """What we have otherwise than DeepSpeed where the user says nothing."""
    defaults: dict[str, Any] = {}
    if world.device.type == "cuda" and world.size > 1:
        defaults["overlap_comm"] = True  # alone it would only take two buckets of 1 GB
    if stage == 3:
        # Else torch's own linear function is replaced until the process ends, also for compiling.
        defaults["memory_efficient_linear"] = False
    return defaults


def _merge(ours: dict[str, Any], users: dict[str, Any], where: str) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in users.items():
        if isinstance(value, dict) and isinstance(ours.get(key), dict):
            merged[key] = _merge(ours[key], value, f"{where}.{key}")
        elif key in ours and ours[key] != value:
            raise UserError(
                f"{where}.{key}: {value!r} contradicts {ours[key]!r}, which follows from the "
                "training section; change it there and remove it here"
            )
        else:
            merged[key] = value
    return merged
