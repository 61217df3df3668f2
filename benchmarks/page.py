"""Writes what the benchmarks found into the generated part of a page, with a chart beside it.

    python benchmarks/page.py --numbers bench-numbers --page docs/performance.md motion loader ...

Of every script named it reads FOLDER/NAME.json: what `machine.py` and `ratios.py` put there. It
knows nothing of what a script measures. A file that is not there is said to be missing.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from page_chart import draw_ratios

from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.report.saving import save_figure

__all__ = ["BEGIN", "END", "page_text", "read_numbers"]

BEGIN = "<!-- numbers: begin. Written by benchmarks/page.py; `make bench` writes them anew. -->"
END = "<!-- numbers: end -->"
INTRODUCTION = """\
A ratio says how many times better ours is than what it is compared with: above 1 ours is better,
below 1 the other is. It is that of the medians of several rounds, in which all take turns; beside
it stand the lowest and the highest of a single round, or nothing where there was but one. A goal is
the least that was hoped for. How it is kept fair is in
[benchmarks/README.md](../benchmarks/README.md). Each table says where and when it was measured:
compare numbers within a table."""
CHART = """\
![Ratios to others, by benchmark]({name})

*Ratios to others on a logarithmic axis; thin lines reach from the lowest to the highest round.*"""

HEAD = ("date", "cpu", "cores", "gpus", "commit", "command", "load_at_start", "omp_wait_policy")
ROW = ("what", "peer", "ratio", "low", "high", "goal")
NOTHING = {"about": "its numbers are in its JSON file alone", "ratios": [], "not_measured": []}
"""Of a script that has no ratios."""

Numbers = dict[str, Any]


def main() -> None:
    """Rewrites the page and draws the chart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", help="of the scripts, in the order of the page")
    parser.add_argument("--numbers", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, required=True, help="a Markdown file")
    options = parser.parse_args()
    try:
        write_page(options.page, options.numbers, options.names)
    except UserError as error:
        sys.exit(f"error: {error}")


def write_page(page: Path, folder: Path, names: Sequence[str]) -> None:
    """The text between the two marker lines and PAGE.png; all else on the page stays.

    Raises `UserError` if the page has no such lines, or a file of numbers is damaged.
    """
    numbers = {name: read_numbers(folder / f"{name}.json") for name in names}
    before, after = _around(page)
    chart = page.with_suffix(".png")
    figure = draw_ratios({name: found for name, found in numbers.items() if found})
    if figure is not None:
        save_figure(figure, chart)
    else:
        chart.unlink(missing_ok=True)
    text = page_text(numbers, chart.name if figure is not None else None)
    write_whole(page, f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def read_numbers(path: Path) -> Numbers | None:
    """What a script wrote; None if it has not. Raises `UserError` if that is not what it wrote."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        wanted = [(found, HEAD), *((row, ROW) for row in found.get("ratios", ()))]
        lacking = [name for each, names in wanted for name in names if name not in each]
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the benchmark anew") from None
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)}; run the benchmark anew")
    return {**NOTHING, **found}


def page_text(numbers: Mapping[str, Numbers | None], chart: str | None) -> str:
    """Markdown: one section a script, in this order."""
    parts = [INTRODUCTION]
    if chart is not None:
        parts.append(CHART.format(name=chart))
    for name, found in numbers.items():
        parts.append(f"### {name.replace('_', ' ')}")
        parts += _missing(name) if found is None else _section(found)
    return "\n\n".join(parts) + "\n"


def _missing(name: str) -> list[str]:
    target = name.replace("_", "-")
    return [f"Missing: there is no `{name}.json` yet; `make bench-{target}` makes it."]


def _section(found: Numbers) -> list[str]:
    about = found["about"]
    parts = [f"{about[0].upper()}{about[1:]}."]
    if found["ratios"]:
        header = ["| what | against | ratio | lowest to highest | goal |", "|---|---|---|---|---|"]
        parts.append("\n".join([*header, *map(_row, found["ratios"])]))
    if found["not_measured"]:
        parts.append("\n".join(f"- {_cell(line)}" for line in found["not_measured"]))
    return [*parts, _origin(found)]


def _row(row: Mapping[str, Any]) -> str:
    ratio, low, high = (f"{row[key]:.3g}" for key in ("ratio", "low", "high"))
    goal = ""
    if row["goal"] is not None:
        goal = f"{row['goal']:.3g}, {'met' if row['ratio'] >= row['goal'] else '**not met**'}"
    rounds = "" if row["low"] == row["high"] else f"{low} to {high}"
    return f"| {_cell(row['what'])} | {_cell(row['peer'])} | {ratio} | {rounds} | {goal} |"


def _origin(found: Numbers) -> str:
    """Machine, date, commit and command."""
    gpus = ", ".join(found["gpus"]) or "no GPU"
    return (
        f"{found['cores']} cores of {_cell(found['cpu'])}, {gpus}, load "
        f"{found['load_at_start'][0]:.1f} at the start; {found['date']}; {_commit(found)}. "
        f"Command: `{_command(found)}`"
    )


def _commit(found: Numbers) -> str:
    name = found["commit"]
    if name is None:
        return "no checkout"
    changed = ", with changes that were not committed" if name.endswith("+") else ""
    return f"commit `{name.rstrip('+')}`{changed}"


def _command(found: Numbers) -> str:
    """As it was typed, but without the folders of that machine."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in found["command"]]
    policy = found["omp_wait_policy"]
    setting = f"OMP_WAIT_POLICY={policy} " if policy else ""
    return f"{setting}python {shlex.join(words)}"


def _cell(text: str) -> str:
    """One line, which no table takes for several cells."""
    return " ".join(text.split()).replace("|", "\\|")


def _around(page: Path) -> tuple[str, str]:
    """What stands before and behind the generated part."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{page}: cannot be read ({error.strerror})") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page}: lacks the lines {BEGIN} and {END}; write them where numbers go")
    return before, after


if __name__ == "__main__":
    main()
