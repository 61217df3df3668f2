"""Which objective a config has: classification, or detection where it names actions."""

from mgm_dali.config import RunConfig
from mgm_dali.training.classification import classification
from mgm_dali.training.detection import detection
from mgm_dali.training.objective import Objective

__all__ = ["objective_of"]


def objective_of(config: RunConfig, *, to_train: bool) -> tuple[RunConfig, Objective]:
    """The config with its number of classes, and what is trained or judged.

    Raises `UserError` if the data do not fit.
    """
    if config.detection.actions is None:
        return classification(config)
    return detection(config, config.detection.actions, to_train=to_train)
