"""What `mgm-dali show` draws, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ShowOptions"]


@dataclass(frozen=True)
class ShowOptions:
    """The options of the command; names are checked where they are used."""

    overrides: Sequence[str] = ()
    """`key=value` over the configuration: the run's, or one that suits the video."""
    seed: int | None = None
    """Of the masks; None is the configuration's."""
    figures: Sequence[str] | None = None
    """Names of CLIP_FIGURES and RUN_FIGURES; None takes what there is to draw."""
    masks: Sequence[str] | None = None
    """The strategies that are compared, in the order they are drawn in; None is all."""
    row: int | None = None
    """Of the manifest; None is the first, or some clips of a run."""
    weights: Path | None = None
    """A run folder or a file of weights, for what needs a network."""
    layer: int | None = None
    """Block of the encoder whose attention is drawn, counted from 1; None is the last."""
    query: tuple[int, int, int] | None = None
    """Token (slice, row, column) whose attention is drawn; None is the middle one."""
    leak_statistics: bool = False
    """Borrow the hidden patches' true brightness and contrast."""
    animate: str | None = None
    """`gif` or `mp4`: a film beside each PNG of a clip."""
    dpi: int = 200
