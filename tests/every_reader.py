"""Reads a file in every way that there is: to be run in a worker process that the file may kill."""

import contextlib
import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from mgm_dali.motion import MotionField, block_matching, read_clip, read_motion
from mgm_dali.motion.codec import iter_vectors
from mgm_dali.motion.field import grid_size
from mgm_dali.video.reader import VideoError, VideoFacts, probe, read_frames

__all__ = ["Reading", "peak_megabytes", "read_in_every_way"]


@dataclass(frozen=True)
class Reading:
    """What became of a file."""

    facts: VideoFacts | None
    """None if it is no video that can be used."""
    outcome: str
    """What was found, or why it cannot be used."""
    digest: str
    """Of all pixels and vectors that were read."""
    peak_megabytes: float
    """Most memory that the process held while it read the file."""


def read_in_every_way(path: Path) -> Reading:
    """Whatever the file holds, each reader gives what it promises or raises `VideoError`."""
    _forget_peak()
    facts, outcome, digest = None, "", blake2b(digest_size=8)
    try:
        facts = probe(path)
        outcome = f"{facts.num_frames} frames of {facts.codec}"
        numbers = sorted({0, facts.num_frames // 2, facts.num_frames - 1})
    except VideoError as error:
        outcome, numbers = error.reason, [0, 1, 3]
    assert outcome and "\n" not in outcome
    with contextlib.suppress(VideoError):
        pixels, field = read_clip(path, numbers)
        assert pixels.dtype == np.uint8 and pixels.shape[0] == len(numbers)
        check_field(field, len(numbers), pixels.shape[2], pixels.shape[1])
        digest.update(pixels)
        assert read_frames(path, numbers).shape == pixels.shape
        if facts is not None:
            assert pixels.shape == (len(numbers), facts.height, facts.width, 3)
    for read in (read_motion, block_matching.read_motion):
        with contextlib.suppress(VideoError):
            field = read(path, numbers)
            check_field_of(facts, field, len(numbers))
    with contextlib.suppress(VideoError):
        field = read_motion(path)
        assert facts is None or len(field.valid) <= facts.num_frames
        check_field_of(facts, field, len(field.valid))
        digest.update(field.vectors)
    with contextlib.suppress(VideoError):
        for number, vectors in iter_vectors(path):
            assert number >= 0 and (facts is None or number < facts.num_frames)
            assert vectors is None or (vectors["w"] > 0).all()
    return Reading(facts, outcome, digest.hexdigest(), peak_megabytes())


def check_field_of(facts: VideoFacts | None, field: MotionField, num_frames: int) -> None:
    """Holds a field against the size that `probe` has told, if it has."""
    if facts is not None:
        check_field(field, num_frames, facts.width, facts.height)


def check_field(field: MotionField, num_frames: int, width: int, height: int) -> None:
    """One vector per 8x8 pixels of each frame, finite, and none where there is none."""
    columns, rows = grid_size(width, height)
    assert field.vectors.shape == (num_frames, rows, columns, 2)
    assert field.valid.shape == (num_frames,)
    assert field.known.shape == (num_frames, rows, columns)
    assert np.isfinite(field.pixels()).all()
    assert not field.known[~field.valid].any() and not field.vectors[~field.known].any()


def peak_megabytes() -> float:
    """Most memory that this process has held since `_forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # where it cannot be forgotten it only grows
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
