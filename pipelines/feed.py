"""The external-source operator: reads one clip and its motion, in DALI's worker processes.

DALI calls `ClipFeed` once per sample. It looks up which video is due, draws the clip's frames and
crop, and reads pixels and motion vectors with PyAV. This module and all it imports are free of
torch, because every worker process imports it.

No exception leaves the feed: DALI's parallel mode may deliver garbage in the batch after one. A
clip that cannot be read is replaced by another one of the same manifest, chosen by the clip's own
draw, and the reason travels with the sample.
"""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mgm_dali.clips.crops import Crop, random_crop, view_crop
from mgm_dali.clips.order import first_sample, shuffled_video, view_of_video
from mgm_dali.clips.sampling import random_frames, view_frames
from mgm_dali.config import RunConfig
from mgm_dali.motion import MOTION_SOURCES, MotionField, read_clip
from mgm_dali.motion.camera import subtract_camera
from mgm_dali.motion.codec import CODECS_WITH_VECTORS
from mgm_dali.motion.field import QUARTER_PELS, no_motion
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.video.manifest import Manifest, Video
from mgm_dali.video.reader import VideoError, index_frames, read_frames
from mgm_dali.video.workers import leave_with_parent, reason_of

__all__ = ["OUTPUTS", "ClipFeed", "SampleInfo"]

OUTPUTS = (
    "pixels",  # uint8 [T, H, W, 3] decoded frames, or uint8 [bytes] of the file for NVDEC
    "frames",  # int32 [T] frame numbers, for NVDEC only
    "motion",  # int16 [T, ceil(H/8), ceil(W/8), 2] quarter pixels
    "motion_valid",  # uint8 [T]
    "box_start",  # float32 [2] (top, left) in source pixels; left and right swapped if mirrored
    "box_end",  # float32 [2] (bottom, right)
    "motion_scale",  # float32 [2] quarter source pixels to crop pixels, negative dx if mirrored
    "facts",  # int64 [5] label, index, view, seed, 1 if the clip is a stand-in
    "reason",  # uint8 [REASON_BYTES] why it is one, UTF-8, filled up with zeros
)
REASON_BYTES = 256
STAND_IN_TRIES = 16


class SampleInfo(Protocol):
    """What DALI says of the sample it wants (nvidia.dali.types.SampleInfo)."""

    @property
    def idx_in_batch(self) -> int: ...
    @property
    def iteration(self) -> int: ...


@dataclass(frozen=True)
class ClipDraw:
    """Everything random about one clip, and what it is a clip of."""

    index: int
    view: int
    seed: int
    frames: NDArray[np.int64]
    crop: Crop


