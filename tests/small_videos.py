"""Data sets for the tests of lists and stores: small files, every one different."""

import shutil
from pathlib import Path
from typing import Any

from videos import Clip

from mgm_dali.motion import MotionField
from mgm_dali.motion.records import encode_field
from mgm_dali.motion.store import MotionStoreWriter
from mgm_dali.video.manifest import Manifest, Video, read_manifest, write_manifest
from mgm_dali.video.reader import probe

__all__ = ["NUM_FRAMES", "keep", "manifest_of", "write_video"]

NUM_FRAMES = 20


def write_video(path: Path, number: int = 0, **changes: Any) -> Path:
    """The file of 64x64 pixels with this number; `changes` are fields of `Clip`."""
    facts: dict[str, Any] = {"width": 64, "height": 64, "num_frames": NUM_FRAMES}
    facts |= {"start": (8, 8), "velocity": (0, 0), "pan": (number, 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Clip(**{**facts, **changes}).path(), path)
    return path


def manifest_of(path: Path, videos: list[Path]) -> Manifest:
    """A manifest of these files, written and read again."""
    rows = [Video(path=video, label=None, **vars(probe(video))) for video in videos]
    write_manifest(path, rows, ())
    return read_manifest(path)


def keep(writer: MotionStoreWriter, key: bytes, field: MotionField) -> None:
    """The field into the store that is being written."""
    writer.add_record(key, encode_field(key, field))
