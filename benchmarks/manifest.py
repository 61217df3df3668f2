"""Seconds and memory to start on a list of videos, of a thousand rows to ten million, in one run.

    python benchmarks/manifest.py --json numbers.json

The videos need not exist: none is opened. A start is what every rank does with its list before the
first video: read it, check it, draw the first clip, and pickle it for a worker process. Each is
timed in a fresh process that has loaded its libraries. The files stay in the system's cache.
"""

import argparse
import multiprocessing
import pickle
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from command import add_number_options, parse, run
from ratios import ratio_row, summary
from rich.console import Console
from rich.table import Table
from rounds import Ratio

from mgm_dali.config import DataConfig, RunConfig
from mgm_dali.pipelines.checks import check_motion
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.share import Share
from mgm_dali.video.kept_columns import kept_path
from mgm_dali.video.manifest import read_manifest

NUM_CLASSES = 400
FPS = (24000 / 1001, 25.0, 30000 / 1001, 30.0)
CHUNK = 100_000
"""Rows that are written at once."""

Start = dict[str, float]
FIRST = "ours: the first start"


def main() -> None:
    """Measures, prints a table, and writes all numbers to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rows = [1_000, 10_000, 100_000, 1_000_000, 10_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=rows, help="of each list")
    parser.add_argument("--ranks", type=int, default=8, help="that start at once")
    add_number_options(parser)
    options = parse(parser, ("ranks",), {"rows": rows[:-1]})
    if min(options.rows) < 1:
        parser.error("--rows: at least 1")
    run(options, _measure)


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    found = []
    for rows in options.rows:
        path = folder / "videos.csv"
        write_list(path, rows)
        first, later, at_once = (starts(path, count) for count in (1, 1, options.ranks))
        kept = kept_path(path)
        kept_bytes = kept.stat().st_size if kept.exists() else 0
        sizes = {"rows": rows, "csv_bytes": path.stat().st_size, "kept_bytes": kept_bytes}
        found.append({**sizes, "first": first, "later": later, "at_once": at_once})
        kept.unlink(missing_ok=True)
        path.unlink()
    console.print(_table(found, options.ranks))
    console.print(
        "  MB are those beyond a process that has loaded its libraries: at most, and at the end of "
        "it its own alone;\n  pages of the mapped file, which all share, are in the former",
        markup=False,
    )
    rows = [
        ratio_row(f"seconds of a later start, {one['rows']:,} videos", FIRST, _gain(one))
        for one in found
    ]
    return {**summary("starting on a list of videos", others=rows), "lists": found}


def _gain(found: dict[str, Any]) -> Ratio:
    """How many times as long the first start takes."""
    (first,), (later,) = found["first"], found["later"]
    ratio = _seconds(first) / _seconds(later)
    return Ratio(ratio, ratio, ratio)


def write_list(path: Path, rows: int) -> None:
    """A CSV like that of Kinetics; its names and durations hardly repeat."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="ascii") as file:
        file.write("path,label,num_frames,fps,width,height,codec,duration_seconds\n")
        for start in range(0, rows, CHUNK):
            numbers = range(start, min(start + CHUNK, rows))
            drawn = rng.integers((100, 320, 0), (320, 480, 4), (len(numbers), 3)).tolist()
            file.writelines(
                f"class_{row % NUM_CLASSES:03d}/video_{row * 7919:012d}.mp4,{row % NUM_CLASSES},"
                f"{frames},{FPS[rate]},{width},256,h264,{frames / FPS[rate]}\n"
                for row, (frames, width, rate) in zip(numbers, drawn, strict=True)
            )
    time.sleep(0.1)  # a file that was changed in this moment is not kept


def starts(path: Path, count: int) -> list[Start]:
    """What so many processes found that started at once."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(count)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [context.Process(target=_start, args=(path, ready, pipe)) for _, pipe in pipes]
    for process in processes:
        process.start()
    for _, ours in pipes:
        ours.close()  # so that a process that dies is not waited for
    found = [answer.recv() for answer, _ in pipes]
    for process in processes:
        process.join()
    return found


def _start(path: Path, ready: Barrier, answer: Connection) -> None:
    config = RunConfig(data=DataConfig(train=path))
    ready.wait()
    before = _memory()
    Path("/proc/self/clear_refs").write_text("5")  # the highest point is that from here on
    cpu, clocks = time.process_time(), [time.perf_counter()]
    manifest = read_manifest(path)
    clocks.append(time.perf_counter())
    cpu = time.process_time() - cpu
    check_motion(manifest, config, "codec")
    feed = ClipFeed(manifest, config, "pretrain", Share(8), motion_source="codec")
    manifest.checksum(), manifest.csv_checksum()  # of which a checkpoint tells
    clocks.append(time.perf_counter())
    feed.decoding(feed.number_of(0))
    clocks.append(time.perf_counter())
    data = pickle.dumps(feed)
    clocks.append(time.perf_counter())
    del feed, manifest
    after = _memory()
    pickle.loads(data)
    clocks.append(time.perf_counter())
    names = ("read_seconds", "check_seconds", "draw_seconds", "pickle_seconds", "unpickle_seconds")
    answer.send(
        {
            **dict(zip(names, np.diff(clocks).tolist(), strict=True)),
            "read_cpu_seconds": cpu,
            "pickled_bytes": len(data),
            "peak_bytes": after["VmHWM"] - before["VmRSS"],
            "own_bytes": after["own"] - before["own"],
        }
    )


def _memory() -> dict[str, int]:
    """Bytes of this process: at most (VmHWM), now (VmRSS), and what no other process shares."""
    sizes: dict[str, int] = {"own": 0}
    for file in ("/proc/self/status", "/proc/self/smaps_rollup"):
        for line in Path(file).read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                sizes[name] = int(value.removesuffix(" kB")) * 1024
                sizes["own"] += sizes[name] if name.startswith("Private_") else 0
    return sizes


def _table(found: list[dict[str, Any]], ranks: int) -> Table:
    table = Table(title="starting on a list of videos", title_justify="left")
    names = (
        "rows",
        "first: read s",
        "CPU s",
        "MB",
        "later: read s",
        "check s",
        "draw s",
        "MB",
        "own MB",
    )
    for name in (*names, f"{ranks} at once: s", "own MB of all", "bytes to a worker", "file MB"):
        table.add_column(name, justify="right")
    for one in found:
        (first,), (later,), at_once = one["first"], one["later"], one["at_once"]
        table.add_row(
            f"{one['rows']:,}",
            f"{first['read_seconds']:.3f}",
            f"{first['read_cpu_seconds']:.3f}",
            f"{first['peak_bytes'] / 1e6:.1f}",
            *(f"{later[f'{step}_seconds']:.4f}" for step in ("read", "check", "draw")),
            f"{later['peak_bytes'] / 1e6:.1f}",
            f"{later['own_bytes'] / 1e6:.1f}",
            f"{max(_seconds(each) for each in at_once):.3f}",
            f"{sum(each['own_bytes'] for each in at_once) / 1e6:.1f}",
            f"{later['pickled_bytes']:,}",
            f"{one['kept_bytes'] / 1e6:.1f}",
        )
    return table


def _seconds(start: Start) -> float:
    return sum(start[f"{step}_seconds"] for step in ("read", "check", "draw"))


if __name__ == "__main__":
    main()
