"""The record as Markdown, ready for RESULTS.md: every check and every figure that it holds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu.defaults import paragraph

__all__ = ["markdown", "shown"]

Row = Mapping[str, Any]


def markdown(record: Row) -> str:
    """The whole record."""
    blocks = ["## On a GPU", *_head(record), _overview(record["sections"])]
    for name, outcome in record["sections"].items():
        blocks += _section(name, outcome)
    blocks += ["### What the figures say of the defaults", paragraph(record["sections"])]
    return "\n\n".join(block for block in blocks if block) + "\n"


def shown(value: object) -> str:
    """A value as it stands in a cell."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return " ".join(str(value).split()).replace("|", "\\|")


def _head(record: Row) -> Iterable[str]:
    if record.get("rehearsal"):
        yield "**A rehearsal on a CPU: nothing here says anything about a GPU.**"
    facts = record["sections"].get("machine", {}).get("figures", {}).get("machine", [])
    named = ", ".join(f"{row['what']}: {shown(row['found'])}" for row in facts)
    commit = record.get("commit") or "not known"
    yield (
        f"{'Machine: ' + named + '. ' if named else ''}{record.get('date', '')}, commit "
        f"`{commit}`. Command: `scripts/gpu_evidence.sh`."
    )


def _overview(sections: Mapping[str, Row]) -> str:
    rows = []
    for name, outcome in sections.items():
        checks = outcome.get("checks", [])
        rows.append(
            {
                "section": name,
                "what": outcome.get("title", ""),
                "state": outcome["state"],
                "reason": outcome.get("reason", ""),
                "checks": len(checks),
                "failed": sum(not check["passed"] for check in checks),
                "seconds": outcome.get("seconds"),
            }
        )
    return _table(rows)


def _section(name: str, outcome: Row) -> Iterable[str]:
    """Nothing for a section that was not begun: the overview says why."""
    if outcome["state"] == "not run":
        return
    yield f"### {name}: {outcome.get('title', '')}"
    if outcome["state"] != "done":
        yield f"*{outcome['state']}*: {shown(outcome.get('reason'))}"
    checks = sorted(outcome.get("checks", []), key=lambda check: bool(check["passed"]))
    yield _table(
        [
            {
                "check": check["what"],
                "": "holds" if check["passed"] else "**FAILS**",
                "found": check["found"],
            }
            for check in checks
        ]
    )
    for title, rows in outcome.get("figures", {}).items():
        yield f"{title}:"
        yield _table(rows)
    yield "\n".join(f"- {shown(note)}" for note in outcome.get("notes", []))


def _table(rows: Sequence[Row]) -> str:
    """Its columns are all keys of all rows, in the order in which they come."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[shown(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
