"""Judges the weights of a run on `data.val`."""

from pathlib import Path

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models import LoadReport
from mgm_dali.models.weight_files import newest_weights
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.training.heartbeat import watched
from mgm_dali.training.loading import load_on_all_ranks
from mgm_dali.training.objective_choice import objective_of
from mgm_dali.training.world import join_world

__all__ = ["evaluate"]


def evaluate(config: RunConfig) -> object:
    """Judges the newest weights of `output_dir`, or `model.init` where it holds none.

    Returns what the run's objective finds: an `Evaluation` or a `DetectionResult`. A finetuned run
    is judged with its own config, whose `model.init` names where it began: taking that first would
    judge the pretrained weights.
    """
    world = join_world(choose_device(config))
    with watched(world, config) as doing:
        config, objective = objective_of(config, world, to_train=False)
        source = world.only_first(lambda: _weights_to_judge(config), config.output_dir)
        network = objective.build(config)
        report = load_on_all_ranks(network, source, world)
        world.require(_why_not_judged(report, config))
        return objective.evaluate(config, network, world, report, lambda: doing("judging"))


def _weights_to_judge(config: RunConfig) -> Path:
    run = config.output_dir
    if not any((run / "weights").glob("*.safetensors")):
        if config.model.init is None:
            raise UserError(
                f"{run}: holds no weights to judge; set output_dir to a finetuned run, or "
                "model.init to weights"
            )
        return config.model.init
    return newest_weights(run)


def _why_not_judged(report: LoadReport, config: RunConfig) -> str | None:
    if any(key.startswith("head.") for key in report.missing):
        return (
            f"{report.source}: has no head for these {config.model.num_classes} classes; "
            "finetune it first, then evaluate the finetuned run"
        )
    return None
