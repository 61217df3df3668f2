"""G0: what this machine has: GPU, drivers, decoders, versions; what it reaches at its best.

Libraries are imported where they are asked: one that cannot be hides nothing else.
"""

import ctypes
import ctypes.util
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu.findings import Findings
from gpu.setting import NVDEC_LIBRARY, Setting, can_load

__all__ = ["DecoderCaps", "machine"]

PACKAGES = ("torch", "deepspeed", "av", "timm", "transformers", "triton", "numpy", "pydantic")
OPTICAL_FLOW_LIBRARY = "libnvidia-opticalflow.so.1"
LIBRARIES = ("libcuda.so.1", NVDEC_LIBRARY, OPTICAL_FLOW_LIBRARY, "libnvidia-ml.so.1")
ASKED = "name,memory.total,driver_version,compute_cap"
"""Of `nvidia-smi`."""
CODECS = {"H.264": 4, "HEVC": 8, "VP9": 10, "AV1": 11, "MPEG-4": 2}
"""Numbers of cudaVideoCodec."""
CHROMAS = {"4:2:0": 1, "4:2:2": 2, "4:4:4": 3}


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
    for what, found in _facts(setting):
        findings.figure("machine", {"what": what, "found": found})
    for name in LIBRARIES:
        row = {"library": name, "loads": can_load(name), "from": _origin(name)}
        findings.figure("libraries", row)
    with findings.claim("`mgm-dali doctor` can be asked"):
        _doctor(findings)
    if setting.on_gpu:
        findings.note(_said("nvidia-smi", "-q", "-d", "UTILIZATION"))
        _checks(findings)
    with findings.claim("PyTorch can be asked for its best"):
        from gpu.best import at_its_best

        at_its_best(setting, findings)


def _facts(setting: Setting) -> Iterator[tuple[str, object]]:
    if setting.on_gpu:
        found = _said("nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader")
        yield "GPU, its memory, driver and compute capability", found
    yield "CPU", _cpu()
    yield "cores", len(os.sched_getaffinity(0))
    yield "host memory GiB", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "system", platform.release()
    yield "Python", platform.python_version()
    yield "LD_LIBRARY_PATH", os.environ.get("LD_LIBRARY_PATH")
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, None


def _origin(library: str) -> str:
    """The file that the dynamic linker takes, or what it says; and what `find_library` says."""
    stem = library.partition(".")[0]
    found = ctypes.util.find_library(stem.removeprefix("lib"))
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return f"{error}; find_library: {found}"
    files = {line.rpartition(" ")[2] for line in Path("/proc/self/maps").read_text().splitlines()}
    taken = sorted(file for file in files if Path(file).name.startswith(stem))
    return f"{', '.join(taken)}; find_library: {found}"


def _doctor(findings: Findings) -> None:
    from mgm_dali.doctor import CHECKS

    for name, check in CHECKS.items():
        with findings.row("mgm-dali doctor", {"check": name}) as row:
            finding = check()
            row |= {"state": finding.state, "found": finding.found, "repair": finding.repair}


def _checks(findings: Findings) -> None:
    there = can_load(NVDEC_LIBRARY)
    findings.check(f"{NVDEC_LIBRARY} can be loaded", there)
    findings.check("the optical flow library can be loaded", can_load(OPTICAL_FLOW_LIBRARY))
    with findings.claim("PyTorch sees a GPU") as found:
        import torch

        properties = torch.cuda.get_device_properties(0)
        found.append(f"{properties.name}, {properties.multi_processor_count} multiprocessors")
        found.append(f"torch for CUDA {torch.version.cuda}")
    with findings.claim("DALI sees a GPU") as found:
        from nvidia.dali import __version__, backend

        found.append(f"DALI {__version__}")
        if not backend.GetCUDADeviceCount():  # type: ignore[attr-defined]
            raise ValueError("it counts none")
    with findings.claim("`decode: auto` and `doctor` find NVDEC where DALI can load it") as found:
        from mgm_dali.pipelines.placement import has_nvdec

        found.append(f"has_nvdec() says {has_nvdec()}")
        if has_nvdec() != there:
            raise ValueError(f"the linker says {there}")
    with findings.claim("the driver tells what its decoders can do"):
        for row in _decoders() if there else ():
            findings.figure("NVDEC, by cuvidGetDecoderCaps", row)


def _decoders() -> Iterator[dict[str, object]]:
    """What the driver says of each codec."""
    import torch

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
