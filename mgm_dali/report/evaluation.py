"""The picture beside an evaluation's numbers, drawn of RUN/evaluation.json.

RUN/confusion.png     of a classifier
RUN/per_action.png    of a detector of actions
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError, model_validator

from mgm_dali.errors import UserError
from mgm_dali.files import read_whole
from mgm_dali.report.charts import draw_average_precisions, draw_confusion
from mgm_dali.report.saving import save_figure

__all__ = ["evaluation_figure", "save_evaluation_figure"]


class _Classified(BaseModel):
    """What is drawn of a classifier's evaluation."""

    class_names: list[str] = Field(min_length=1)
    confusion: list[list[NonNegativeInt]]
    num_unreadable: NonNegativeInt

    @model_validator(mode="after")
    def _check_sizes(self) -> "_Classified":
        sizes = {len(self.confusion), *map(len, self.confusion)}
        if sizes != {len(self.class_names)}:
            raise ValueError("confusion needs a row and a column for each class")
        return self

    def draw(self) -> Figure:
        return draw_confusion(np.array(self.confusion), self.class_names, self.num_unreadable)


class _Detected(BaseModel):
    """What is drawn of a detector's evaluation."""

    action_names: list[str]
    action_boxes: list[NonNegativeInt]
    average_precisions: list[float | None]
    mean_average_precision: float
    low: float
    high: float
    num_people: NonNegativeInt

    @model_validator(mode="after")
    def _check_sizes(self) -> "_Detected":
        if not len(self.action_names) == len(self.action_boxes) == len(self.average_precisions):
            raise ValueError("there must be as many boxes and precisions as actions")
        return self

    def draw(self) -> Figure:
        pairs = zip(self.action_names, self.average_precisions, strict=True)
        return draw_average_precisions(
            {name: value for name, value in pairs if value is not None},
            dict(zip(self.action_names, self.action_boxes, strict=True)),
            f"mAP {self.mean_average_precision:.1%} ({self.low:.1%} to {self.high:.1%}), "
            f"{self.num_people} people",
        )


def evaluation_figure(run: Path) -> Figure:
    """Which classes a run's classifier takes for which; or how its detector finds each action.

    Raises `UserError` if RUN/evaluation.json is not what an evaluation writes.
    """
    return _read(run).draw()


def save_evaluation_figure(run: Path) -> None:
    """Writes RUN/confusion.png or RUN/per_action.png. Raises as `evaluation_figure`."""
    found = _read(run)
    name = "per_action.png" if isinstance(found, _Detected) else "confusion.png"
    save_figure(found.draw(), run / name)


def _read(run: Path) -> _Classified | _Detected:
    path = run / "evaluation.json"
    try:
        found = json.loads(read_whole(path))
        kind = _Detected if "average_precisions" in found else _Classified
        return kind.model_validate(found)
    except (ValueError, TypeError, RecursionError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(
            f"{path}: is not what an evaluation writes ({what}); `mgm-dali evaluate` makes it anew"
        ) from None
