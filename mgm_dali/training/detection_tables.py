"""What a detector of actions has found, as files and lines: mAP, its parts, every detection."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mgm_dali.files import csv_text, whole_file, write_whole
from mgm_dali.in_words import printable
from mgm_dali.training.judged_people import JudgedPeople
from mgm_dali.video.ava import LabelledBoxes, detection_lines

__all__ = [
    "DetectionResult",
    "action_lines",
    "listed_moments",
    "result_in_words",
    "write_detections",
]

MOST_ACTIONS_PRINTED = 20


@dataclass(frozen=True)
class DetectionResult:
    """What was found, and how; kept as RUN/evaluation.json."""

    mean_average_precision: float
    """Over the actions that anybody does, at an IoU of `min_overlap`."""
    low: float
    """Of its 95% bootstrap interval over videos."""
    high: float
    min_overlap: float
    num_people: int
    """Boxes that were looked at."""
    num_moments: int
    """In which anybody was to be looked at."""
    num_boxes: int
    """True boxes of one action each."""
    weights: str
    data: str
    people: str
    """Where the boxes of people come from."""
    action_names: list[str]
    action_boxes: list[int]
    """True boxes of each action."""
    average_precisions: list[float | None]
    """Of each action; None where nobody does it."""
    unreadable: list[dict[str, str]]
    """`video`, `second` and `reason` of each moment that could not be read or judged; its people
    count as not found."""
    not_shown: list[dict[str, str]]
    """The same of each moment that no video of `data` shows."""


def listed_moments(judged: JudgedPeople, reasons: Mapping[int, str]) -> list[dict[str, str]]:
    """`video`, `second` and `reason` of moments by number."""
    names = list(judged.moments.numbers)
    return [
        {"video": names[number][0], "second": f"{names[number][1]:g}", "reason": reason}
        for number, reason in sorted(reasons.items())
    ]


def result_in_words(result: DetectionResult) -> str:
    """One line: the mean average precision with its 95% interval, and of how much."""
    there = sum(boxes > 0 for boxes in result.action_boxes)
    return (
        f"mAP {result.mean_average_precision:.1%} at IoU {result.min_overlap:g} (95% interval "
        f"{result.low:.1%} to {result.high:.1%}, over videos) of {there} actions; "
        f"{result.num_people} people in {result.num_moments} moments, "
        f"{len(result.unreadable)} of them unreadable, {len(result.not_shown)} more not shown"
    )


def action_lines(result: DetectionResult) -> Iterator[str]:
    """A line for each action that anybody does, if they are few."""
    rows = zip(result.action_names, result.action_boxes, result.average_precisions, strict=True)
    known = [(name, boxes, value) for name, boxes, value in rows if value is not None]
    if len(known) > MOST_ACTIONS_PRINTED:
        return
    for name, boxes, value in known:
        yield f"  {printable(name):30}  AP {value:6.1%} of {boxes} boxes"


def write_detections(
    result: DetectionResult, found: LabelledBoxes, judged: JudgedPeople, run: Path
) -> None:
    """Writes detections.csv, per_action.csv and evaluation.json into a run folder.

    detections.csv is what AVA's own evaluation reads.
    """
    with whole_file(run / "detections.csv") as partial:
        with partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(detection_lines(found, judged.actions, judged.moments))
    header = ("action", "name", "boxes", "average_precision")
    numbers = [action.number for action in judged.actions]
    precisions = ["" if p is None else f"{p:.6f}" for p in result.average_precisions]
    columns = numbers, result.action_names, result.action_boxes, precisions
    rows = list(zip(*columns, strict=True))
    write_whole(run / "per_action.csv", csv_text(header, rows))
    write_whole(run / "evaluation.json", json.dumps(asdict(result), indent=1))
