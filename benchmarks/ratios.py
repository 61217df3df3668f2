"""What a script found, in the one form that `page.py` reads.

    about          what the ratios are of, in a line
    ratios         what, peer, ratio, low, high, goal: how many times better ours is than the peer
    not_measured   a line for each that gave nothing, with its reason

A ratio of costs has ours below the line, so above 1 ours is better. `low` and `high` are the lowest
and the highest of a single round; `goal` is the least that was hoped for, or None. A peer whose
name begins with "ours" is another way of ours.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from contenders import Goal, Verdict
from rounds import Ratio, Timings

__all__ = ["Row", "peer_rows", "ratio_row", "summary", "verdict_rows"]

Row = dict[str, Any]


def ratio_row(what: str, peer: str, ratio: Ratio, goal: float | None = None) -> Row:
    """One ratio."""
    found = {"ratio": ratio.median, "low": ratio.low, "high": ratio.high}
    return {"what": what, "peer": peer, **found, "goal": goal}


def peer_rows(
    timings: Mapping[str, Timings], peers: Iterable[str], ours: Iterable[str], job: str
) -> list[Row]:
    """Of each kind of time, peers over ours as far as both were measured; by their labels."""
    rows = []
    for (kind, measured), own, peer in product(timings.items(), ours, peers):
        if ratio := measured.ratio(peer, own, [job]):
            rows.append(ratio_row(f"{kind}: {own}", peer, ratio))
    return rows


def verdict_rows(verdicts: Iterable[Verdict]) -> list[Row]:
    """Of those that were measured. Where ours stands above the line, the ratio is turned over."""
    rows = []
    for verdict in verdicts:
        goal, ratio = verdict.goal, verdict.ratio
        if ratio is None:
            continue
        if not goal.at_least:
            ratio = Ratio(1 / ratio.median, 1 / ratio.high, 1 / ratio.low)
        rows.append(ratio_row(*_names(goal), ratio, goal.at_least or 1 / goal.at_most))
    return rows


def summary(
    about: str,
    verdicts: Iterable[Verdict] = (),
    others: Iterable[Row] = (),
    not_measured: Iterable[str] = (),
) -> dict[str, Any]:
    """For the file of numbers; a ratio that is among the verdicts too is kept with its goal."""
    verdicts = list(verdicts)
    rows = {(row["what"], row["peer"]): row for row in [*others, *verdict_rows(verdicts)]}
    without = [f"{each.goal}: not measured" for each in verdicts if _names(each.goal) not in rows]
    return {
        "about": about,
        "ratios": list(rows.values()),
        "not_measured": list(dict.fromkeys([*not_measured, *without])),
    }


def _names(goal: Goal) -> tuple[str, str]:
    """`what` and `peer`: a goal has a least where ours stands below the line, else a most."""
    what, peer = (goal.under, goal.over) if goal.at_least else (goal.over, goal.under)
    return f"{goal.section}: {what}", peer
