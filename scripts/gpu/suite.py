"""The tests that need a GPU, as `make test-gpu` runs them, spread over some processes."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from gpu.findings import Findings
from gpu.setting import ROOT, Setting

__all__ = ["outcomes", "suite"]

REHEARSED = "tests/test_uniforms.py"
PROCESSES = 6
"""They share the GPU; compiling takes cores."""
SECONDS_TO_REPORT = 30.0
"""Between the interruption of tests that take too long and the end of the section."""


def suite(setting: Setting, findings: Findings) -> None:
    """One check for all of them, a row for each that did not pass."""
    report = setting.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    command += ["--junitxml", str(report)]
    command += ["-m", "gpu", *_files()] if setting.on_gpu else [REHEARSED]
    if setting.on_gpu and importlib.util.find_spec("xdist"):
        command += ["-n", str(min(PROCESSES, setting.cores)), "--dist", "worksteal"]
    # Each process would compile in as many threads as there are cores.
    more = {"TORCHINDUCTOR_COMPILE_THREADS": "2"}
    if setting.on_gpu:
        more["MGM_REQUIRE_GPU"] = "1"
    findings.doing("pytest -m gpu")
    status = _run(command, {**os.environ, **more}, setting.seconds - SECONDS_TO_REPORT)
    counts: Counter[str] = Counter()
    for name, outcome, said in outcomes(report):
        counts[outcome] += 1
        if outcome != "passed":
            findings.figure("tests that did not pass", {"test": name, "": outcome, "said": said})
    for outcome, number in counts.items():
        findings.figure("tests", {"outcome": outcome, "number": number})
    ended = "were stopped, their time was over" if status is None else f"status {status}"
    passed = status == 0 and counts["passed"] > 0
    findings.check("the tests that need a GPU pass", passed, ended)


def _run(command: list[str], environment: dict[str, str], seconds: float) -> int | None:
    """The exit status; None if it was interrupted, behind which it still writes its report."""
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_REPORT / 2)
            process.kill()
            return None


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