class ClipFeed:
    """Callable for `fn.external_source(batch=False)`; pickled once to every worker process."""

    def __init__(self, manifest: Manifest, config: RunConfig, stage: Stage, share: Share) -> None:
        self.manifest = manifest
        self.config = config
        self.stage = stage
        self.share = share
        self.motion_source: str | None = None
        """A name of MOTION_SOURCES, or None where nobody looks at motion."""
        self.encoded = False
        """Deliver the file's bytes, for a decoder on the GPU."""
        self._settled = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what a call returns, in order."""
        return tuple(name for name in OUTPUTS if name != "frames" or self.encoded)

    @property
    def num_samples(self) -> int:
        """Samples to judge; training has no end."""
        views = self.config.evaluation.num_segments * self.config.evaluation.num_crops
        return len(self.manifest) * views

    def __call__(self, info: SampleInfo) -> tuple[NDArray[Any], ...]:
        self._settle_in_worker()
        share = self.share
        forward = share.first_forward + info.iteration
        start = first_sample(forward, share.batch_size, share.rank, share.world_size)
        if self.stage == "evaluate":
            # The last batches of all ranks end together, so that no rank waits for another.
            if forward * share.batch_size * share.world_size >= self.num_samples:
                raise StopIteration
            return self.evaluation_sample(start + info.idx_in_batch)
        return self.training_sample(start + info.idx_in_batch)

    def training_sample(self, sample: int) -> tuple[NDArray[Any], ...]:
        """The sample-th clip of the endless row of shuffled epochs."""
        seed = self.config.seed
        epoch, index = shuffled_video(sample, len(self.manifest), seed)
        return self._readable(index, lambda row: self._random_draw(epoch, row))

    def evaluation_sample(self, sample: int) -> tuple[NDArray[Any], ...]:
        """View after view of video after video; behind the last, fillers with index -1."""
        views = self.config.evaluation
        index, view = view_of_video(sample % self.num_samples, views.num_segments * views.num_crops)
        arrays = self._readable(index, lambda row: self._view_draw(row, view))
        if sample >= self.num_samples:
            arrays[self.outputs.index("facts")][1] = -1
        return arrays

    def _random_draw(self, epoch: int, index: int) -> ClipDraw:
        config, video = self.config, self.manifest[index]
        view = 0
        root = np.random.SeedSequence((config.seed, epoch, index, view))
        for_clip, for_mask = root.spawn(2)
        rng = np.random.default_rng(for_clip)
        frames = random_frames(config.clip, config.model.num_frames, video.num_frames, rng)
        crop = random_crop(config.augment, video.height, video.width, config.model.image_size, rng)
        return ClipDraw(index, view, _mask_seed(for_mask), frames, crop)

    def _view_draw(self, index: int, view: int) -> ClipDraw:
        config, video, views = self.config, self.manifest[index], self.config.evaluation
        segment, crop = divmod(view, views.num_crops)
        frames = view_frames(
            config.clip, config.model.num_frames, video.num_frames, segment, views.num_segments
        )
        box = view_crop(video.height, video.width, crop, views.num_crops)
        root = np.random.SeedSequence((config.seed, 0, index, view))
        return ClipDraw(index, view, _mask_seed(root), frames, box)

    def _readable(self, index: int, draw: Callable[[int], ClipDraw]) -> tuple[NDArray[Any], ...]:
        """The clip of row `index`, or the first stand-in for it that can be read."""
        rows = np.random.default_rng(np.random.SeedSequence((self.config.seed, index)))
        row, first_reason = index, ""
        for _ in range(STAND_IN_TRIES):
            clip = draw(row)
            try:
                pixels, motion = self._read(clip)
                if self.config.motion.subtract_camera and self.motion_source is not None:
                    motion = subtract_camera(motion)
            except Exception as error:  # any input may be bad in any way; the reason is reported
                first_reason = first_reason or reason_of(error)
                row = int(rows.integers(len(self.manifest)))
            else:
                return self._arrays(clip, index, pixels, motion, first_reason)
        return self._blank(draw(index), f"{first_reason}; {STAND_IN_TRIES} stand-ins are bad too")

    def _read(self, clip: ClipDraw) -> tuple[NDArray[np.uint8], MotionField]:
        video = self.manifest[clip.index]
        if self.encoded:
            found = len(index_frames(video.path).pts)
            if found != video.num_frames:
                raise _changed(video, f"{found} frames instead of {video.num_frames}")
            encoded = np.fromfile(video.path, dtype=np.uint8)
            return encoded, self._read_motion(video, clip.frames)
        if self.source_for(video) == "codec":
            pixels, motion = read_clip(video.path, clip.frames)  # one decoding pass for both
        else:
            pixels = read_frames(video.path, clip.frames)
            motion = self._read_motion(video, clip.frames)
        if pixels.shape[1:3] != (video.height, video.width):
            raise _changed(video, f"frames are {pixels.shape[2]}x{pixels.shape[1]}")
        return pixels, motion

    def source_for(self, video: Video) -> str | None:
        """Which source gives this video's motion, if any."""
        if self.motion_source == "codec" and video.codec not in CODECS_WITH_VECTORS:
            fallback = self.config.motion.without_vectors
            return None if fallback in ("error", "ignore") else fallback
        return self.motion_source

    def _read_motion(self, video: Video, frames: NDArray[np.int64]) -> MotionField:
        source = self.source_for(video)
        if source is None:
            return no_motion(len(frames), video.width, video.height)
        return MOTION_SOURCES[source](video.path, frames, self.config.data.motion_store)

    def _arrays(
        self,
        clip: ClipDraw,
        index: int,
        pixels: NDArray[np.uint8],
        motion: MotionField,
        reason: str,
    ) -> tuple[NDArray[Any], ...]:
        crop, size = clip.crop, self.config.model.image_size
        left, right = (crop.right, crop.left) if crop.flip else (crop.left, crop.right)
        sign = -1 if crop.flip else 1
        label = int(self.manifest.labels[clip.index])
        facts = (label, index, clip.view, clip.seed, int(bool(reason)))
        text = np.zeros(REASON_BYTES, np.uint8)
        encoded = reason.encode(errors="replace")[:REASON_BYTES]
        text[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        arrays: dict[str, NDArray[Any]] = {
            "pixels": pixels,
            "frames": clip.frames.astype(np.int32),
            "motion": motion.vectors,
            "motion_valid": motion.valid.astype(np.uint8),
            "box_start": np.array((crop.top, left), np.float32),
            "box_end": np.array((crop.bottom, right), np.float32),
            "motion_scale": np.array(
                (sign * size / crop.width / QUARTER_PELS, size / crop.height / QUARTER_PELS),
                np.float32,
            ),
            "facts": np.array(facts, np.int64),
            "reason": text,
        }
        return tuple(arrays[name] for name in self.outputs)

    def _blank(self, clip: ClipDraw, reason: str) -> tuple[NDArray[Any], ...]:
        """A black clip, so that the batch has its shape while the loader stops the run.

        A decoder on the GPU cannot be given one: it will refuse the empty file, and say so.
        """
        video = self.manifest[clip.index]
        shape = (len(clip.frames), video.height, video.width, 3)
        pixels = np.zeros((1,) if self.encoded else shape, np.uint8)
        motion = no_motion(len(clip.frames), video.width, video.height)
        return self._arrays(clip, clip.index, pixels, motion, reason)

    def _settle_in_worker(self) -> None:
        """Ties a worker process to its parent: DALI's workers outlive a killed trainer."""
        if not self._settled and multiprocessing.parent_process() is not None:
            leave_with_parent()
        self._settled = True


def _mask_seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)  # int64 holds 63 bits


def _changed(video: Video, found: str) -> VideoError:
    return VideoError(video.path, f"has changed since it was indexed: {found}; index it again")
