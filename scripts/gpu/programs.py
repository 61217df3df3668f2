"""Programs that a section runs: what they print goes to its log at once, and the end is kept."""

import subprocess
import sys
import threading
from collections.abc import Sequence

from gpu.setting import ROOT

__all__ = ["ProgramError", "run_program"]

TAIL_CHARACTERS = 400


class ProgramError(RuntimeError):
    """Another process has failed, whatever it says of the GPU; this one has not."""


def run_program(name: str, arguments: Sequence[str], seconds: float | None = None) -> None:
    """Runs this Python with these arguments in the checkout.

    Raises `ProgramError` with the last of what was printed if it fails, or if it is still there
    after so many seconds, when it is killed.
    """
    tail = ""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        timer = threading.Timer(seconds or threading.TIMEOUT_MAX, process.kill)
        timer.start()
        for line in process.stdout:
            sys.stdout.write(line)
            tail = (tail + line)[-TAIL_CHARACTERS:]
        status = process.wait()
        in_time = timer.is_alive()
        timer.cancel()
    if status:
        ended = f"ended with status {status}" if in_time else f"was killed after {seconds:.0f} s"
        raise ProgramError(f"{name} {ended}: {' '.join(tail.split())}")
