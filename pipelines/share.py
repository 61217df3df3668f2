"""This process's part of the row of samples (`mgm_dali.clips.order`)."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Share", "Stage"]

Stage = Literal["pretrain", "finetune", "evaluate"]


@dataclass(frozen=True)
class Share:
    """Which samples one process reads."""

    batch_size: int
    """Clips per forward pass of this process."""
    rank: int = 0
    world_size: int = 1
    first_forward: int = 0
    """Forward passes that lie behind, when a run is resumed."""

    @property
    def global_batch(self) -> int:
        """Clips per forward pass of all processes."""
        return self.batch_size * self.world_size
