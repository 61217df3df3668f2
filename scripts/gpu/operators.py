"""G1: the graph's operators give on the GPU what they give on the CPU, from the same noise."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpu.configs import config_for
from gpu.findings import Findings
from gpu.setting import Setting
from mgm_dali.clips.crops import CROPS
from mgm_dali.clips.draw import Decoding
from mgm_dali.config import RunConfig
from mgm_dali.motion import MotionField
from mgm_dali.pipelines import Share
from mgm_dali.pipelines.feed import ClipFeed, reason_text
from mgm_dali.pipelines.graph import GRAPH_OUTPUTS, clip_pipeline
from mgm_dali.pipelines.placement import Placement
from mgm_dali.pipelines.pool import read_here
from mgm_dali.pipelines.resize import CUTTERS
from mgm_dali.video.manifest import Video, read_manifest, write_manifest

__all__ = ["NoiseFeed", "operators"]

ONE_LEVEL = 1 / 255 / 0.224
"""Of normalised pixels."""
Outputs = dict[str, torch.Tensor]


class NoiseFeed(ClipFeed):
    """The real feed over videos that exist only as noise."""

    def read(self, decoding: Decoding) -> tuple[NDArray[np.uint8], MotionField]:
        """Noise that follows from the row and the frames' numbers, and as much motion."""
        video, count = self.manifest[decoding.row], len(decoding.frames)
        rng = np.random.default_rng((decoding.row, *decoding.frames))
        pixels = rng.integers(0, 256, (count, video.height, video.width, 3), np.uint8)
        cells = (count, -(-video.height // 8), -(-video.width // 8))
        known = rng.random(cells) < 0.8
        vectors = rng.integers(-400, 400, (*cells, 2), np.int16) * known[..., None]
        window = self.window(decoding)
        cut = pixels[:, window.top : window.bottom, window.left : window.right]
        return np.ascontiguousarray(cut), MotionField(vectors, rng.random(count) < 0.7, known)


def operators(setting: Setting, findings: Findings) -> None:
    """Every kind of crop, mirrored or not, of sizes with every remainder of 16; RandAugment too."""
    manifest = _noise_videos(setting)
    for crop in setting.pick(list(CROPS), ["random_resized"]):
        for repeats in setting.pick((1, 3), (2,)):
            name = f"crop {crop}, {repeats} clip(s) of a video"
            with findings.claim(f"{name}: pixels within a level, motion to the bit") as found:
                config = _config(setting, manifest, {"crop": crop, "repeats": repeats})
                _require_alike(setting, config, found)
    with findings.claim("RandAugment: pixels within a level in the mean") as found:
        layers = {"layers": setting.pick(4, 1), "probability": 1.0}
        config = _config(setting, manifest, {"rand_augment": layers})
        here, there = _on_both(setting, config, "finetune")
        off = (here["video"] - there["video"]).abs() / ONE_LEVEL
        of_clips = off.flatten(1).mean(1)
        found.append(f"mean {off.mean():.3f}, worst clip {of_clips.max():.3f} levels off")
        if of_clips.max() >= 1:
            raise ValueError(f"clip {int(of_clips.argmax())} looks different")


def _require_alike(setting: Setting, config: RunConfig, found: list[str]) -> None:
    here, there = _on_both(setting, config, "pretrain")
    off = float((here["video"] - there["video"]).abs().max() / ONE_LEVEL)
    found.append(f"{len(here['video'])} videos, pixels at most {off:.2f} levels off")
    same = [name for name in GRAPH_OUTPUTS if torch.equal(here[name], there[name])]
    different = set(GRAPH_OUTPUTS) - {"video"} - set(same)
    if off >= 1.1 or different:
        raise ValueError(f"not alike: {', '.join(sorted(different)) or 'video'}")


def _on_both(setting: Setting, config: RunConfig, stage: Any) -> tuple[Outputs, Outputs]:
    """The device's outputs and the CPU's, both on the host."""
    expected = _run(config, stage, torch.device("cpu"))
    with _dalis_own_cutter() if not setting.on_gpu else _as_it_is():
        return _run(config, stage, torch.device(setting.device, 0)), expected


def _run(config: RunConfig, stage: Any, device: torch.device) -> Outputs:
    manifest = read_manifest(Path(str(config.data.train)))
    share = Share(len(manifest) * config.augment.repeats)
    feed = NoiseFeed(manifest, config, stage, share, motion_source="codec")
    placement = Placement(device, "cpu", "codec", "the same on both")
    outputs = clip_pipeline(feed, placement, read_here(feed)).run()
    on_host = [torch.from_numpy(np.array(each.as_cpu().as_tensor())) for each in outputs]
    named = dict(zip(GRAPH_OUTPUTS, on_host, strict=True))
    if named["reason"].any():
        raise RuntimeError(reason_text(named["reason"][0].tolist()) or "a clip has a stand-in")
    return named


@contextmanager
def _dalis_own_cutter() -> Iterator[None]:
    """In a rehearsal what cuts on a GPU cuts on the CPU."""
    before = CUTTERS["cpu"]
    CUTTERS["cpu"] = CUTTERS["cuda"]
    try:
        yield
    finally:
        CUTTERS["cpu"] = before


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _noise_videos(setting: Setting) -> Path:
    manifest = setting.folder / "noise.csv"
    sides = setting.pick(range(16), (3,))
    sizes = [(96 + height, 128 + width) for height in sides for width in sides]
    videos = [
        Video(setting.folder / f"{row}.mp4", 0, 40, 25.0, width, height, "h264", 1.6)
        for row, (height, width) in enumerate(sizes)
    ]
    write_manifest(manifest, videos, ("any", "other"))
    return manifest


def _config(setting: Setting, manifest: Path, augment: dict[str, object]) -> RunConfig:
    model = {"name": "vit_micro", "num_frames": 4, "image_size": 64, "decoder_depth": 1}
    data = {"num_workers": 0, "prefetch_batches": 1}
    return config_for(setting, manifest, data=data, model=model, augment=augment)
