"""G0: what this machine has: GPU, drivers, decoders, versions; what it reaches at its best."""

import ctypes
import ctypes.util
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nvidia.dali
import torch
from nvidia.dali import backend

from gpu.findings import Findings
from gpu.setting import NVDEC_LIBRARY, Setting, can_load
from gpu.stepping import product_tflops
from mgm_dali.doctor import CHECKS
from mgm_dali.pipelines.placement import has_nvdec

__all__ = ["DecoderCaps", "machine"]

PACKAGES = (*("torch", "deepspeed", "av", "timm", "transformers", "triton", "numpy"),)
LIBRARIES = (*("libcuda.so.1", NVDEC_LIBRARY, "libnvidia-opticalflow.so.1", "libnvidia-ml.so.1"),)
CODECS = {"H.264": 4, "HEVC": 8, "VP9": 10, "AV1": 11, "MPEG-4": 2}
"""Numbers of cudaVideoCodec."""
CHROMAS = {"4:2:0": 1, "4:2:2": 2, "4:4:4": 3}
COPIED_BYTES = 2**31


class DecoderCaps(ctypes.Structure):
    """CUVIDDECODECAPS of NVIDIA's cuviddec.h."""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("chroma", ctypes.c_int),
        ("bits_beyond_8", ctypes.c_uint),
        ("reserved1", ctypes.c_uint * 3),
        ("is_supported", ctypes.c_ubyte),
        ("num_decoders", ctypes.c_ubyte),
        ("output_formats", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_blocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("has_histogram", ctypes.c_ubyte),
        ("counter_bits", ctypes.c_ubyte),
        ("histogram_bins", ctypes.c_ushort),
        ("reserved3", ctypes.c_uint * 10),
    )


def machine(setting: Setting, findings: Findings) -> None:
    """Facts first; then, on a GPU, what the project needs of it."""
    for what, found in _facts():
        findings.figure("machine", {"what": what, "found": found})
    for name in LIBRARIES:
        finder = ctypes.util.find_library(name.removeprefix("lib").partition(".")[0])
        findings.figure(
            "libraries", {"library": name, "loads": can_load(name), "find_library": finder}
        )
    for name, check in CHECKS.items():
        with findings.row("mgm-dali doctor", {"check": name}) as row:
            finding = check()
            row |= {"state": finding.state, "found": finding.found, "repair": finding.repair}
    if setting.on_gpu:
        _checks(findings)
        for row in _decoders():
            findings.figure("NVDEC, by cuvidGetDecoderCaps", row)
        findings.note(_said("nvidia-smi", "-q", "-d", "UTILIZATION"))
    device = torch.device(setting.device)
    reached = product_tflops(device)
    findings.figure("at its best", {"what": "bfloat16 product, TFLOP/s", "found": reached})
    if setting.on_gpu:
        rates = {"on the device": _copy(device, device), "pageable to device": _copy_from(False)}
        rates["pinned to device"] = _copy_from(True)
        for what, rate in rates.items():
            findings.figure("at its best", {"what": f"copy {what}, GB/s", "found": rate})


def _facts() -> Iterator[tuple[str, object]]:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        yield "GPU", properties.name
        yield "GPU memory GiB", properties.total_memory / 2**30
        yield "compute capability", f"{properties.major}.{properties.minor}"
        yield "multiprocessors", properties.multi_processor_count
        yield "driver", _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    yield "CPU", _cpu()
    yield "cores", len(os.sched_getaffinity(0))
    yield "host memory GiB", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "system", platform.release()
    yield "Python", platform.python_version()
    yield "CUDA of torch", torch.version.cuda
    yield "DALI", nvidia.dali.__version__
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, None


def _checks(findings: Findings) -> None:
    findings.check("PyTorch sees a GPU", torch.cuda.is_available(), str(torch.version.cuda))
    count = backend.GetCUDADeviceCount()  # type: ignore[attr-defined]
    findings.check("DALI sees a GPU", count > 0, f"{count}")
    there = can_load(NVDEC_LIBRARY)
    findings.check(f"{NVDEC_LIBRARY} can be loaded", there)
    findings.check(
        "`decode: auto` and `doctor` find NVDEC where DALI can load it",
        has_nvdec() == there,
        f"has_nvdec() says {has_nvdec()}",
    )
    findings.check("the optical flow library can be loaded", can_load(LIBRARIES[2]))


def _decoders() -> Iterator[dict[str, object]]:
    """What the driver says of each codec; nothing if it cannot be asked."""
    if not can_load(NVDEC_LIBRARY):
        return
    torch.ones(1, device="cuda")  # the library asks the current context
    library = ctypes.CDLL(NVDEC_LIBRARY)
    for codec, number in CODECS.items():
        for chroma, format_number in CHROMAS.items():
            for bits in (8, 10):
                caps = DecoderCaps(codec=number, chroma=format_number, bits_beyond_8=bits - 8)
                error = library.cuvidGetDecoderCaps(ctypes.byref(caps))
                if error:
                    yield {"codec": codec, "chroma": chroma, "bits": bits, "error": error}
                elif caps.is_supported:
                    yield {
                        "codec": codec,
                        "chroma": chroma,
                        "bits": bits,
                        "decoders": caps.num_decoders,
                        "smallest": f"{caps.min_width}x{caps.min_height}",
                        "largest": f"{caps.max_width}x{caps.max_height}",
                    }


def _copy(source: torch.device, target: torch.device) -> float:
    """GB/s of a copy within the device, counted once."""
    there = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=source)
    return _timed(lambda: torch.empty_like(there, device=target).copy_(there))


def _copy_from(pinned: bool) -> float:
    here = torch.empty(COPIED_BYTES // 4, dtype=torch.uint8, pin_memory=pinned)
    there = torch.empty(COPIED_BYTES // 4, dtype=torch.uint8, device="cuda")
    return _timed(lambda: there.copy_(here)) / 4


def _timed(copy: Any) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    best = float("inf")
    for _ in range(4):
        start.record()
        copy()
        end.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(end))
    return COPIED_BYTES / best / 1e6


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _said(*command: str) -> str:
    """What a program prints, in one line; or that it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    return " ".join((done.stdout or done.stderr).split())
