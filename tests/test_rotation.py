"""Rotation tags: nobody turns the picture, so that pixels and motion lie on each other."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from videos import Clip, frames_of_dali, shared

from mgm_dali.motion import block_matching, read_clip, read_motion
from mgm_dali.motion.field import grid_size
from mgm_dali.video.reader import probe, read_frames

MATRICES = {
    "clockwise": ((0, 1, -1, 0), -90),
    "upside down": ((-1, 0, 0, -1), -180),
    "counter-clockwise": ((0, -1, 1, 0), 90),
    "mirrored and turned": ((0, 1, 1, 0), -90),
}
"""How a player shall turn the picture: the matrix (a, b, c, d), and what libavutil calls it."""

CLIPS = {
    "h264": Clip(num_frames=8),
    "mpeg4": Clip(encoder="mpeg4", num_frames=8),
    "vp9": Clip(encoder="libvpx-vp9", num_frames=8),
    "mjpeg": Clip(encoder="mjpeg", pixel_format="yuvj420p", num_frames=8),
}


def write_rotated(path: Path, clip: Clip, matrix: tuple[int, int, int, int]) -> Path:
    """The clip with another display matrix in the header of its track (tkhd)."""
    data = bytearray(clip.path().read_bytes())
    one = 1 << 16
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    start = data.index(upright, data.index(b"tkhd"))
    a, b, c, d = (one * value for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def rotation_of(path: Path) -> int:
    """Degrees counter-clockwise, as libavutil reads the tag."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).rotation


@pytest.mark.parametrize("turn", MATRICES)
@pytest.mark.parametrize("kind", CLIPS)
def test_a_rotated_video_is_read_as_it_is_coded(kind: str, turn: str, tmp_path: Path) -> None:
    clip = CLIPS[kind]
    matrix, degrees = MATRICES[turn]
    path = write_rotated(tmp_path / "rotated.mp4", clip, matrix)
    assert rotation_of(path) == degrees != rotation_of(clip.path()) == 0
    assert probe(path) == probe(clip.path())
    numbers = range(clip.num_frames)
    upright, upright_motion = read_clip(clip.path(), numbers)
    pixels, motion = read_clip(path, numbers)
    assert np.array_equal(pixels, upright)
    assert np.array_equal(motion.vectors, upright_motion.vectors)
    by_blocks = block_matching.read_motion(path).vectors
    assert np.array_equal(by_blocks, block_matching.read_motion(clip.path()).vectors)


@pytest.mark.parametrize("turn", MATRICES)
@pytest.mark.parametrize("kind", ["vp9", "mjpeg"])
def test_dali_does_not_turn_the_picture_either(kind: str, turn: str, tmp_path: Path) -> None:
    path = write_rotated(tmp_path / "rotated.mp4", CLIPS[kind], MATRICES[turn][0])
    theirs = frames_of_dali(path)
    assert theirs.shape == (8, 112, 160, 3)
    assert np.array_equal(theirs, read_frames(path, range(8)))


def test_all_readers_agree_on_the_size_of_files_from_phones() -> None:
    rotated = 0
    for path in sorted(shared("hostile/rotation").iterdir()):
        facts = probe(path)
        with av.open(str(path)) as container:
            coded = container.streams.video[0].codec_context
            assert (facts.width, facts.height) == (coded.width, coded.height), path
        rotated += rotation_of(path) != 0
        columns, rows = grid_size(facts.width, facts.height)
        pixels, motion = read_clip(path, [1])
        assert pixels.shape == (1, facts.height, facts.width, 3)
        for field in (motion, read_motion(path, [1]), block_matching.read_motion(path, [1])):
            assert field.vectors.shape == (1, rows, columns, 2)
    assert rotated >= 8
