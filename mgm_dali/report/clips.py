"""The clip that is drawn: through the pipeline as it evaluates, from the middle of a video.

A source is a video file, a manifest or a run folder. So the pictures show what the network sees:
pixels, motion and masks after crop and resize. It is the stage that evaluates: a centre crop, never
flipped, and masks from the seed of the row and the configuration, so none is of a training step.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD, ClipBatch
from mgm_dali.clips.sampling import stride_of
from mgm_dali.config import (
    PATCH_PIXELS,
    ClipConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
)
from mgm_dali.errors import UserError
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.report.motion_drawings import MotionShown
from mgm_dali.video.manifest import Video, read_manifest, write_manifest
from mgm_dali.video.reader import VideoError, probe

__all__ = [
    "ShownClip",
    "as_manifest",
    "chosen_rows",
    "config_for",
    "read_shown_clip",
    "to_bytes",
]

MAX_SIDE_PIXELS = 224
MAX_STRIDE_FRAMES = 4
SHORTEST_FRAMES = 2


@dataclass(frozen=True)
class ShownClip:
    """A clip as the network gets it, with what must be said of it."""

    batch: ClipBatch
    """Of one."""
    config: RunConfig
    """By which it was read."""
    video: Video
    motion_source: str | None
    """A name of MOTION_SOURCES, or None if nothing was read."""

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """As pictures: uint8 `[T, H, W, 3]`."""
        mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1)
        std = torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)
        return to_bytes(self.batch.video[0] * std + mean)

    @cached_property
    def motion(self) -> MotionShown:
        """Its vectors, and where they come from and what they count, in words."""
        window = self.config.accumulates_motion
        over = "since the sampled frame before" if window else "a frame of the video"
        return MotionShown(
            vectors=self.batch.motion[0].numpy(),
            known=self.batch.motion_known[0].numpy(),
            title=f"Motion vectors {self._origin()}",
            note=", ".join((self.sampling, *self._changes())),
            unit=f"pixels {over}",
        )

    @property
    def sampling(self) -> str:
        """Which frames of the video these are, in words."""
        num_frames, there = self.config.model.num_frames, self.video.num_frames
        if self.config.clip.sampling == "segments":
            return f"{num_frames} frames spread over the {there} of the video"
        stride = stride_of(self.config.clip, self.video.fps)
        every = "every frame" if stride == 1 else f"one of every {stride:.3g} frames"
        if (num_frames - 1) * stride + 0.5 >= there:
            return f"{every} of a video of {there}, the last one repeated"
        return f"{every} of the video"

    def _origin(self) -> str:
        config, codec = self.config, self.video.codec
        if self.motion_source is None:
            return f"are not read ({codec} has none)"
        words = {"codec": "of the codec", "store": f"from {config.data.motion_store}"}
        origin = words.get(self.motion_source, f"by {self.motion_source}")
        if self.motion_source != config.motion.source and self.motion_source not in words:
            origin += f" ({codec} has none)"
        return origin

    def _changes(self) -> Iterator[str]:
        """What was done to the vectors."""
        if self.config.accumulates_motion:
            yield "summed up between sampled frames"
        if self.config.motion.subtract_camera:
            yield "without the camera's motion"


@contextmanager
def as_manifest(source: Path) -> Iterator[Path]:
    """A manifest for as long as the block runs: the source itself, or one that lists the video.

    Raises `VideoError` if it cannot be read.
    """
    if source.suffix.lower() == ".csv":
        yield source
        return
    video = Video(path=source, label=None, **vars(probe(source)))
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "video.csv"
        write_manifest(manifest, [video], ())
        yield manifest


def chosen_rows(manifest: Path, row: int | None, num_clips: int) -> list[int]:
    """The row asked for, or some that are far apart. Raises `UserError` if there is no such row."""
    num_videos = len(read_manifest(manifest))
    if row is None:
        # Manifests are sorted by class: rows far apart show different ones.
        apart = max(1, num_videos // num_clips)
        return list(range(apart // 2, num_videos, apart)[:num_clips])
    if not 0 <= row < num_videos:
        raise UserError(
            f"{manifest}: has no row {row}; it lists {num_videos} videos, "
            f"take --row 0 to {num_videos - 1}"
        )
    return [row]


def config_for(video: Video) -> RunConfig:
    """How a video is shown that belongs to no run: its motion and size as they are, if they fit.

    Raises `VideoError` if there is nothing to see in it.
    """
    shorter = min(video.width, video.height)
    if shorter < PATCH_PIXELS:
        found = f"its pictures of {video.width}x{video.height}"
        raise VideoError(video.path, f"{found} are smaller than one patch of {PATCH_PIXELS} pixels")
    if video.num_frames < SHORTEST_FRAMES:
        raise VideoError(video.path, "has one frame only, and motion needs two")
    side = min(MAX_SIDE_PIXELS, shorter // PATCH_PIXELS * PATCH_PIXELS)
    model = ModelConfig(image_size=max(side, 2 * PATCH_PIXELS))
    stride = max(1, min(MAX_STRIDE_FRAMES, video.num_frames // model.num_frames))
    return RunConfig(clip=ClipConfig(stride_frames=stride), model=model)


def read_shown_clip(config: RunConfig, manifest: Path, row: int, motion: bool) -> ShownClip:
    """The middle clip of a manifest's row; `motion` tells whether its vectors are wanted.

    Videos without vectors have their motion estimated by block matching, unless the configuration
    names another way. Raises `UserError` if the video cannot be read.
    """
    without = config.motion.without_vectors
    without = "block_matching" if without == "error" else without
    sections = {
        "device": "cpu",
        "decode": "cpu",
        "data": DataConfig(val=manifest, motion_store=config.data.motion_store, num_workers=0),
        "motion": config.motion.model_copy(update={"without_vectors": without}),
        "evaluation": EvaluationConfig(num_segments=1, num_crops=1, batch_size=1),
    }
    config = config.model_copy(update=sections)
    share = Share(batch_size=1, first_forward=row)
    try:
        with _unsaid(), ClipLoader(config, "evaluate", share, needs_motion=motion) as loader:
            batch = next(iter(loader))
            if loader.skipped:
                raise VideoError(loader.skipped[0].path, loader.skipped[0].reason)
            return ShownClip(batch, config, loader.manifest[row], loader.motion_source_of(row))
    except UserError as error:
        if config.data.motion_store is None or config.motion.source == "codec":
            raise
        raise UserError(f"{error} (motion.source=codec reads it from the videos)") from None


@contextmanager
def _unsaid() -> Iterator[None]:
    """The loader says what it skips; here that is the error, which says it."""
    logger = logging.getLogger(ClipLoader.__module__)

    def nothing(record: logging.LogRecord) -> bool:
        del record
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def to_bytes(video: Tensor) -> NDArray[np.uint8]:
    """`[C, T, H, W]` in [0, 1] as uint8 `[T, H, W, C]`."""
    pixels = (video.clamp(0, 1) * 255).round().to(torch.uint8)
    array: NDArray[np.uint8] = pixels.permute(1, 2, 3, 0).numpy()
    return array
