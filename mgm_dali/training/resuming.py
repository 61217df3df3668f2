"""Where a run begins: with its first step, or behind its newest whole checkpoint."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mgm_dali.config import RunConfig
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.runs.checkpoint_files import (
    Position,
    checkpoint_folder,
    complete_steps,
    newest_whole,
)
from mgm_dali.training.loading import load_on_all_ranks
from mgm_dali.training.world import World

__all__ = [
    "Start",
    "find_start",
    "starting_weights",
    "why_another_run",
]


@dataclass(frozen=True)
class Start:
    """Where a run goes on."""

    position: Position | None
    """That of the checkpoint; None if there is none, and the run begins."""
    warnings: tuple[str, ...]
    """Checkpoints that were passed over, and why; told to the first rank."""

    @property
    def step(self) -> int:
        """Optimiser steps that lie behind."""
        return self.position.step if self.position else 0

    def in_words(self, run: Path) -> str:
        """A line for the log of a resumed run."""
        assert self.position is not None
        folder, ranks = checkpoint_folder(run, self.step), self.position.world_size
        return f"resumed behind step {self.step} from {folder}, which {ranks} rank(s) wrote"


def find_start(run: Path, world: World) -> Start:
    """The newest whole checkpoint of a run. All ranks must call it.

    Raises `UserError`, on all ranks, if there are checkpoints and none is whole.
    """
    warnings: list[str] = []
    found = world.only_first(lambda: newest_whole(run, warnings.append), None)
    position = json.loads(world.text_of_first(json.dumps(found and asdict(found))))
    return Start(Position(**position) if position else None, tuple(warnings))


def why_another_run(run: Path, before: Position | None, now: Position) -> str | None:
    """Why what follows would not be the run that the checkpoint belongs to.

    Other ranks are no reason: with the same global batch they see the same clips.
    """
    if before is None:
        return None
    for name in ("stage", "global_batch", "manifest"):
        then, today = getattr(before, name), getattr(now, name)
        if then != today:
            return (
                f"{checkpoint_folder(run, before.step)}: was written with another "
                f"{name.replace('_', ' ')} ({then}, now {today}); resume with the same, or start "
                "a new run from its weights with model.init"
            )
    return None


def starting_weights(config: RunConfig, network: Autoencoder | Classifier, world: World) -> str:
    """Takes the weights of `model.init`, unless the run is resumed; what became of them."""
    if world.of_first(bool(complete_steps(config.output_dir))):
        return "those of this run's checkpoint"
    assert config.model.init is not None, "asked before"
    return str(load_on_all_ranks(network, config.model.init, world))
