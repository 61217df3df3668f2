"""What a network is finetuned to say, and how that is judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.models import Classifier, LoadReport
from mgm_dali.training.engine import Network
from mgm_dali.training.judging import Judgement
from mgm_dali.training.world import World
from mgm_dali.video.manifest import Manifest

__all__ = ["Objective"]


@dataclass(frozen=True)
class Objective:
    """The differences between classification and detection."""

    build: Callable[[RunConfig], Classifier]
    """A new network; its weights follow from torch's global random state."""
    loss: Callable[[Network, ClipBatch], Tensor]
    """Of one forward pass, a float32 scalar."""
    judgement: Judgement
    """While it is trained."""
    evaluate: Callable[[RunConfig, Classifier, World, LoadReport, Callable[[], None]], object]
    """In the end; writes what it finds into the run folder. The last is called behind each batch.
    All ranks call it."""
    outputs: str
    """What the network's outputs are, in words."""
    manifest: Manifest | None = None
    """Takes the place of `data.train`."""
    files: Sequence[Path] = ()
    """On which its samples depend besides."""
    description: Sequence[str] = ()
    """Lines for the log."""
