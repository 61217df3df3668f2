"""What DALI's external source delivers: one video's frames and motion, and the clips cut from it.

A sample is one decoding. The feed looks up which video is due, draws frames and crops, and reads
pixels and motion vectors with PyAV. This module and all it imports are free of torch, because every
worker process imports it.

No exception leaves the feed. What cannot be read is replaced by another video of the same manifest,
chosen by the clip's own draw, and the reason travels with the sample. A file on which the process
crashes or hangs is refused after that (`pool.py`), and has a stand-in too.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgm_dali.clips.crops import Crop
from mgm_dali.clips.draw import Decoding, training_decoding, view_decoding
from mgm_dali.clips.order import first_sample, shuffled_video, view_of_video
from mgm_dali.config import RunConfig
from mgm_dali.motion import MOTION_SOURCES, MotionField, read_clip
from mgm_dali.motion.accumulate import accumulate, window_frames
from mgm_dali.motion.camera import subtract_camera
from mgm_dali.motion.codec import CODECS_WITH_VECTORS
from mgm_dali.motion.field import QUARTER_PELS, no_motion
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.video.frame_index import FrameIndex, index_of
from mgm_dali.video.manifest import Manifest, Video
from mgm_dali.video.reader import VideoError, read_frames
from mgm_dali.video.window import Window
from mgm_dali.video.workers import reason_of

__all__ = ["BLANK", "NO_FILE", "OUTPUTS", "REASON_BYTES", "ClipFeed", "reason_bytes", "reason_text"]

OUTPUTS = (  # of T frames, from which R clips are cut, changed by RandAugment in L layers
    "pixels",  # uint8 [T, h, w, 3] what the clips show of the frames, or the file's bytes for NVDEC
    "origin",  # float32 [2] (top, left) of that in the source
    "frames",  # int32 [T] frame numbers, for NVDEC only
    "motion",  # int16 [T, ceil(H/8), ceil(W/8), 2] quarter pixels
    "motion_known",  # uint8 [T, ceil(H/8), ceil(W/8), 1]
    "motion_valid",  # uint8 [T]
    "box_start",  # float32 [R, 2] (top, left) in source pixels; left and right swapped if mirrored
    "box_end",  # float32 [R, 2] (bottom, right)
    "motion_scale",  # float32 [R, 2] quarter source to crop pixels, negative dx if mirrored
    "operations",  # int32 [R, L] of RandAugment; only where it is on
    "levels",  # int32 [R, L]
    "facts",  # int64 [R, 9] label, row, view, seed, one of the states below, box_start, box_end
    "reason",  # uint8 [REASON_BYTES] why it is one, UTF-8, filled up with zeros
)
REASON_BYTES = 256
AS_ASKED, STAND_IN, BLANK = 0, 1, 2
"""States of a clip: the one that was asked for, another in its place, or nothing but black."""
STAND_IN_TRIES = 16
NO_FILE = np.zeros(1, np.uint8)
"""What a decoder in the graph gets where there is nothing to decode."""


class ClipFeed:
    """The samples of one process; pickled once to each of its workers."""

    def __init__(
        self,
        manifest: Manifest,
        config: RunConfig,
        stage: Stage,
        share: Share,
        *,
        motion_source: str | None = None,
        encoded: bool = False,
    ) -> None:
        """`motion_source` is a name of MOTION_SOURCES, or None where nobody looks at motion.

        `encoded` delivers the file's bytes, for a decoder in the graph.
        """
        self.manifest = manifest
        self.config = config
        self.stage = stage
        self.share = share
        self.motion_source = motion_source
        self.encoded = encoded
        self.repeats = 1 if stage == "evaluate" else config.augment.repeats
        """Clips that are cut out of one decoding."""
        self.layers = config.augment.rand_augment.layers if stage == "finetune" else 0
        """Of RandAugment."""
        self.refused: dict[int, str] = {}
        """Rows that must not be read, and why: their files have ended a process, or a decoder in
        the graph refuses them. Shared by all that comes of this feed in this process."""
        self.reading: Callable[[int], object] | None = None
        """Is told of each row before its file is opened."""

    def at(self, forward: int) -> "ClipFeed":
        """The same feed, beginning at another forward pass; what one refuses, so does the other."""
        other = copy.copy(self)
        other.share = dataclasses.replace(self.share, first_forward=forward)
        return other

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what a call returns, in order."""
        left_out = set() if self.encoded else {"frames"}
        if not self.layers:
            left_out |= {"operations", "levels"}
        return tuple(name for name in OUTPUTS if name not in left_out)

    @property
    def decodings_per_batch(self) -> int:
        """Samples of this feed that make one batch."""
        return self.share.batch_size // self.repeats

    @property
    def num_samples(self) -> int:
        """Views to judge, or decodings of an epoch."""
        views = self.config.evaluation.num_segments * self.config.evaluation.num_crops
        return len(self.manifest) * (views if self.stage == "evaluate" else 1)

    @property
    def num_places(self) -> int | None:
        """How many decodings this process has before it, whole batches; None has no end."""
        if self.stage != "evaluate":
            return None
        # The last batches of all ranks end together, so that no rank waits for another.
        batches = -(-self.num_samples // self.share.global_batch) - self.share.first_forward
        return max(batches, 0) * self.decodings_per_batch

    def number_of(self, place: int) -> int:
        """Which sample is the place-th that this process reads."""
        share, (forwards, i) = self.share, divmod(place, self.decodings_per_batch)
        forward = share.first_forward + forwards
        start = first_sample(forward, self.decodings_per_batch, share.rank, share.world_size)
        return start + i

    def video_due(self, number: int) -> tuple[int, int]:
        """(epoch, manifest row) of a training sample."""
        return shuffled_video(number, len(self.manifest), self.config.seed)

    def decoding(self, number: int) -> Decoding:
        """What is read for a training sample, if its video can be."""
        epoch, row = self.video_due(number)
        return training_decoding(self.config, self.manifest[row], row, row, epoch)

    def sample(self, number: int) -> tuple[NDArray[Any], ...]:
        """The `outputs` of a sample: a pure function of its number and of the files."""
        if self.stage == "evaluate":
            return self._evaluation_sample(number)
        return self._training_sample(number)

    def _training_sample(self, number: int) -> tuple[NDArray[Any], ...]:
        """The sample of that number in the endless row of shuffled epochs."""
        config = self.config
        epoch, asked = self.video_due(number)
        return self._readable(
            asked,
            np.random.SeedSequence((config.seed, epoch, asked)),
            lambda row: training_decoding(config, self.manifest[row], row, asked, epoch),
        )

    def _evaluation_sample(self, number: int) -> tuple[NDArray[Any], ...]:
        """View after view of video after video; behind the last, fillers with row -1."""
        config, views = self.config, self.config.evaluation
        row, view = view_of_video(number % self.num_samples, views.num_segments * views.num_crops)
        arrays = self._readable(
            row,
            np.random.SeedSequence((config.seed, row)),
            lambda row: view_decoding(config, self.manifest[row], row, view),
        )
        if number >= self.num_samples:
            arrays[self.outputs.index("facts")][:, 1] = -1
        return arrays

    def source_for(self, video: Video) -> str | None:
        """Which source gives this video's motion, if any."""
        if self.motion_source == "codec" and video.codec not in CODECS_WITH_VECTORS:
            fallback = self.config.motion.without_vectors
            return None if fallback in ("error", "ignore") else fallback
        return self.motion_source

    def _readable(
        self,
        asked: int,
        draw: np.random.SeedSequence,
        decoding_of: Callable[[int], Decoding],
    ) -> tuple[NDArray[Any], ...]:
        """The clips of row `asked`, or of the first stand-in for it that can be read."""
        stand_ins = np.random.default_rng(draw)
        row, first_reason = asked, ""
        for _ in range(STAND_IN_TRIES):
            try:
                decoding = decoding_of(row)
                pixels, motion = self._read_unless_refused(decoding)
            except Exception as error:  # any input may be bad in any way; the reason is reported
                first_reason = first_reason or reason_of(error)
                row = int(stand_ins.integers(len(self.manifest)))
            else:
                state = STAND_IN if first_reason else AS_ASKED
                return self._arrays(decoding, asked, pixels, motion, (state, first_reason))
        reason = f"{first_reason}; {STAND_IN_TRIES - 1} stand-ins are bad too"
        return self._blank(decoding_of(asked), reason)

    def _read_unless_refused(self, decoding: Decoding) -> tuple[NDArray[np.uint8], MotionField]:
        row = decoding.row
        if row in self.refused:
            raise VideoError(self.manifest[row].path, self.refused[row])
        if self.reading is not None:
            self.reading(row)
        return self.read(decoding)

    def read(self, decoding: Decoding) -> tuple[NDArray[np.uint8], MotionField]:
        """The frames of a decoding, uint8 `[T, h, w, 3]` or the file's bytes, and their motion.

        Raises `VideoError` or whatever else a bad file makes libraries raise.
        """
        video = self.manifest[decoding.row]
        if self.encoded:
            if _require_as_indexed(video).ordinal:
                raise VideoError(
                    video.path,
                    "its frames can only be counted, and NVDEC would number them otherwise; set "
                    "decode=cpu, or make H.264 in MP4 of it with `mgm-dali prepare`",
                )
            encoded = np.fromfile(video.path, dtype=np.uint8)
            return encoded, self.read_motion(video, decoding.frames)
        frames, window = decoding.frames, self.window(decoding)
        if self.source_for(video) == "codec":  # one pass for both
            numbers = self._motion_frames(frames)
            pixels, motion = read_clip(video.path, frames, window=window, motion_frames=numbers)
            motion = self._as_configured(motion, frames)
        else:
            pixels = read_frames(video.path, frames, window=window)
            motion = self.read_motion(video, frames)
        _require_as_indexed(video)
        return pixels, motion

    def window(self, decoding: Decoding) -> Window:
        """The part of the frames that is read: what the clips show, unless more is looked at.

        RandAugment turns and moves whole frames, and looks at all of them for their contrast.
        """
        video = self.manifest[decoding.row]
        if self.layers or self.encoded:
            return Window(0, 0, video.height, video.width, (video.height, video.width))
        crops = [cut.crop for cut in decoding.cuts]
        return Window(
            min(crop.top for crop in crops),
            min(crop.left for crop in crops),
            max(crop.bottom for crop in crops),
            max(crop.right for crop in crops),
            (video.height, video.width),
        )

    def read_motion(self, video: Video, frames: NDArray[np.int64]) -> MotionField:
        """The motion of a clip's frames, read apart from their pixels."""
        source = self.source_for(video)
        if source is None:
            return no_motion(len(frames), video.width, video.height)
        numbers, store = self._motion_frames(frames), self.config.data.motion_store
        return self._as_configured(MOTION_SOURCES[source](video.path, numbers, store), frames)

    def _motion_frames(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """The frames whose vectors are read for the motion of a clip's frames."""
        return window_frames(frames) if self.config.accumulates_motion else frames

    def _as_configured(self, motion: MotionField, frames: NDArray[np.int64]) -> MotionField:
        """The motion of a clip's frames, from that of `_motion_frames`."""
        if self.config.accumulates_motion:
            motion = accumulate(motion, self._motion_frames(frames), frames)
        return subtract_camera(motion) if self.config.motion.subtract_camera else motion

    def _arrays(
        self,
        decoding: Decoding,
        asked: int,
        pixels: NDArray[np.uint8],
        motion: MotionField,
        outcome: tuple[int, str],
    ) -> tuple[NDArray[Any], ...]:
        (state, reason), size = outcome, self.config.model.image_size
        cuts = decoding.cuts
        boxes = np.array([_box(cut.crop) for cut in cuts], np.float32)  # [R, start or end, 2]
        label = int(self.manifest.labels[decoding.row])
        facts = [(label, asked, cut.view, cut.seed, state, *chain(*_box(cut.crop))) for cut in cuts]
        arrays: dict[str, NDArray[Any]] = {
            "pixels": pixels,
            "origin": np.array(self.window(decoding)[:2], np.float32),
            "frames": decoding.frames.astype(np.int32),
            "motion": motion.vectors,
            "motion_known": motion.known[..., None].view(np.uint8),
            "motion_valid": motion.valid.view(np.uint8),
            "box_start": np.ascontiguousarray(boxes[:, 0]),
            "box_end": np.ascontiguousarray(boxes[:, 1]),
            "motion_scale": np.array([_motion_scale(cut.crop, size) for cut in cuts], np.float32),
            "operations": np.stack([cut.operations for cut in cuts]),
            "levels": np.stack([cut.levels for cut in cuts]),
            "facts": np.array(facts, np.int64),
            "reason": reason_bytes(reason),
        }
        return tuple(arrays[name] for name in self.outputs)

    def _blank(self, decoding: Decoding, reason: str) -> tuple[NDArray[Any], ...]:
        """Black clips, so that the batch has its shape; the loader stops a training run.

        A decoder in the graph cannot be given one: it will refuse what it gets, and say so.
        """
        video = self.manifest[decoding.row]
        shape = (len(decoding.frames), video.height, video.width, 3)
        pixels = NO_FILE if self.encoded else np.zeros(shape, np.uint8)
        motion = no_motion(len(decoding.frames), video.width, video.height)
        return self._arrays(decoding, decoding.row, pixels, motion, (BLANK, reason))


def reason_text(reason: Sequence[int]) -> str:
    """What the bytes of the output "reason" say."""
    return bytes(reason).rstrip(b"\0").decode(errors="replace")


def reason_bytes(reason: str) -> NDArray[np.uint8]:
    """The output "reason", uint8 `[REASON_BYTES]`: as much of it as fits."""
    text = np.zeros(REASON_BYTES, np.uint8)
    encoded = reason.encode(errors="replace")[:REASON_BYTES]
    text[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    return text


def _box(crop: Crop) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where a crop starts and ends, (y, x); from right to left if it is mirrored."""
    left, right = (crop.right, crop.left) if crop.flip else (crop.left, crop.right)
    return (crop.top, left), (crop.bottom, right)


def _motion_scale(crop: Crop, size: int) -> tuple[float, float]:
    """(x, y) factors from quarter pixels of the source to pixels of the clip."""
    along_x, along_y = size / crop.width / QUARTER_PELS, size / crop.height / QUARTER_PELS
    return (-along_x if crop.flip else along_x), along_y


def _require_as_indexed(video: Video) -> FrameIndex:
    """Raises `VideoError` if a file has not the frames that the manifest promises."""
    index = index_of(video.path)  # remembered: costs next to nothing
    if not index.ordinal and len(index.pts) != video.num_frames:
        raise VideoError(
            video.path,
            f"has changed since it was indexed: {len(index.pts)} frames instead of "
            f"{video.num_frames}; index it again",
        )
    return index
