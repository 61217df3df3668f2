"""What `index` found, as a table: which videos bring motion, which need help, which are no use."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import compress
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mgm_dali.in_words import printable
from mgm_dali.plain_table import print_table
from mgm_dali.video.indexing import IndexReport
from mgm_dali.video.manifest import Video

__all__ = ["print_index_table"]

REPAIR = (
    "; transcode them with `mgm-dali prepare`, or estimate their motion with `mgm-dali extract "
    "--without-vectors block_matching`"
)


def print_index_table(report: IndexReport, console: Console) -> None:
    """Prints a table that fits a terminal; elsewhere aligned lines, one a row, however long."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("videos", justify="right")
    table.add_column("hours", justify="right")
    table.add_column("", overflow="fold")
    for row in _rows(report):
        table.add_row(*(Text(cell) for cell in row))
    print_table(console, table)


def _rows(report: IndexReport) -> Iterable[tuple[str, str, str, str]]:
    """What, videos, hours, details."""
    with_vectors = list(compress(report.videos, report.have_vectors))
    without = list(compress(report.videos, (not have for have in report.have_vectors)))
    yield "usable, with codec vectors", *_amount(with_vectors), _codecs(with_vectors)
    repair = REPAIR if without else ""
    yield "usable, without codec vectors", *_amount(without), _codecs(without) + repair
    yield "unusable", str(len(report.rejected)), "", ""
    for reason, paths in _by_reason(report.rejected):
        yield "", str(len(paths)), "", f"{reason}; such as {paths[0]}"


def _amount(videos: Sequence[Video]) -> tuple[str, str]:
    hours = sum(video.duration_seconds for video in videos) / 3600
    return str(len(videos)), f"{hours:.1f}"


def _codecs(videos: Iterable[Video]) -> str:
    counts = Counter(video.codec for video in videos)
    return ", ".join(f"{count} {codec}" for codec, count in counts.most_common())


def _by_reason(rejected: Iterable[tuple[Path, str]]) -> list[tuple[str, list[str]]]:
    """Groups of files, the largest first: reasons that differ in their numbers only are one."""
    groups: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for path, reason in rejected:
        groups[re.sub(r"\b\d+(x\d+|\.\d+)?\b", "N", reason)].append((path, reason))
    result = []
    for general, members in groups.items():
        reasons = {reason for _, reason in members}
        shown = reasons.pop() if len(reasons) == 1 else general
        result.append((printable(shown), [printable(str(path)) for path, _ in members]))
    return sorted(result, key=lambda group: -len(group[1]))
