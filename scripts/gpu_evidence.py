"""Gathers evidence on a GPU: correctness and speed, into one JSON file and Markdown tables.

Sections run one after the other, each in a process of its own; one that fails or hangs is recorded,
and the rest goes on. Called again with the same file, it runs what has not run yet, then what was
cut off; what failed or hung runs again only if it is named. The exit status is 1 if a check failed
or a section broke down, and 2 if there is nothing to run on.
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
from gpu.running import Section, left_over, run_section
from gpu.sections import SECTIONS
from gpu.setting import ROOT, Setting

from mgm_dali.errors import UserError

SECONDS = 1440
LEAST_SECONDS = 15
"""With less time left, no section is begun."""
LEAST_SHARE = 0.5
"""Of a section's limit; with less time left it is begun only if it is asked for by its name."""
NOTHING_TO_RUN_ON = 2


def main() -> int:
    """The exit status."""
    options = _options()
    if options.list:
        _say(*(f"{name:17}{section.title}" for name, section in SECTIONS.items()))
        return 0
    problem = None if options.rehearse else _why_no_gpu()
    if problem:
        _say(f"no GPU: {problem}; --rehearse runs all in the smallest form")
        return NOTHING_TO_RUN_ON
    facts = {"rehearsal": options.rehearse, "commit": options.commit or _commit()}
    try:
        record = Record(options.output, facts)
    except UserError as error:
        _say(f"error: {error}")
        return NOTHING_TO_RUN_ON
    record.content["date"] = date.today().isoformat()
    record.write()  # what a call that is killed has found belongs to it
    _adopt(record)
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


def _adopt(record: Record) -> None:
    """Keeps what the section has found during which an earlier call was killed."""
    for name, section in SECTIONS.items():
        path = record.path_of(name)
        if path.exists():
            record.put(name, left_over(section, path))
            path.unlink()


def _run_all(
    options: argparse.Namespace, record: Record, folder: Path, asked_to_stop: threading.Event
) -> None:
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    for name in _due(options.only, record):
        section, left = SECTIONS[name], deadline - time.monotonic()
        least = LEAST_SECONDS if options.only else LEAST_SHARE * section.limit_seconds
        if asked_to_stop.is_set() or left < max(least, LEAST_SECONDS):
            if record.state(name) == "not run":
                reason = f"of the call's {options.seconds:.0f} s {max(left, 0):.0f} were left"
                if asked_to_stop.is_set():
                    reason = "the call was asked to stop"
                record.put(name, _missing(section, reason))
            _say(f"{name:17}not begun, {max(left, 0):.0f} s are left")
            continue
        _say(f"{name:17}begins")
        setting = Setting(
            folder=folder,
            seconds=min(section.limit_seconds, left),
            cores=len(os.sched_getaffinity(0)),
            device="cpu" if options.rehearse else "cuda",
            tiny=options.rehearse,
        )
        found = record.path_of(name)
        outcome = run_section(section, setting, found, asked_to_stop.is_set)
        record.put(name, outcome)
        found.unlink(missing_ok=True)
        failed = sum(not check["passed"] for check in outcome["checks"])
        _say(
            f"{name:17}{outcome['state']} after {outcome['seconds']:.0f} s, "
            f"{len(outcome['checks'])} checks, {failed} failed  {outcome['reason']}"
        )
    for name, section in SECTIONS.items():
        if name not in record.content["sections"]:
            record.put(name, _missing(section, "not asked for"))


def _missing(section: Section, reason: str) -> dict[str, Any]:
    return {"title": section.title, "state": "not run", "reason": reason}


def _due(only: Sequence[str] | None, record: Record) -> list[str]:
    """What is asked for, else all that has not run, and behind it what was cut off."""
    if only:
        return [name for name in SECTIONS if name in only]
    again = ("not run", "cut off")
    return [name for state in again for name in SECTIONS if record.state(name) == state]


def _why_no_gpu() -> str | None:
    """None if there is one; asked in another process, so that this one holds nothing of it."""
    code = "import torch; assert torch.cuda.is_available(), 'torch sees none'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    return (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]


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
