"""G2: the decoder's frame of a number is PyAV's frame of that number, in every kind of file."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from rewritten_videos import FRAME, STAMPS, rewrite
from videos import Clip

from gpu.dali_decoder import compared, decode, reference_frames
from gpu.findings import Findings
from gpu.setting import Setting, require_nvdec

__all__ = ["KINDS", "frames", "same_frames"]

PLAIN = Clip(width=192, height=128, num_frames=40, start=(8, 8), velocity=(2, 1), pan=(3, 2))
WITH_B = replace(PLAIN, b_frames=3, refs=4)
LONG = replace(WITH_B, num_frames=300, velocity=(0, 0), gop=250)
CUT_PACKETS = 12


@dataclass(frozen=True)
class Kind:
    """One file: what is encoded, and what becomes of its packets."""

    clip: Clip
    container: str = "mp4"
    stamp: Callable[[Fraction], Fraction] = lambda seconds: seconds
    first: int = 0
    """The first packet that is kept."""
    cpu: bool = False
    """Has a form that DALI's CPU decoder reads too."""


KINDS: dict[str, Kind] = {
    "no B-frames": Kind(PLAIN, cpu=True),
    "B-frames, GOP 12": Kind(WITH_B, cpu=True),
    "B-frames, GOP 250": Kind(LONG),
    "open groups": Kind(replace(WITH_B, options=(("x264-params", "open-gop=1"),))),
    "intra refresh": Kind(replace(PLAIN, options=(("x264-params", "intra-refresh=1"),))),
    "negative start": Kind(WITH_B, stamp=STAMPS["starts before 0"], cpu=True),
    "late start": Kind(WITH_B, stamp=STAMPS["starts late"], cpu=True),
    "cut at a key frame": Kind(WITH_B, stamp=lambda s: s - CUT_PACKETS * FRAME, first=CUT_PACKETS),
    "cut within a group": Kind(WITH_B, stamp=lambda s: s - 18 * FRAME),
    "variable rate": Kind(WITH_B, stamp=STAMPS["variable rate"], cpu=True),
    "mkv": Kind(WITH_B, "mkv", cpu=True),
    "mkv, 30 frames a second": Kind(WITH_B, "mkv", STAMPS["30 frames a second"]),
    "mkv, variable rate": Kind(WITH_B, "mkv", STAMPS["variable rate"]),
    "mov": Kind(WITH_B, "mov"),
    "ts": Kind(WITH_B, "ts"),
    "ts, variable rate": Kind(WITH_B, "ts", STAMPS["variable rate"]),
    "one frame": Kind(replace(PLAIN, num_frames=1)),
    "five frames": Kind(replace(WITH_B, num_frames=5), cpu=True),
    "4 slices a frame": Kind(replace(WITH_B, options=(("slices", "4"),))),
    "HEVC": Kind(replace(PLAIN, encoder="libx265", b_frames=2)),
}


def frames(setting: Setting, findings: Findings) -> None:
    """Each kind of file by itself: a clip, frames in any order, and the whole video."""
    require_nvdec(setting)
    for name, kind in KINDS.items():
        if not (setting.on_gpu or kind.cpu):
            continue
        with findings.claim(f"{name}: the frames are PyAV's") as found:
            same_frames(_file(setting, name, kind), setting.decoder, found)


def same_frames(path: Path, decoder: str, found: list[str]) -> None:
    """Adds to `found` how near the decoder's frames are; raises `ValueError` if not near enough."""
    reference = reference_frames(path)
    last = len(reference) - 1
    rng = np.random.default_rng(0)
    lists = {
        "a clip": np.minimum(np.arange(16) * 4 + min(3, last), last).tolist(),
        "any order": rng.integers(0, last + 1, 12).tolist(),
        "all": list(range(last + 1)),
    }
    different = []
    for name, numbers in lists.items():
        comparison = compared(decode([path], [numbers], decoder)[0], reference, numbers)
        found.append(f"{name}: {comparison}")
        if not comparison.is_same:
            different.append(name)
    if different:
        raise ValueError(f"other frames: {', '.join(different)}")


def _file(setting: Setting, name: str, kind: Kind) -> Path:
    clip, container = kind.clip, kind.container
    if not setting.on_gpu:
        clip = replace(clip, encoder=setting.encoder, options=(), width=96, height=64, pan=(0, 1))
        clip = replace(clip, start=(8, 8), velocity=(0, 0), b_frames=0, gop=8)
    folder = setting.folder / "kinds"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_slug(name)}.{container}"
    return rewrite(clip.path(), path, kind.stamp, first=kind.first)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())
