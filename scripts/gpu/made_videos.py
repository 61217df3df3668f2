"""Sets of videos to measure on, with a picture's noise in them; made once for all sections."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from videos import Clip

from gpu.setting import Setting
from mgm_dali.motion.extract import extract
from mgm_dali.motion.recipe import Recipe
from mgm_dali.video.manifest import Video, read_manifest, write_manifest
from mgm_dali.video.reader import probe
from mgm_dali.video.workers import leave_with_parent

__all__ = ["KINDS", "NUM_VIDEOS", "Grainy", "made", "motion_store"]

CLASSES = ("a", "b", "c", "d")
NUM_VIDEOS = 48
"""Of a kind; who takes as many shares them."""


@dataclass(frozen=True)
class Grainy(Clip):
    """With noise, as cameras have it; without, a few bytes would hold a whole video."""

    noise_levels: float = 4.0
    seed: int = 0

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """What is encoded, uint8 `[H, W, 3]`."""
        rng = np.random.default_rng(self.seed)
        for image in super().frames():
            noise = rng.normal(0, self.noise_levels, image.shape[:2])[..., None]
            yield np.clip(image + noise, 0, 255).astype(np.uint8)


X264 = (("preset", "veryfast"), ("crf", "20"))
PREPARED = Grainy(
    width=320,
    height=256,
    num_frames=300,
    velocity=(0, 0),
    gop=16,
    grain_pixels=8,
    options=X264,
)
KINDS = {
    "prepared": PREPARED,  # as `mgm-dali prepare` leaves them
    "as found": replace(PREPARED, width=340, gop=250, b_frames=3, refs=3),  # as Kinetics often is
    "GOP 250": replace(PREPARED, gop=250, b_frames=3, refs=3),
}
TINY: dict[str, Any] = {"width": 96, "height": 64, "num_frames": 40, "start": (8, 8), "options": ()}
"""For a rehearsal."""


def made(setting: Setting, kind: str, count: int, *, encoder: str = "libx264") -> Path:
    """The manifest of `count` labelled videos of a kind, all of them different."""
    folder = setting.folder / "videos" / f"{kind}-{encoder}-{count}".replace(" ", "-")
    manifest = folder / "videos.csv"
    if manifest.exists():
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    clip = replace(KINDS[kind], **TINY) if setting.tiny else KINDS[kind]
    if encoder != "libx264":
        clip = replace(clip, encoder=encoder, container="webm", options=(), b_frames=0)
    make = partial(_make, folder, clip)
    if setting.tiny:
        videos = list(map(make, range(count)))
    else:
        spawn = get_context("spawn")
        with ProcessPoolExecutor(setting.cores, spawn, leave_with_parent) as pool:
            videos = list(pool.map(make, range(count)))
    write_manifest(manifest, videos, CLASSES)
    return manifest


def motion_store(setting: Setting, manifest: Path) -> Path:
    """A store of these videos' motion; raises `RuntimeError` if one has none."""
    folder = manifest.parent / "motion"
    workers = setting.pick(setting.cores, 1)
    report = extract(read_manifest(manifest), folder, Recipe(), num_workers=workers)
    if report.failed:
        raise RuntimeError(f"no motion of {report.failed[0]}")
    return folder


def _make(folder: Path, clip: Grainy, number: int) -> Video:
    """Writes one video; what moves differs from one to the next."""
    pan = (number % 5 - 2, number // 5 % 5 - 2)
    clip = replace(clip, pan=pan, seed=number)
    path = folder / f"{number:03}.{clip.container}"
    shutil.copyfile(clip.path(), path)
    return Video(path=path, label=number % len(CLASSES), **vars(probe(path)))
