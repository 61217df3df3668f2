"""AVA's own files: actions, boxes of people with what they do, excluded moments, detections.

    -5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1          a box with an action, and who it is
    -5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,,0.913        a box that a detector found; its score
    -5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,0.342      what is found in the end: action, score
    -5KQ66BBWC4,0902                                       an excluded moment

A moment is a video, by its file's name without the ending, and a second of it; the files have no
first line of names. Corners are x1, y1, x2, y2 as fractions of the picture's width and height.

P people, A actions, M boxes with one action each: a person who does three things has three.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.video.annotations import finite_number, text_lines, whole_number

__all__ = [
    "Action",
    "LabelledBoxes",
    "Moments",
    "People",
    "detection_lines",
    "read_actions",
    "read_excluded",
    "read_found_people",
    "read_people",
]


NO_ACTION = ("", "-1")
"""As lists of people say that one of them does nothing of it."""
MOST_SECONDS = 1_000_000

_Person = tuple[int, tuple[float, ...]]
"""Moment and corners."""


@dataclass(frozen=True)
class Action:
    """What people can do."""

    number: int
    """In AVA's files, from 1."""
    name: str


@dataclass
class Moments:
    """Moments, numbered as they are met."""

    numbers: dict[tuple[str, float], int] = field(default_factory=dict)
    """By video and second."""

    def number_of(self, video: str, second: float) -> int:
        """The number of a moment; a new one if it has none."""
        return self.numbers.setdefault((video, second), len(self.numbers))


@dataclass(frozen=True, eq=False)
class People:
    """Boxes of people, one for each person and moment."""

    moments: NDArray[np.int64]
    """`[P]`, rising: the people of a moment stand together."""
    corners: NDArray[np.float64]
    """`[P, 4]`: x1, y1, x2, y2, fractions of width and height; some reach over the border."""
    lines: NDArray[np.uint16]
    """`[P, A]`, in how many lines somebody does something, by places in the list of actions."""
    unlisted: int
    """Lines of actions that are not in the list; they are left out."""

    def __len__(self) -> int:
        return len(self.moments)

    @property
    def does(self) -> NDArray[np.bool_]:
        """`[P, A]`, whether somebody does something."""
        return self.lines > 0

    def selected(self, rows: NDArray[np.bool_]) -> "People":
        """These people alone."""
        return People(self.moments[rows], self.corners[rows], self.lines[rows], self.unlisted)

    def actions(self) -> "LabelledBoxes":
        """What they do, as boxes of one action each.

        Two equal lines are two boxes, as in AVA's evaluation.
        """
        person, action = np.nonzero(self.lines)
        times = self.lines[person, action]
        person, action = np.repeat(person, times), np.repeat(action, times)
        ones = np.ones(len(person))
        return LabelledBoxes(self.moments[person], self.corners[person], action, ones)


