"""The picture beside an evaluation's numbers: RUN/confusion.png, drawn of RUN/evaluation.json."""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mgm_dali.report.charts import draw_confusion
from mgm_dali.report.saving import save_figure

__all__ = ["evaluation_figure", "save_evaluation_figure"]


def evaluation_figure(run: Path) -> Figure:
    """Which classes a run's classifier takes for which."""
    found = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return draw_confusion(
        np.array(found["confusion"]), found["class_names"], found["num_unreadable"]
    )


def save_evaluation_figure(run: Path) -> None:
    """Writes RUN/confusion.png."""
    save_figure(evaluation_figure(run), run / "confusion.png")
