"""Prints tables: fitted to a terminal, and elsewhere in lines that programs can read."""

import io

from rich.console import Console
from rich.table import Table

__all__ = ["print_line", "print_table"]

_NEVER_FOLDED = 10_000


def print_table(console: Console, table: Table) -> None:
    """A table that fits a terminal; elsewhere aligned lines, one a row, however long."""
    if console.is_terminal:
        console.print(table)
        return
    plain = io.StringIO()
    Console(file=plain, width=_NEVER_FOLDED).print(table)
    for line in plain.getvalue().splitlines():
        print_line(console, line.rstrip())


def print_line(console: Console, text: str) -> None:
    """Text as it is: nothing in it is markup, and it is not folded."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
