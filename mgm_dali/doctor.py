"""`mgm-dali doctor`: what this machine can do, each line with the repair."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

__all__ = ["CHECKS", "Finding", "run_doctor"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    state: str
    """"ok", "limited" (works, but less or slower) or "missing"."""
    found: str
    repair: str = ""


def run_doctor() -> None:
    """Prints a table of all checks. Raises `UserError` after it if a necessity is missing."""
    from mgm_dali.errors import UserError

    table = Table(box=None, pad_edge=False)
    for header in ("", "what", "found", "repair"):
        table.add_column(header, overflow="fold")  # a repair that is cut short is none
    findings = {name: check() for name, check in CHECKS.items()}
    marks = {"ok": "ok", "limited": "--", "missing": "!!"}
    for name, finding in findings.items():
        table.add_row(marks[finding.state], name, finding.found, finding.repair)
    Console(soft_wrap=False).print(table, markup=False)
    missing = [name for name, finding in findings.items() if finding.state == "missing"]
    if missing:
        raise UserError(f"this machine cannot run mgm-dali yet: {', '.join(missing)}; see above")


def _python() -> Finding:
    return Finding("ok", f"{platform.python_version()} on {platform.platform(terse=True)}")


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    if cores < 4:
        return Finding("limited", f"{cores}", "decoding and training share them")
    return Finding("ok", f"{cores}")


def _shared_memory() -> Finding:
    """Clips do not travel in it; but NCCL's messages between the GPUs of a machine do."""
    repair = "several GPUs on a machine need it: --shm-size=1g"
    try:
        free = shutil.disk_usage("/dev/shm").free / 2**30
    except OSError:
        return Finding("limited", "none", repair)
    if free < 0.5:
        return Finding("limited", f"{free:.2f} GiB free", repair)
    return Finding("ok", f"{free:.1f} GiB free")


def _torch() -> Finding:
    import torch

    if torch.version.cuda is None:
        return Finding("limited", f"{torch.__version__}, CPU build", "for a GPU: a CUDA build")
    if not torch.cuda.is_available():
        return Finding(
            "limited", f"{torch.__version__}, sees no GPU", "check the driver: nvidia-smi"
        )
    return Finding("ok", f"{torch.__version__}, {torch.cuda.get_device_name()}")


def _torchvision() -> Finding:
    from mgm_dali.torchvision_ops import import_torchvision

    if import_torchvision():
        return Finding("ok", importlib.metadata.version("torchvision"))
    return Finding(
        "limited",
        "its operators do not fit this PyTorch: detection's RoIAlign is a slower stand-in",
        "for detection: install torchvision's build for the same CPU or CUDA as PyTorch's",
    )


def _dali() -> Finding:
    try:
        import nvidia.dali
    except ImportError as error:
        return Finding("missing", str(error), "pip install 'mgm-dali[cuda13]' (or [cuda12])")
    return Finding("ok", str(nvidia.dali.__version__))


def _nvdec() -> Finding:
    from mgm_dali.pipelines.placement import has_nvdec

    if has_nvdec():
        return Finding("ok", "libnvcuvid found")
    return Finding(
        "limited",
        "no libnvcuvid: video is decoded on the CPU",
        "containers: NVIDIA_DRIVER_CAPABILITIES=compute,utility,video",
    )


def _pyav() -> Finding:
    import av

    from mgm_dali.motion.codec import CODECS_WITH_VECTORS

    readable = sorted(name for name in CODECS_WITH_VECTORS if name in av.codecs_available)
    return Finding("ok", f"{av.__version__}; motion vectors from {', '.join(readable)}")


def _deepspeed() -> Finding:
    try:
        return Finding("ok", importlib.metadata.version("deepspeed"))
    except importlib.metadata.PackageNotFoundError:
        return Finding("missing", "not installed", "pip install deepspeed")


CHECKS: dict[str, Callable[[], Finding]] = {
    "Python": _python,
    "CPU cores": _cores,
    "/dev/shm": _shared_memory,
    "PyTorch": _torch,
    "torchvision": _torchvision,
    "NVIDIA DALI": _dali,
    "NVDEC": _nvdec,
    "PyAV": _pyav,
    "DeepSpeed": _deepspeed,
}
