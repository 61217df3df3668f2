"""Gathers evidence on a GPU: correctness and speed, into one JSON file and Markdown tables.

Sections run one after the other, each in a process of its own; one that fails or hangs is recorded,
and the rest goes on. Called again with the same file, it runs what is not done yet. The exit status
is 1 if a check failed or a section broke down, and 2 if there is nothing to run on.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpu.record import Record
from gpu.running import BAD_STATES, Section, run_section
from gpu.sections import SECTIONS
from gpu.setting import ROOT, Setting

from mgm_dali.errors import UserError

SECONDS = 1440
LEAST_SECONDS = 15
"""With less time left, no section is begun."""
NOTHING_TO_RUN_ON = 2


def main() -> int:
    """The exit status."""
    options = _options()
    if options.list:
        _say(*(f"{name:17}{section.title}" for name, section in SECTIONS.items()))
        return 0
    if not options.rehearse and not _sees_gpu():
        _say("no GPU: this Python's torch sees none; --rehearse runs all in the smallest form")
        return NOTHING_TO_RUN_ON
    facts = {"rehearsal": options.rehearse, "commit": options.commit or _commit()}
    try:
        record = Record(options.output, facts)
    except UserError as error:
        _say(f"error: {error}")
        return NOTHING_TO_RUN_ON
    record.content["date"] = date.today().isoformat()
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    if options.work:
        _run_all(options, record, options.work, asked_to_stop)
    else:
        with TemporaryDirectory(prefix="mgm-dali-gpu-", ignore_cleanup_errors=True) as folder:
            _run_all(options, record, Path(folder), asked_to_stop)
    failures = record.failures()
    _say(*(f"FAILS  {line}" for line in failures))
    _say(f"{options.output} and {record.path.with_suffix('.md').name} hold everything")
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    output = Path("runs/gpu_evidence.json")
    add("--output", type=Path, default=output, help=f"JSON, and tables beside it ({output})")
    add("--only", nargs="+", choices=list(SECTIONS), help="run these, also if they are done")
    add("--seconds", type=float, default=SECONDS, help=f"for all sections together ({SECONDS})")
    add("--list", action="store_true", help="name the sections and end")
    add("--work", type=Path, help="folder for videos and runs that is kept; else a temporary one")
    add("--commit", help="what is measured, where there is no git")
    add("--rehearse", action="store_true", help="all in the smallest form on the CPU, to try it")
    options = parser.parse_args()
    if options.seconds <= 0:
        parser.error(f"--seconds: found {options.seconds:g}, more than 0")
    return options


def _run_all(
    options: argparse.Namespace, record: Record, folder: Path, asked_to_stop: threading.Event
) -> None:
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    for name in _due(options.only, record):
        section, left = SECTIONS[name], deadline - time.monotonic()
        if asked_to_stop.is_set() or left < LEAST_SECONDS:
            if record.state(name) == "not run":
                reason = f"the {options.seconds:.0f} s of the call were over, or it was stopped"
                record.put(name, _missing(section, reason))
            _say(f"{name:17}not run, the time is over")
            continue
        _say(f"{name:17}begins")
        setting = Setting(
            folder=folder,
            seconds=min(section.limit_seconds, left),
            cores=len(os.sched_getaffinity(0)),
            device="cpu" if options.rehearse else "cuda",
            tiny=options.rehearse,
        )
        outcome = run_section(name, section, setting, asked_to_stop.is_set)
        record.put(name, outcome)
        failed = sum(not check["passed"] for check in outcome["checks"])
        _say(
            f"{name:17}{outcome['state']} after {outcome['seconds']:.0f} s, "
            f"{len(outcome['checks'])} checks, {failed} failed  {outcome['reason']}"
        )
    for name, section in SECTIONS.items():
        if name not in record.content["sections"]:
            record.content["sections"][name] = _missing(section, "not asked for")
    record.write()


def _missing(section: Section, reason: str) -> dict[str, Any]:
    return {"title": section.title, "state": "not run", "reason": reason}


def _due(only: Sequence[str] | None, record: Record) -> list[str]:
    """What is asked for, else all that has no result yet."""
    if only:
        return [name for name in SECTIONS if name in only]
    again = (*BAD_STATES, "cut off", "not run")
    return [name for name in SECTIONS if record.state(name) in again]


def _sees_gpu() -> bool:
    """Asked in another process, so that this one holds nothing of the GPU."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def _commit() -> str | None:
    """With a + if files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


def _say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
