"""How the motion of a whole video is made: from which source, and what where it finds none."""

import math
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from mgm_dali.errors import UserError
from mgm_dali.motion import MOTION_SOURCES, MotionField, dis_flow, optical_flow, raft
from mgm_dali.motion.codec import CODECS_WITH_VECTORS
from mgm_dali.motion.field import grid_size, no_motion
from mgm_dali.motion.presence import rows_without_vectors
from mgm_dali.video.manifest import Manifest, Video
from mgm_dali.video.opening import VideoError

__all__ = ["Recipe", "make_field", "require_source", "require_vectors", "seconds_allowed"]

WITHOUT_VECTORS = ("error", "block_matching", "dis_flow", "ignore")
NETWORKS = ("raft",)
"""Sources that need a file of weights."""

TIMEOUT_SECONDS = 60.0
PIXELS_PER_SECOND = {"raft": 3e4}
OTHER_PIXELS_PER_SECOND = 1e6
CELL_BYTES = 5
"""In memory: two components of a vector, and whether the cell is known."""
MAX_FIELD_BYTES = 2 << 30
"""Of each worker, which needs twice as much for a moment: three hours of 340x256 at 30 frames a
second, seven minutes of 1080p."""


@dataclass(frozen=True)
class Recipe:
    """One choice for all videos of a store, so that their fields can be compared.

    Raises `UserError` if the choices are unknown or do not go together.
    """

    source: str = "codec"
    """A name of `MOTION_SOURCES`, but not the store itself."""
    without_vectors: str = "error"
    """Where the codec left no vectors: `error` refuses the video, `ignore` keeps a field in which
    nothing is valid, `block_matching` and `dis_flow` estimate its motion."""
    weights: Path | None = None
    """Of the network, for the source `raft`."""

    def __post_init__(self) -> None:
        sources = sorted(MOTION_SOURCES.keys() - {"store"})
        if self.source not in sources:
            raise UserError(f"--source {self.source!r}: expected one of {', '.join(sources)}")
        if self.without_vectors not in WITHOUT_VECTORS:
            raise UserError(
                f"--without-vectors {self.without_vectors!r}: expected one of "
                f"{', '.join(WITHOUT_VECTORS)}"
            )
        if self.source != "codec" and self.without_vectors != "error":
            raise UserError(
                f"--without-vectors {self.without_vectors}: is for --source codec; {self.source} "
                "needs no vectors in the file"
            )
        if (self.source in NETWORKS) != (self.weights is not None):
            raise UserError("--weights FILE: is needed with --source raft, and with no other")

    def choices(self) -> dict[str, str]:
        """What a store remembers, so that it is never filled in two ways."""
        if self.source == "codec" and self.without_vectors != "error":
            return {"source": self.source, "without_vectors": self.without_vectors}
        if self.weights is not None:
            digest = blake2b(self.weights.read_bytes(), digest_size=8).hexdigest()
            return {"source": self.source, "weights": digest}
        return {"source": self.source}

    def require(self) -> None:
        """Raises `UserError` if this machine lacks what the sources need."""
        for source in (self.source, self.without_vectors):
            require_source(source, self.weights)


def require_source(source: str | None, weights: Path | None = None) -> None:
    """Raises `UserError` if this machine lacks what a source needs: a library, a GPU, weights."""
    if source == "dis_flow":
        dis_flow.import_opencv()
    elif source == "optical_flow":
        optical_flow.require_gpu()
    elif source == "raft" and weights is not None:
        raft.load_raft(weights)


def make_field(recipe: Recipe, video: Video) -> tuple[MotionField, bool]:
    """The motion of all frames of a video, and whether `recipe.source` itself gave it.

    Raises `VideoError` if it cannot be had, if it is too large to be held in memory, or if the file
    is not what the manifest promises.
    """
    columns, rows = grid_size(video.width, video.height)
    expected = (video.num_frames, rows, columns)
    if (field_bytes := math.prod(expected) * CELL_BYTES) > MAX_FIELD_BYTES:
        raise VideoError(
            video.path,
            f"the motion of its {video.num_frames} frames would take {field_bytes / 1e9:.1f} GB of "
            "memory; make it smaller with `mgm-dali prepare`, or cut it into shorter videos",
        )
    motion, by_source = _read(recipe, video)
    if motion.known.shape != expected:
        raise VideoError(
            video.path,
            f"its motion has the shape {motion.known.shape}, the manifest promises {expected}: "
            "the file has changed since, or its end cannot be decoded; index it again",
        )
    return motion, by_source


def seconds_allowed(source: str, video: Video) -> float:
    """How long a process may take over a video; ten times what is needed."""
    speed = PIXELS_PER_SECOND.get(source, OTHER_PIXELS_PER_SECOND)
    return TIMEOUT_SECONDS + video.num_frames * video.width * video.height / speed


def require_vectors(manifest: Manifest) -> None:
    """Raises `UserError` if the manifest names a codec that carries no vectors."""
    lacking = rows_without_vectors(manifest)
    if not lacking:
        return
    first = manifest[min(int(rows[0]) for rows in lacking.values())].path
    found = [f"{len(rows)} {codec}" for codec, rows in sorted(lacking.items())]
    raise UserError(
        f"{manifest.path}: FFmpeg gives no motion vectors of {', '.join(found)} video(s), the "
        f"first is {first}; `--without-vectors block_matching` estimates their "
        "motion, `--without-vectors ignore` leaves it out, `mgm-dali prepare` makes H.264 of them"
    )


def _read(recipe: Recipe, video: Video) -> tuple[MotionField, bool]:
    if recipe.source != "codec":
        return MOTION_SOURCES[recipe.source](video.path, None, recipe.weights), True
    if video.codec in CODECS_WITH_VECTORS:
        motion = MOTION_SOURCES["codec"](video.path, None, None)
        if motion.valid.any():
            return motion, True
    if recipe.without_vectors == "ignore":
        return no_motion(video.num_frames, video.width, video.height), False
    if recipe.without_vectors == "error":
        raise VideoError(
            video.path,
            f"none of its {video.codec} frames carries motion vectors; `--without-vectors "
            "block_matching` estimates them",
        )
    return MOTION_SOURCES[recipe.without_vectors](video.path, None, None), False
