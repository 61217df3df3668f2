"""G6: what the decoder does with files that are broken or strange, and whether it works after."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from rewritten_videos import rewrite, spoil
from videos import Clip

from gpu.configs import config_for
from gpu.dali_decoder import compared, decode, reference_frames
from gpu.findings import Findings
from gpu.setting import Setting, require_nvdec
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.pipelines.recovery import cause_of
from mgm_dali.video.manifest import Video, write_manifest
from mgm_dali.video.reader import VideoError, probe

__all__ = ["bad_inputs"]

NUM_FRAMES = 40
GOOD = Clip(width=192, height=128, num_frames=NUM_FRAMES, start=(8, 8), pan=(3, 2), gop=10)
GOOD = replace(GOOD, velocity=(1, 1))
GOOD_FILES = 6
NUMBERS = list(range(0, NUM_FRAMES, 3))


def bad_inputs(setting: Setting, findings: Findings) -> None:
    """Each by itself, then all of them in a training set."""
    require_nvdec(setting)
    good = _good(setting).path()
    reference = reference_frames(good)
    files = _made(setting)
    for name, path in files.items():
        with findings.row("bad inputs", {"input": name}) as row:
            start = time.perf_counter()
            outcome, said = _outcome(path, setting.decoder)
            seconds = time.perf_counter() - start
            row |= {"outcome": outcome, "said": said, "seconds": seconds}
            findings.check(f"{name}: refused, or right", outcome != "WRONG FRAMES", said)
        with findings.claim(f"behind {name}, a good file is decoded as before") as found:
            comparison = compared(decode([good], [NUMBERS], setting.decoder)[0], reference, NUMBERS)
            found.append(str(comparison))
            if not comparison.is_same:
                raise ValueError("other frames")
    _in_a_training_set(setting, findings, files)


def _outcome(path: Path, decoder: str) -> tuple[str, str]:
    """What comes of a file, and what is said of it, or how far it is from what PyAV reads."""
    reference, unreadable = None, ""
    try:
        reference = reference_frames(path)
    except VideoError as error:
        unreadable = f"PyAV: {error.reason}"
    most = NUM_FRAMES if reference is None else len(reference)
    numbers = [number for number in NUMBERS if number < most]
    try:
        (found,) = decode([path], [numbers], decoder)
    except RuntimeError as error:
        return "refused", cause_of(error)
    if reference is None:
        return f"gives {len(found)} frames", unreadable
    comparison = compared(found, reference, numbers)
    return ("right" if comparison.is_same else "WRONG FRAMES"), str(comparison)


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
