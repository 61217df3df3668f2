"""The picture beside an evaluation's numbers, drawn of RUN/evaluation.json.

RUN/confusion.png     of a classifier
RUN/per_action.png    of a detector of actions
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mgm_dali.report.charts import draw_average_precisions, draw_confusion
from mgm_dali.report.saving import save_figure

__all__ = ["evaluation_figure", "save_evaluation_figure"]


def evaluation_figure(run: Path) -> Figure:
    """Which classes a run's classifier takes for which; or how its detector finds each action."""
    return _draw(_read(run))


def save_evaluation_figure(run: Path) -> None:
    """Writes RUN/confusion.png or RUN/per_action.png."""
    found = _read(run)
    name = "per_action.png" if _is_detection(found) else "confusion.png"
    save_figure(_draw(found), run / name)


def _draw(found: dict[str, Any]) -> Figure:
    if not _is_detection(found):
        return draw_confusion(
            np.array(found["confusion"]), found["class_names"], found["num_unreadable"]
        )
    names = found["action_names"]
    pairs = zip(names, found["average_precisions"], strict=True)
    mean = found["mean_average_precision"]
    return draw_average_precisions(
        {name: value for name, value in pairs if value is not None},
        dict(zip(names, found["action_boxes"], strict=True)),
        f"mAP {mean:.1%} ({found['low']:.1%} to {found['high']:.1%}), {found['num_people']} people",
    )


def _read(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return found


def _is_detection(found: dict[str, Any]) -> bool:
    return "average_precisions" in found