@dataclass(frozen=True, eq=False)
class LabelledBoxes:
    """Boxes with one action each."""

    moments: NDArray[np.int64]
    """`[M]`, by number."""
    corners: NDArray[np.float64]
    """`[M, 4]`: x1, y1, x2, y2, fractions of width and height."""
    actions: NDArray[np.int64]
    """`[M]`, places in the list of actions."""
    scores: NDArray[np.float64]
    """`[M]`; 1 where it is known."""

    def __len__(self) -> int:
        return len(self.moments)

    def selected(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "LabelledBoxes":
        """These boxes alone, in this order."""
        return LabelledBoxes(
            self.moments[rows], self.corners[rows], self.actions[rows], self.scores[rows]
        )


def read_actions(path: Path) -> list[Action]:
    """AVA's list of actions (.pbtxt), of which each becomes an output of the network.

    `item { name: "run/jog" id: 10 }`, or `label { name: "run/jog" label_id: 10 ... }`, over several
    lines. Raises `UserError` if it names none, or one number twice.
    """
    text = "\n".join(line for _, line in text_lines(path) if not line.startswith("#"))
    actions = []
    for block in re.findall(r"""\{((?:[^{}"]|"[^"]*")*)\}""", text):
        name = re.search(r'\bname:\s*"([^"]*)"', block)
        number = re.search(r"\b(?:label_)?id:\s*(\d{1,9})\b", block)
        if name is None or number is None:
            raise UserError(f"{path}: an action lacks its name or its id: {block.strip()[:80]!r}")
        actions.append(Action(int(number[1]), name[1]))
    if not actions:
        raise UserError(
            f"{path}: names no action; expected AVA's list, as "
            "ava_action_list_v2.2_for_activitynet_2019.pbtxt"
        )
    if len({action.number for action in actions}) < len(actions):
        raise UserError(f"{path}: two actions have the same id")
    return sorted(actions, key=lambda action: action.number)


def read_people(path: Path, actions: list[Action], moments: Moments) -> People:
    """The people of an annotation file, such as ava_train_v2.2.csv, and what each does.

    A box that stands in several lines of a moment is one person. Raises `UserError` naming file and
    line for what is no such line.
    """
    place_of = {action.number: place for place, action in enumerate(actions)}
    known: dict[_Person, list[int]] = {}
    unlisted = 0
    for where, fields in _lines(path, (7, 8), "video,second,x1,y1,x2,y2,action,person"):
        person = _moment(where, fields, moments), _corners(where, fields)
        does = known.setdefault(person, [])
        if fields[6] in NO_ACTION:
            continue
        place = place_of.get(whole_number(where, "the action", fields[6]))
        if place is None:
            unlisted += 1
        else:
            does.append(place)
    return _people(known, len(actions), unlisted)


def read_found_people(
    path: Path, num_actions: int, min_score: float, moments: Moments
) -> tuple[People, int]:
    """People that a detector has found with at least this score; and how many it is less sure of.

    Raises `UserError` naming file and line for what is no such line.
    """
    known: dict[_Person, list[int]] = {}
    unsure: set[_Person] = set()
    for where, fields in _lines(path, (8,), "video,second,x1,y1,x2,y2,,score"):
        person = _moment(where, fields, moments), _corners(where, fields)
        score = finite_number(where, "the score", fields[7])
        if not 0 <= score <= 1:
            raise UserError(
                f"{where}: the score is {score:g}, expected 0 to 1: is this a list of a detector?"
            )
        if score >= min_score:
            known[person] = []
        else:
            unsure.add(person)
    return _people(known, num_actions, 0), len(unsure - known.keys())


def read_excluded(path: Path, moments: Moments) -> set[int]:
    """The moments that are not judged, as ava_val_excluded_timestamps_v2.2.csv has them."""
    return {_moment(where, fields, moments) for where, fields in _lines(path, (2,), "video,second")}


def detection_lines(found: LabelledBoxes, actions: list[Action], moments: Moments) -> Iterator[str]:
    """What was found, as the lines that AVA's own evaluation reads; it knows whole seconds only."""
    names = list(moments.numbers)
    columns = found.moments, found.corners, found.actions, found.scores
    for moment, corners, place, score in zip(*(c.tolist() for c in columns), strict=True):
        video, second = names[moment]
        box = ",".join(f"{corner:.6f}" for corner in corners)
        when = f"{int(second):04d}" if second.is_integer() else f"{second:08.3f}"
        yield f"{video},{when},{box},{actions[place].number},{score:.6f}\n"


def _lines(path: Path, lengths: tuple[int, ...], expected: str) -> Iterator[tuple[str, list[str]]]:
    for where, line in text_lines(path):
        fields = [part.strip() for part in line.split(",")]
        if len(fields) not in lengths or not fields[0]:
            raise UserError(f"{where}: is {line[:80]!r}, expected {expected}")
        yield where, fields


def _moment(where: str, fields: list[str], moments: Moments) -> int:
    second = finite_number(where, "the second", fields[1])
    if not 0 <= second < MOST_SECONDS:
        raise UserError(f"{where}: the second is {second:g}, expected 0 to {MOST_SECONDS}")
    return moments.number_of(fields[0], second)


def _corners(where: str, fields: list[str]) -> tuple[float, ...]:
    x1, y1, x2, y2 = (finite_number(where, "a corner", part) for part in fields[2:6])
    if x1 > x2 or y1 > y2 or min(x1, y1) < -1 or max(x2, y2) > 2:
        raise UserError(
            f"{where}: the box is {x1:g},{y1:g},{x2:g},{y2:g}, expected x1,y1,x2,y2 as fractions "
            "of the picture's width and height: corners, not a corner and a size"
        )
    return x1, y1, x2, y2


def _people(known: dict[_Person, list[int]], num_actions: int, unlisted: int) -> People:
    """Sorted by moment, and as they were met within one; `known` are the actions of each."""
    lines = np.zeros((len(known), num_actions), np.uint16)
    for row, places in enumerate(known.values()):
        np.add.at(lines[row], places, 1)
    moments = np.array([moment for moment, _ in known], np.int64)
    corners = np.array([corners for _, corners in known], np.float64).reshape(-1, 4)
    order = np.argsort(moments, kind="stable")
    return People(moments[order], corners[order], lines[order], unlisted)
