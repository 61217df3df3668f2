"""What loaders are measured with: the clips that all of them show, and a feed that decodes nothing.

Torch-free, as worker processes import this module.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgm_dali.clips.draw import Decoding, training_decoding
from mgm_dali.clips.order import shuffled_video
from mgm_dali.config import RunConfig
from mgm_dali.motion import MotionField
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.video.manifest import Manifest

__all__ = ["RememberingFeed", "planned_clips"]

NUM_REMEMBERED = 8
"""Clips that a worker process hands over in turn: more than its part of the caches holds."""


def planned_clips(manifest: Manifest, config: RunConfig, num_clips: int) -> list[dict[str, Any]]:
    """The first clips that our loader shows by this config, for others to show the same.

    Each has its manifest row, path, frame numbers and box (top, left, height, width) in pixels.
    """
    clips = []
    for sample in range(num_clips):
        epoch, row = shuffled_video(sample, len(manifest), config.seed)
        video = manifest[row]
        decoding = training_decoding(config, video, row, row, epoch)
        crop = decoding.cuts[0].crop
        clips.append(
            {
                "row": row,
                "path": str(video.path),
                "frames": decoding.frames.tolist(),
                "box": [round(side) for side in (crop.top, crop.left, crop.height, crop.width)],
            }
        )
    return clips


class RememberingFeed(ClipFeed):
    """Reads a few clips and hands those over again and again."""

    _remembered: tuple[tuple[NDArray[np.uint8], MotionField], ...] = ()
    _next = 0

    def _read(self, decoding: Decoding) -> tuple[NDArray[np.uint8], MotionField]:
        if len(self._remembered) < NUM_REMEMBERED:
            self._remembered += (super()._read(decoding),)
        self._next += 1
        return self._remembered[self._next % len(self._remembered)]
