"""Where and when numbers were measured: date, machine, versions, commit, command."""

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
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
    """The head of every file of numbers."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "gpus": _gpus(),
        "load_at_start": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "ffmpeg_of_pyav": av.ffmpeg_version_info,
        "commit": _commit(),
        "command": sys.argv,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Their names; none where NVIDIA's driver is not installed."""
    question = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(question, capture_output=True, text=True)
    except OSError:
        return []
    return found.stdout.splitlines() if found.returncode == 0 else []


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
