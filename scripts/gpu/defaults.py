"""What the loader's figures say of the defaults that they speak for, in a paragraph."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["DECODE", "IS_DEFAULT", "LOADER", "PREFETCH", "RATE", "THREADS", "WORKERS", "paragraph"]

Row = Mapping[str, Any]

LOADER = "loader"
"""The table that is looked at, of the section `loading`."""
RATE, LOW, HIGH, CPU = "clips/s", "low", "high", "CPU ms/clip"
DECODE, THREADS, PREFETCH, WORKERS = "decode", "NVDEC threads", "prefetch", "workers"
SAME = ("videos", "motion", "repeats")
"""What rows must have in common with the default's to be compared."""
IS_DEFAULT = "as it is"
"""The row of NVDEC with everything that the code chooses by itself."""

KEYS = {
    THREADS: "DALI's threads with NVDEC (`pipelines/graph.py`)",
    PREFETCH: "`data.prefetch_batches`",
    WORKERS: "`data.num_workers`",
}
"""Columns that are varied one at a time."""
CLEARLY = 1.05
"""A difference of less is none, and also where single stretches overlap."""


def paragraph(sections: Mapping[str, Row]) -> str:
    """Compares each default with the best that was measured."""
    rows = sections.get("loading", {}).get("figures", {}).get(LOADER, [])
    measured = [row for row in rows if isinstance(row.get(RATE), float | int)]
    default = next((row for row in measured if row.get(IS_DEFAULT)), None)
    if default is None:
        return "The loader as it is was not measured, so nothing can be said of its defaults."
    alike = [row for row in measured if all(row.get(name) == default[name] for name in SAME)]
    sentences = [_decode(default, alike)]
    sentences += [_varied(column, default, alike) for column in KEYS]
    return " ".join(sentences)


def _decode(default: Row, rows: Sequence[Row]) -> str:
    """Of `decode: auto`, which takes NVDEC wherever a store gives the motion."""
    name = default[DECODE]
    here = _best([row for row in rows if row[DECODE] == name])
    there = _best([row for row in rows if row[DECODE] != name])
    if there is None or here is None:
        return "`decode: auto`: only one decoder was measured."
    verdict = "keep it"
    if not _is_clear(here, there):
        verdict = "neither is clearly faster"
        if _is_clear(there, here):
            verdict = f"**change it**: {there[DECODE]} is faster"
    return (
        f"`decode: auto` takes {name} with a motion store: at its best {_rate(here)}; "
        f"{there[DECODE]} at its best, with {there[WORKERS]} workers, {_rate(there)}: {verdict}."
    )


def _varied(column: str, default: Row, rows: Sequence[Row]) -> str:
    others = [DECODE, *(name for name in KEYS if name != column)]
    varied = [row for row in rows if all(row.get(name) == default[name] for name in others)]
    best = _best(varied)
    if best is None or len(varied) < 2:
        return f"{KEYS[column]}: {default[column]} now, others were not measured."
    tried = ", ".join(str(row[column]) for row in sorted(varied, key=lambda row: row[column]))
    text = f"{KEYS[column]}: {default[column]} now, {_rate(default)}"
    if best[column] == default[column]:
        return f"{text}, the best of {tried}: keep it."
    verdict = "**change it**" if _is_clear(best, default) else "no clear difference, keep it"
    return f"{text}; the best of {tried} is {best[column]}, {_rate(best)}: {verdict}."


def _best(rows: Sequence[Row]) -> Row | None:
    return max(rows, key=lambda row: float(row[RATE]), default=None)


def _is_clear(faster: Row, slower: Row) -> bool:
    apart: bool = faster.get(LOW, faster[RATE]) > slower.get(HIGH, slower[RATE])
    return apart and faster[RATE] > CLEARLY * slower[RATE]


def _rate(row: Row) -> str:
    cpu = row.get(CPU)
    cost = f" ({cpu:.3g} CPU ms each)" if isinstance(cpu, float | int) else ""
    return f"{row[RATE]:.4g} clips/s{cost}"
