"""The tests that need a GPU, as `make test-gpu` runs them, spread over some processes."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from gpu.findings import Findings
from gpu.setting import ROOT, Setting

__all__ = ["outcomes", "outcomes_of_log", "suite"]

REHEARSED = "tests/test_uniforms.py"
PROCESSES = 6
"""They share the GPU; compiling takes cores."""
SECONDS_TO_REPORT = 30.0
"""Between the interruption of tests that take too long and the end of the section."""
OUTCOME = "(?P<outcome>PASSED|FAILED|ERROR|SKIPPED)"
LINES = (
    re.compile(rf"\[gw\d+\] \[ *\d+%\] {OUTCOME} (?P<file>\S+)\.py::(?P<test>.+)"),
    re.compile(rf"(?P<file>\S+)\.py::(?P<test>.+?) {OUTCOME}\b"),
)
"""Of a test that has ended: as one of several processes prints it, and as one alone."""


def suite(setting: Setting, findings: Findings) -> None:
    """One check for all of them, a row for each that did not pass."""
    report, log = (setting.folder / f"pytest.{kind}" for kind in ("xml", "log"))
    report.unlink(missing_ok=True)
    # pytest-benchmark warns beside xdist, and a warning of versions that nobody has tried yet is no
    # failure; it stands in the log.
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    command += ["-W", "default", "--junitxml", str(report)]
    command += ["-m", "gpu", *_files()] if setting.on_gpu else [REHEARSED]
    if setting.on_gpu and importlib.util.find_spec("xdist"):
        command += ["-n", str(min(PROCESSES, setting.cores)), "--dist", "worksteal"]
    # Each process would compile in as many threads as there are cores.
    more = {"TORCHINDUCTOR_COMPILE_THREADS": "2"}
    if setting.on_gpu:
        more["MGM_REQUIRE_GPU"] = "1"
    findings.doing("pytest -m gpu")
    status = _run(command, log, {**os.environ, **more}, setting.seconds - SECONDS_TO_REPORT)
    counts: Counter[str] = Counter()
    for name, outcome, said in _outcomes(report, log, findings):
        counts[outcome] += 1
        if outcome != "passed":
            findings.figure("tests that did not pass", {"test": name, "": outcome, "said": said})
    for outcome, number in counts.items():
        findings.figure("tests", {"outcome": outcome, "number": number})
    in_time = status is not None
    what = "the tests that need a GPU pass" + ("" if in_time else ", as far as their time reached")
    passed = not status and counts["passed"] > 0 and not counts["failure"] + counts["error"]
    findings.check(what, passed, f"status {status}" if in_time else "they were stopped")


def _outcomes(report: Path, log: Path, findings: Findings) -> list[tuple[str, str, str]]:
    """By the report; where there is none or half of one, by what was printed."""
    try:
        return list(outcomes(report))
    except (OSError, ElementTree.ParseError):
        findings.note("pytest has not written its report: this is read from what it has printed")
        return list(outcomes_of_log(log.read_text(errors="replace")))


def _run(command: list[str], log: Path, environment: dict[str, str], seconds: float) -> int | None:
    """The exit status; None if it was interrupted, behind which it still writes its report."""
    try:
        with (
            log.open("w") as output,
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            ) as process,
        ):
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS_TO_REPORT / 2)
                process.kill()
                return None
    finally:
        sys.stdout.write(log.read_text(errors="replace"))


def _files() -> list[str]:
    """Those that have such tests: to look through all others takes longer than to run them."""
    tests = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(path) for path in tests if "mark.gpu" in path.read_text(encoding="utf-8")]


def outcomes(report: Path) -> Iterator[tuple[str, str, str]]:
    """Name, outcome and message of each test of a JUnit file."""
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        outcome, said = "passed", ""
        for kind in ("failure", "error", "skipped"):
            if (found := case.find(kind)) is not None:
                outcome, said = kind, " ".join(str(found.get("message")).split())[:300]
                break
        yield name, outcome, said


def outcomes_of_log(text: str) -> Iterator[tuple[str, str, str]]:
    """The same of what `pytest -v` prints, alone or in several processes, without messages."""
    for line in text.splitlines():
        for pattern in LINES:
            if found := pattern.match(line):
                outcome = found["outcome"].lower().replace("failed", "failure")
                yield f"{Path(found['file']).name}::{found['test'].strip()}", outcome, ""
                break
