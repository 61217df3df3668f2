"""Where each part of the pipeline runs, and why: decided once, printed at the start of a run.

decode  device   frames                          motion
nvdec   cuda     NVDEC                           store (live extraction works, but is slow)
cpu     cuda     PyAV, copied to the GPU         codec in the same pass, or store
cpu     cpu      PyAV                            codec in the same pass, or store
"""

import ctypes
from dataclasses import dataclass
from typing import Literal

import torch

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.launcher import local_rank
from mgm_dali.video.manifest import Manifest

__all__ = ["Placement", "choose_device", "choose_placement", "has_nvdec"]

NVDEC_CODECS = frozenset({"h264", "hevc"})
NVDEC_SMALLEST_PIXELS = 144
"""What `decode: auto` trusts NVDEC with; `decode: nvdec` hands it anything."""
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Placement:
    """The working mode of a pipeline."""

    device: torch.device
    """Where augmentation, masks and the network run."""
    decode: Literal["nvdec", "cpu"]
    motion_source: str | None
    """A name of MOTION_SOURCES; None where motion is not needed."""
    reason: str
    """Why, in words for the log."""


def choose_device(config: RunConfig) -> torch.device:
    """The device of this process. Raises `UserError` if a GPU is asked for and there is none."""
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "device: cuda was asked for, but PyTorch sees no GPU; "
            "run `mgm-dali doctor`, or set device=cpu"
        )
    number, count = local_rank(), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"rank {number} of this machine has no GPU: it has {count}; start as many ranks as GPUs"
        )
    return torch.device("cuda", number)


def choose_placement(config: RunConfig, manifest: Manifest, *, needs_motion: bool) -> Placement:
    """Resolves the config's `auto`s by what the machine and the data have."""
    device = choose_device(config)
    source, source_reason = _choose_motion(config, needs_motion)
    decode, decode_reason = _choose_decoder(config, manifest, device, source)
    return Placement(device, decode, source, f"{decode_reason}; {source_reason}")


def _choose_motion(config: RunConfig, needs_motion: bool) -> tuple[str | None, str]:
    store = config.data.motion_store
    if not needs_motion:
        return None, "no motion: nothing in this run looks at it"
    if config.motion.source == "auto":
        if store:
            return "store", f"motion from {store}: data.motion_store is set"
        return "codec", "motion live from the codec: no data.motion_store is set"
    if config.motion.source == "store" and not store:
        raise UserError(
            "motion.source: store needs data.motion_store; fill one with `mgm-dali extract`"
        )
    if config.motion.source in ("optical_flow", "raft"):
        raise UserError(
            f"motion.source: {config.motion.source} is too slow for every clip; run `mgm-dali "
            f"extract MANIFEST -o STORE --source {config.motion.source}` once (and --weights FILE "
            "for raft), then set motion.source=store data.motion_store=STORE"
        )
    return config.motion.source, f"motion from {config.motion.source}: asked for"


def has_nvdec() -> bool:
    """Whether the driver brings its video decoder; containers may leave it out."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")  # as DALI does: find_library looks in fewer places
    except OSError:
        return False
    return True


def _choose_decoder(
    config: RunConfig, manifest: Manifest, device: torch.device, source: str | None
) -> tuple[Literal["nvdec", "cpu"], str]:
    if config.decode == "nvdec" and device.type == "cpu":
        raise UserError("decode: nvdec needs device: cuda; set decode=cpu or device=cuda")
    if config.decode != "auto":
        return config.decode, f"{config.decode} decoding: asked for"
    if device.type == "cpu":
        return "cpu", "cpu decoding by PyAV: there is no GPU in this run"
    if source not in (None, "store"):
        return "cpu", "cpu decoding by PyAV: live motion needs the frames on the CPU anyway"
    if manifest.keyframes is not None:
        return "cpu", "cpu decoding by PyAV: NVDEC would read a whole film for every moment of it"
    if not has_nvdec():
        return "cpu", "cpu decoding by PyAV: the driver's video decoder, libnvcuvid, is not there"
    if _has_avi(manifest):
        return "cpu", "cpu decoding by PyAV: NVDEC would number the frames of AVI files otherwise"
    smallest = int(min(manifest.widths.min(), manifest.heights.min()))
    if not set(manifest.codec_names) <= NVDEC_CODECS or smallest < NVDEC_SMALLEST_PIXELS:
        return "cpu", "cpu decoding by PyAV: some videos have a codec or size NVDEC may refuse"
    return "nvdec", "nvdec decoding: a GPU, and no vectors to be read from the stream"


def _has_avi(manifest: Manifest) -> bool:
    """Whether a path has ".avi" in it; seen piece by piece, so that no copy of all is made."""
    paths, ending = manifest.path_bytes, b".avi"
    pieces = (
        paths[start : start + PIECE_BYTES + len(ending) - 1].tobytes()
        for start in range(0, len(paths), PIECE_BYTES)
    )
    return any(ending in piece.lower() for piece in pieces)
