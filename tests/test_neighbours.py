"""Each frame is compared with the one before it, and with no other."""

import weakref
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from videos import CLIPS

from mgm_dali.motion import neighbours
from mgm_dali.motion.field import Grid
from mgm_dali.video.reader import VideoError, decode_all_frames, read_frames
from mgm_dali.video.rgb import RgbConverter

KINDS = ["h264", "h264 with B-frames and references", "h264 in avi", "vp9", "mpeg4 with B-frames"]


class Picture:
    """A frame's pixels, counted while they live."""

    alive: ClassVar["weakref.WeakSet[Picture]"] = weakref.WeakSet()
    made: ClassVar[int] = 0

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        Picture.made += 1
        Picture.alive.add(self)


@pytest.mark.parametrize("pairs_at_once", [1, 4, 100])
@pytest.mark.parametrize("frames", [None, [0], [9], [7, 3, 3, 4, 0, 22], list(range(24))])
@pytest.mark.parametrize("kind", KINDS)
def test_every_wanted_frame_is_compared_with_the_one_before_it(
    kind: str, frames: list[int] | None, pairs_at_once: int
) -> None:
    path = CLIPS[kind].path()
    images = read_frames(path, range(24))
    number_of = {image.tobytes(): number for number, image in enumerate(images)}
    compared: list[int] = []
    most_alive = 0
    Picture.made = 0

    def compare(pairs: Sequence[tuple[Picture, Picture]]) -> list[Grid]:
        nonlocal most_alive
        most_alive = max(most_alive, len(Picture.alive))
        assert 1 <= len(pairs) <= pairs_at_once
        past, present = (
            [number_of[p.pixels.tobytes()] for p in side] for side in zip(*pairs, strict=True)
        )
        assert [number - 1 for number in present] == past
        compared.extend(present)
        return [grid_of(number) for number in present]

    to_rgb = RgbConverter(path)
    field = neighbours.read_since_frame_before(
        path,
        frames,
        prepare=lambda frame: Picture(to_rgb(frame)),
        compare=compare,
        pairs_at_once=pairs_at_once,
    )
    asked = list(range(24)) if frames is None else frames
    wanted = sorted(set(asked) - {0})
    assert compared == wanted
    assert Picture.made == len({*asked} | {number - 1 for number in wanted})
    assert most_alive <= 2 * pairs_at_once
    assert field.valid.tolist() == [number > 0 for number in asked]
    assert field.vectors[:, 0, 0, 0].tolist() == asked


def grid_of(number: int) -> Grid:
    return np.full((14, 20, 2), number, np.int16), np.ones((14, 20), np.bool_)


def test_a_frame_whose_predecessor_does_not_decode_is_not_valid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = [pair for pair in decode_all_frames(CLIPS["h264"].path()) if pair[0] != 5]
    monkeypatch.setattr(neighbours, "decode_all_frames", lambda _path: iter(decoded))
    field = neighbours.read_since_frame_before(
        "x.mp4",
        None,
        prepare=lambda frame: frame,
        compare=lambda pairs: [grid_of(1) for _ in pairs],
    )
    assert np.flatnonzero(~field.valid).tolist() == [0, 5, 6]


def test_a_video_without_a_frame_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "decode_all_frames", lambda _path: iter(()))
    with pytest.raises(VideoError, match="no frame of it can be decoded"):
        neighbours.read_since_frame_before(
            "x.mp4", None, prepare=lambda frame: frame, compare=lambda _pairs: []
        )
