"""Whether a video carries motion vectors at all: mostly its first frames tell.

I P B B P ...      look at 4 frames: a vector, done
I I I I I ...      none, and every packet is a key frame: done
I I I I I P ...    none: look at all
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mgm_dali.motion.codec import CODECS_WITH_VECTORS, read_motion
from mgm_dali.video.frame_index import index_of
from mgm_dali.video.manifest import Manifest
from mgm_dali.video.opening import VideoError

__all__ = ["carries_vectors", "rows_without_vectors"]

FIRST_FRAMES = range(4)
"""Of every group of pictures we have met, one of these is predicted and says how it moved."""


def rows_without_vectors(manifest: Manifest) -> dict[str, NDArray[np.intp]]:
    """Rows of videos whose codec gives no vectors, by the codec; those of others are not there."""
    rows = {
        codec: np.flatnonzero(manifest.codecs == place)
        for place, codec in enumerate(manifest.codec_names)
        if codec not in CODECS_WITH_VECTORS
    }
    return {codec: its_rows for codec, its_rows in rows.items() if len(its_rows)}


def carries_vectors(path: Path) -> bool:
    """Whether any frame has motion vectors, as `mgm_dali.motion.codec.read_motion` counts them.

    Costs a fifth of what `probe` does, but a whole decoding where vectors are late or missing.
    Raises `VideoError` if nothing can be decoded.
    """
    index = index_of(path)
    if index.codec not in CODECS_WITH_VECTORS:
        return False
    try:
        if read_motion(path, FIRST_FRAMES).valid.any():
            return True
    except VideoError:  # it has fewer frames, or one of these is broken
        pass
    else:
        if not index.ordinal and len(index.key_pts) >= len(index.pts):
            return False
    return bool(read_motion(path).valid.any())
