"""G7: does memory grow? Thousands of batches of mixed sizes, on the host and on the device."""

import time
from pathlib import Path

from videos import Clip

from gpu.configs import config_for, decode_here
from gpu.findings import Findings
from gpu.measuring import resident_megabytes
from gpu.setting import Setting
from mgm_dali.pipelines import make_loader
from mgm_dali.video.manifest import Video, write_manifest
from mgm_dali.video.reader import probe

__all__ = ["endurance", "growth_in_megabytes", "mixed_videos"]

BATCHES, BATCH_SIZE = 2000, 8
SIZES = ((320, 256), (352, 256), (340, 256), (256, 192), (192, 144))
POINTS = 20
SETTLED = 0.25
"""Share of the batches behind which memory shall not grow any more."""
ALLOWED_MEGABYTES = 100.0
SHARE_OF_TIME = 0.8
Point = dict[str, float]
"""Columns: batches, and megabytes on the host and on the device."""


def endurance(setting: Setting, findings: Findings) -> None:
    """Finetuning clips, for they need no motion; memory at some points of the way."""
    decode = decode_here(setting, findings)
    num_batches, batch_size = setting.pick(BATCHES, 8), setting.pick(BATCH_SIZE, 2)
    manifest = mixed_videos(setting)
    clip, training = {"stride_frames": 1}, {"batch_size": batch_size}
    config = config_for(setting, manifest, decode=decode, clip=clip, training=training)
    points: list[Point] = []
    deadline = time.monotonic() + SHARE_OF_TIME * setting.seconds
    every = max(num_batches // setting.pick(POINTS, 4), 1)
    done = 0
    start = time.perf_counter()
    with make_loader(config, "finetune") as loader:
        stream = loader.endless()
        while done < num_batches and time.monotonic() < deadline:
            next(stream)
            done += 1
            if done % every == 0:
                points.append({"batches": done, **_memory(setting)})
                findings.figure("memory on the way", points[-1])
                findings.doing(f"batch {done} of {num_batches}")
        skipped, restarts = loader.num_skipped, loader.restarts
    seconds = time.perf_counter() - start
    findings.note(
        f"{done} batches of {batch_size} clips in {seconds:.0f} s; {skipped} clips skipped, "
        f"{restarts} worker processes lost"
    )
    findings.check(f"{num_batches} batches come", done == num_batches, f"{done} in {seconds:.0f} s")
    findings.check("no clip is skipped and no worker lost", not skipped and not restarts)
    for column in points[0].keys() - {"batches"} if points else ():
        grown = growth_in_megabytes(points, column)
        findings.check(
            f"{column} do not grow by more than {ALLOWED_MEGABYTES:.0f} behind the first quarter",
            grown <= ALLOWED_MEGABYTES,
            f"{grown:+.1f} MB over {done * (1 - SETTLED):.0f} batches",
        )


def growth_in_megabytes(points: list[Point], column: str) -> float:
    """From the lowest point of the second quarter to the lowest of the last: tips are no growth."""
    settled = points[int(len(points) * SETTLED) :]
    part = max(len(settled) // 3, 1)
    early, late = settled[:part], settled[-part:]
    return min(point[column] for point in late) - min(point[column] for point in early)


def mixed_videos(setting: Setting) -> Path:
    """A manifest of short videos of several sizes."""
    videos = []
    for width, height in setting.pick(SIZES, ((96, 64), (80, 64))):
        for velocity in ((0, 0), (1, 0), (0, 1)):
            clip = Clip(
                width=width,
                height=height,
                num_frames=setting.pick(60, 16),
                start=(0, 0),
                velocity=velocity,
                pan=(1, 2),
            )
            path = clip.path()
            videos.append(Video(path=path, label=0, **vars(probe(path))))
    manifest = setting.folder / "mixed.csv"
    write_manifest(manifest, videos, ("any", "other"))
    return manifest


def _memory(setting: Setting) -> Point:
    """Of the device all that is in use, whoever uses it."""
    found = {"host MB": resident_megabytes()}
    if setting.on_gpu:
        import torch

        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        found["device MB"] = (total - free) / 1e6
    return found
