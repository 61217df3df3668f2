"""The detection section of a configuration: who does what, as AVA's files say it."""

from pathlib import Path

from pydantic import Field, model_validator
from typing_extensions import Self

from mgm_dali.config.section import Section

__all__ = ["DetectionConfig"]


class DetectionConfig(Section):
    """Action detection after AVA: what people in given boxes do. Off without `actions`."""

    actions: Path | None = None
    """AVA's list of actions (.pbtxt), each of which becomes an output of the network."""
    train: Path | None = None
    """CSV of the people to learn from, and what they do (`ava_train_v2.2.csv`). Every box counts,
    also one that does nothing of the list."""
    val: Path | None = None
    """CSV of the people that are judged, and what they do (`ava_val_v2.2.csv`)."""
    excluded: Path | None = None
    """CSV of moments that do not count (`ava_val_excluded_timestamps_v2.2.csv`)."""
    people: Path | None = None
    """CSV of the boxes of people that a detector has found in the judged videos. Without it those
    of `val` are taken, and the score is what it would be with a perfect detector of people."""
    min_person_score: float = Field(0.8, ge=0, le=1)
    """How sure a detector must be of a person that is looked at."""
    first_second: float = Field(0.0, ge=0)
    """The second with which the video files begin: 900 where they hold just the 15 minutes that
    AVA has annotated."""
    box_cells: int = Field(7, ge=1, le=32)
    """Places along each side of a box at which the network's tokens are read."""

    @model_validator(mode="after")
    def _actions_are_named(self) -> Self:
        for key in ("train", "val", "excluded", "people"):
            if getattr(self, key) is not None and self.actions is None:
                raise ValueError(f"{key}: needs the list of actions; set detection.actions")
        for key in ("excluded", "people"):
            if getattr(self, key) is not None and self.val is None:
                raise ValueError(f"{key}: is for judging; set detection.val")
        return self
