"""G6: what the decoder does with files that are broken or strange, and whether it works after."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rewritten_videos import rewrite, spoil
from videos import Clip

from gpu.bad_input import NUM_FRAMES
from gpu.configs import config_for
from gpu.findings import Findings
from gpu.setting import Setting, require_nvdec
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.pipelines.recovery import cause_of
from mgm_dali.video.manifest import Video, write_manifest
from mgm_dali.video.reader import probe

__all__ = ["alone", "bad_inputs"]

GOOD = Clip(width=192, height=128, num_frames=NUM_FRAMES, start=(8, 8), pan=(3, 2), gop=10)
GOOD = replace(GOOD, velocity=(1, 1))
GOOD_FILES = 6
BROKEN = "BREAKS ITS PROCESS"
SECONDS_ALONE = 20.0
"""For one bad file and a good one; most of it goes into the start."""


def bad_inputs(setting: Setting, findings: Findings) -> None:
    """Each by itself, in a process of its own; then all of them in a training set."""
    require_nvdec(setting)
    good, files = _good(setting).path(), _made(setting)
    for name, path in files.items():
        findings.doing(f"bad input {name}")
        bad, behind = alone(setting.decoder, path, good)
        findings.figure("bad inputs", {"input": name, **bad})
        holds = bad["outcome"] not in ("WRONG FRAMES", BROKEN)
        findings.check(f"{name}: refused, or right", holds, bad["said"])
        what = f"behind {name}, a good file is decoded as before"
        findings.check(what, behind["is_same"], behind["said"])
    _in_a_training_set(setting, findings, files)


def alone(decoder: str, bad: Path, good: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `gpu.bad_input` tells, in a line each, or why it does not."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gpu.bad_input", decoder, str(bad), str(good)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            output, _ = process.communicate(timeout=SECONDS_ALONE)
            ended = f"its process ended with status {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            ended = f"it was killed after {SECONDS_ALONE:.0f} s"
    told = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    for each in told:
        each["said"] = cause_of(RuntimeError(each["said"]))
    unsaid: list[dict[str, Any]] = [{"outcome": BROKEN}, {"is_same": False}]
    lines = [*told, *({**line, "said": ended} for line in unsaid[len(told) :])]
    return lines[0], lines[1]


def _in_a_training_set(setting: Setting, findings: Findings, files: Mapping[str, Path]) -> None:
    """The loader must go through them all, and name each that has no clip."""
    good = _good(setting).path()
    facts = vars(probe(good))
    videos = [Video(path=good, label=0, **facts) for _ in range(GOOD_FILES)]
    videos += [Video(path=path, label=0, **facts) for path in files.values()]
    manifest = setting.folder / "bad.csv"
    write_manifest(manifest, videos, ("any",))
    data = {"train": manifest, "num_workers": setting.pick(2, 0), "max_skipped": 1.0}
    config = config_for(setting, manifest, data=data)
    batches = 2 * -(-len(videos) // 4)
    with findings.claim("a loader goes on through good and bad files, and names the bad") as found:
        with make_loader(config, "finetune", Share(4)) as loader:
            stream = loader.endless()
            for _ in range(batches):
                batch = next(stream)
                if not np.isfinite(float(batch.video.sum())):
                    raise ValueError("a batch holds values that are no numbers")
            found.append(f"{batches} batches, {loader.restarts} worker processes lost")
            for clip in loader.skipped:
                findings.figure(
                    "skipped by the loader",
                    {"file": clip.path.name, "reason": clip.reason},
                )
            if any(clip.path == good for clip in loader.skipped):
                raise ValueError("a good file was skipped")


def _good(setting: Setting) -> Clip:
    if setting.on_gpu:
        return GOOD
    return replace(GOOD, encoder=setting.encoder, container=setting.container)


def _made(setting: Setting) -> dict[str, Path]:
    folder = setting.folder / "bad"
    folder.mkdir(parents=True, exist_ok=True)
    good, kind = _good(setting), setting.container
    makers: dict[str, Callable[[Path], object]] = {
        f"truncated.{kind}": lambda path: path.write_bytes(
            good.path().read_bytes()[: good.path().stat().st_size // 2]
        ),
        f"garbage.{kind}": lambda path: path.write_bytes(
            np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes()
        ),
        f"empty.{kind}": lambda path: path.write_bytes(b""),
        f"no-first-key-frame.{kind}": lambda path: rewrite(good.path(), path, first=5),
    }
    if setting.on_gpu:
        makers["spoiled-packet.mp4"] = lambda path: spoil(good.path(), path, {23})
        makers["spoiled-key-frame.mp4"] = lambda path: spoil(good.path(), path, {20})
    for name, make in makers.items():
        make(folder / name)
    files = {name: folder / name for name in makers}
    formats = ("yuv420p10le", "yuv422p", "yuv444p") if setting.on_gpu else ("yuv444p",)
    files |= {name: replace(good, pixel_format=name).path() for name in formats}
    if setting.on_gpu:
        files["HEVC"] = replace(good, encoder="libx265").path()
        files["MPEG-4"] = replace(good, encoder="mpeg4").path()
        files["VP9"] = replace(good, encoder="libvpx-vp9", container="webm").path()
    return files
