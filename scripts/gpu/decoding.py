"""G4: clips a second of the decoder alone, by threads, batch and distance between key frames."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpu.dali_decoder import batches_of, decoding_pipeline
from gpu.findings import Findings
from gpu.made_videos import NUM_VIDEOS, made
from gpu.measuring import Load, rate_of, synchronizer
from gpu.setting import Setting, require_nvdec
from mgm_dali.video.manifest import read_manifest

__all__ = ["clip_source", "decoding"]

LARGEST, THREADS = 32, 8
CELLS = (
    *(("prepared", LARGEST, threads, True) for threads in (1, 4, THREADS, 16)),
    ("prepared", 8, THREADS, True),
    ("prepared", LARGEST, THREADS, False),
    ("GOP 250", LARGEST, THREADS, True),
    ("as found", LARGEST, THREADS, True),
)
"""Kind of videos, clips of a batch, threads, and whether each keeps to a core."""
CLIP_FRAMES, STRIDE_FRAMES = 16, 4
SECONDS = 2.4


def decoding(setting: Setting, findings: Findings) -> None:
    """Each cell for some seconds; the GPU's load and the host's time beside it."""
    require_nvdec(setting)
    cells = setting.pick(CELLS, (("prepared", 2, 1, True),))
    with Load() as load:
        for kind, batch, threads, pinned in cells:
            manifest = made(setting, kind, setting.pick(NUM_VIDEOS, 2), encoder=setting.encoder)
            known = {"videos": kind, "batch": batch, "threads": threads, "pinned": pinned}
            with findings.row("the decoder alone", known) as row:
                pipeline = decoding_pipeline(
                    clip_source(manifest, batch, setting.pick(CLIP_FRAMES, 4)),
                    decoder=setting.decoder,
                    batch_size=batch,
                    num_threads=threads,
                    pinned=pinned,
                )
                batches = batches_of(pipeline)
                next(batches)
                start = time.perf_counter()
                rate = rate_of(batches, setting.pick(SECONDS, 0.1), synchronizer(setting))
                row |= {**rate.columns(), **load.since(start)}
    sizes = [path.stat().st_size for path in manifest.parent.glob(f"*.{setting.container}")]
    findings.note(f"{np.mean(sizes) / 1e3:.0f} kB a video of the last kind")


def clip_source(
    manifest: Path, batch: int, num_frames: int
) -> Callable[[], tuple[list[Any], list[Any]]]:
    """Random clips of these videos, which it keeps in memory."""
    videos = read_manifest(manifest)
    rows = [videos[row] for row in range(len(videos))]
    encoded = [np.fromfile(video.path, np.uint8) for video in rows]
    rng = np.random.default_rng(0)
    numbers = np.arange(num_frames, dtype=np.int32) * STRIDE_FRAMES

    def source() -> tuple[list[Any], list[Any]]:
        chosen = rng.integers(0, len(rows), batch)
        latest = [rows[row].num_frames - int(numbers[-1]) for row in chosen]
        frames = [numbers + np.int32(rng.integers(0, most)) for most in latest]
        return [encoded[row] for row in chosen], frames

    return source
