"""The process of one section: `python -m gpu.section MODULE:FUNCTION SETTING FILE`."""

import ctypes
import faulthandler
import importlib
import signal
import sys
import traceback
from pathlib import Path

from gpu.findings import Findings, in_a_line
from gpu.setting import CannotRun, Setting

__all__ = ["main"]

PR_SET_PDEATHSIG = 1
SECONDS_TO_TELL = 3.0


def main(function: str, setting: str, path: str) -> int:
    """Runs the section and writes what it finds to `path`; the exit status."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    findings, told = Findings(Path(path)), Setting.from_json(setting)
    # Of a section that hangs, the log tells where.
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(told.seconds - SECONDS_TO_TELL, 1))
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(told, findings)
    except CannotRun as reason:
        findings.end("cannot run", str(reason))
    except Exception as error:
        traceback.print_exc()
        findings.end("failed", in_a_line(error))
        return 1
    else:
        findings.end("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
