"""What the commands share: a console, a folder for the run, and the file that keeps all numbers."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from machine import describe
from rich.console import Console

from mgm_dali.errors import UserError
from mgm_dali.files import write_whole

__all__ = ["add_common_options", "add_number_options", "parse", "run"]

Measure = Callable[[Console, argparse.Namespace, Path], dict[str, Any]]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Where peers live, and where the numbers go."""
    peers = Path(__file__).parents[1] / ".peers"
    parser.add_argument("--peers", type=Path, default=peers, help="installed there")
    parser.add_argument("--no-peers", action="store_true", help="without libraries of others")
    add_number_options(parser)


def add_number_options(parser: argparse.ArgumentParser) -> None:
    """Where the numbers go."""
    parser.add_argument("--json", type=Path, help="file for all numbers")


def parse(
    parser: argparse.ArgumentParser, counts: Sequence[str], quick: Mapping[str, Any] | None = None
) -> argparse.Namespace:
    """The options given; wrong usage if one of `counts` is below 1.

    `quick` has the defaults of a short run, which --quick asks for.
    """
    if quick:
        said = " ".join(f"--{name.replace('_', '-')} {_text(quick[name])}" for name in quick)
        parser.add_argument("--quick", action="store_true", help=f"for a first look: {said}")
    options = parser.parse_args()
    if quick and options.quick:
        parser.set_defaults(**quick)  # what is given beside it wins
        options = parser.parse_args()
    for name in counts:
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: found {getattr(options, name)}, at least 1")
    return options


def run(options: argparse.Namespace, measure: Measure) -> None:
    """Calls `measure` with a new folder, which is gone behind it, and keeps the numbers it gives.

    An error of the user's ends the program with one line and status 1.
    """
    # A pipe or a file has no width: nothing is folded there.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    numbers = {**describe(), "options": vars(options)}
    try:
        with TemporaryDirectory(prefix="mgm-dali-bench-") as folder:
            found = measure(console, options, Path(folder))
    except UserError as error:
        sys.exit(f"error: {error}")
    assert not numbers.keys() & found.keys(), "the head stays as it is"
    numbers |= {**found, "load_at_end": os.getloadavg()}
    if options.json:
        write_whole(options.json, json.dumps(numbers, indent=1, default=str) + "\n")
        console.print(f"Every round is in {options.json}", markup=False)


def _text(value: Any) -> str:
    """As on the command line; a switch has no value."""
    if value is True:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
