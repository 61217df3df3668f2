"""Which objective a config has: classification, or detection where it names actions."""

from mgm_dali.config import RunConfig
from mgm_dali.training.classification import classification
from mgm_dali.training.detection import detection
from mgm_dali.training.objective import Objective
from mgm_dali.training.world import World

__all__ = ["objective_of"]


def objective_of(config: RunConfig, world: World, *, to_train: bool) -> tuple[RunConfig, Objective]:
    """The config with its number of classes, and what is trained or judged. All ranks must call it.

    Raises `UserError` if the data do not fit, and on all ranks if they differ between machines.
    """
    if config.detection.actions is None:
        config, objective = classification(config)
    else:
        config, objective = detection(config, config.detection.actions, to_train=to_train)
    own = config.model.num_classes
    assert own is not None
    first = world.of_first(own)
    world.require(
        f"this machine's lists have {own} classes, and those of rank 0's {first}; give all "
        "machines the same"
        if own != first
        else None
    )
    return config, objective
