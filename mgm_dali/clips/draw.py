"""All that is random about the clips of one decoding: a pure function of who they are.

A decoding is one reading of one video's frames. While training, `augment.repeats` clips are cut out
of it, each with a crop and changes of its own; clip number r follows from
`SeedSequence((seed, epoch, row, r))`, the frames of all from that of clip 0. So no clip depends on
workers, ranks, batches or the moment, and clip 0 is the same however many there are. A video that
stands in for another is drawn from by the other's row, so it does not show what it shows by itself.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgm_dali.clips.crops import Crop, random_crop, view_crop, whole_frame
from mgm_dali.clips.rand_augment import draw_layers
from mgm_dali.clips.sampling import frames_around, random_frames, view_frames
from mgm_dali.config import RunConfig
from mgm_dali.video.manifest import Video

__all__ = ["Cut", "Decoding", "training_decoding", "view_decoding"]


@dataclass(frozen=True)
class Cut:
    """One clip, cut out of the frames of a decoding."""

    view: int
    """Number of the repeat while training, of the test view while judging."""
    seed: int
    """63 bits, from which mask and noise follow."""
    crop: Crop
    operations: NDArray[np.int32]
    """`[layers]`, what RandAugment does to it (`mgm_dali.clips.rand_augment`)."""
    levels: NDArray[np.int32]
    """`[layers]`, and how strongly."""


@dataclass(frozen=True)
class Decoding:
    """Frames of one video, and the clips that are cut out of them."""

    row: int
    """Of the manifest."""
    frames: NDArray[np.int64]
    """`[T]`."""
    cuts: tuple[Cut, ...]


def training_decoding(
    config: RunConfig, video: Video, row: int, asked: int, epoch: int
) -> Decoding:
    """The clips that an epoch shows of a video: `augment.repeats`, the same frames in all.

    `asked` is the row whose turn it is; `row`, the video's own, is another if it stands in.
    """
    augment = config.augment
    frames, cuts = [], []
    for repeat in range(augment.repeats):
        root = np.random.SeedSequence((config.seed, epoch, asked, repeat))
        for_clip, for_mask = root.spawn(2)
        rng = np.random.default_rng(for_clip)
        frames.append(_random_frames(config, video, rng))
        crop = random_crop(augment, video.height, video.width, config.model.image_size, rng)
        changes = draw_layers(augment.rand_augment, rng)
        cuts.append(Cut(repeat, _seed(for_mask), crop, *changes))
    return Decoding(row, frames[0], tuple(cuts))


def view_decoding(config: RunConfig, video: Video, row: int, view: int) -> Decoding:
    """Test view `view` of `num_segments * num_crops`: crop after crop of segment after segment."""
    views = config.evaluation
    length = config.model.num_frames, video.num_frames, video.fps
    if video.keyframe is not None:  # there is no view but this
        frames = frames_around(config.clip, *length, video.keyframe)
        crop = whole_frame(video.height, video.width)
    else:
        segment, place = divmod(view, views.num_crops)
        frames = view_frames(config.clip, *length, segment, views.num_segments)
        crop = view_crop(video.height, video.width, place, views.num_crops)
    seed = _seed(np.random.SeedSequence((config.seed, 0, row, view)))
    unchanged = np.empty(0, np.int32)
    return Decoding(row, frames, (Cut(view, seed, crop, unchanged, unchanged),))


def _random_frames(config: RunConfig, video: Video, rng: np.random.Generator) -> NDArray[np.int64]:
    length = config.model.num_frames, video.num_frames, video.fps
    if video.keyframe is not None:
        return frames_around(config.clip, *length, video.keyframe)
    return random_frames(config.clip, *length, rng)


def _seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)  # int64 holds 63 bits
