"""Where numbers were measured: processor, versions, commit."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av

__all__ = ["describe"]

PACKAGES = (
    *("mgm-dali", "av", "numpy", "lmdb", "zstandard", "torch", "torchvision"),
    *("timm", "deepspeed", "transformers"),
)


def describe() -> dict[str, Any]:
    """Processor, system, versions, commit, and the load before the run."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "ffmpeg_of_pyav": av.ffmpeg_version_info,
        "commit": _commit(),
        "command": sys.argv,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """With a + if files differ from it; None outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return found.stdout.strip() or None
