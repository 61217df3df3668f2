"""What is over a run for as long as it lasts: who may end it, and who waits for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mgm_dali.config import RunConfig
from mgm_dali.training.heartbeat import watched
from mgm_dali.training.stopping import StopRequest, stop_request
from mgm_dali.training.world import World

__all__ = ["Supervision", "supervised"]


@dataclass(frozen=True)
class Supervision:
    """What the training loop asks and says, once a step."""

    stop: StopRequest
    doing: Callable[[str], None]
    """Tells the other ranks what this one does next: who says nothing for long hangs."""


@contextmanager
def supervised(world: World, config: RunConfig) -> Iterator[Supervision]:
    """While the block runs, requests to stop are heard, and the ranks watch one another."""
    with stop_request(world, config) as stop, watched(world, config) as doing:
        yield Supervision(stop, doing)
