"""A window of a picture has the pixels that the whole picture has there."""

from collections.abc import Iterator

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from videos import CLIPS, Clip, shared

from mgm_dali.motion import read_clip
from mgm_dali.video.reader import VideoError, probe, read_frames
from mgm_dali.video.rgb import RgbConverter
from mgm_dali.video.window import Window, surroundings

PLANAR = (
    "yuv420p yuvj420p yuva420p yuv420p10le yuv420p12le yuv420p16be nv12 p010le yuv422p yuvj422p "
    "yuv422p10le nv16 yuv444p yuvj444p yuv444p10le nv24 yuv440p yuv410p yuv411p yuvj411p gbrp "
    "gbrap gbrp10le gbrp16le"
).split()
PACKED = (
    "gray gray10le ya8 rgb24 bgra rgb48le rgb555le rgb565le pal8 monow yuyv422 uyvy422 yvyu422 "
    "uyyvyy411 y210le"
).split()
SIZES = [(40 + i, 56 + (step * i + 1) % 8) for step in (1, 3) for i in range(8)]
SIZES += [(3, 200), (200, 5), (6, 30), (30, 6), (1, 1), (64, 96)]

REAL_CLIPS = (
    "real/k400/R6llTwEh07w.mp4",
    "hostile/codecs/androidx_roadtrip-vp92-10bit.webm",
    "hostile/pixfmt/fate_vp9_vp93-2-20-10bit-yuv422.mp4",
    "hostile/pixfmt/meta-pytorch_testsrc2_odd_height_and_width_444_10bit.mp4",
    "hostile/odd_dims/meta-pytorch_testsrc2_odd_height_and_width_vp9.mp4",
)


def noise(rng: np.random.Generator, width: int, height: int, pixel_format: str) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pixel_format)
    frame.color_range = int(rng.integers(3))  # unknown, limited, full
    for plane in frame.planes:
        plane.update(rng.bytes(plane.buffer_size))
    return frame


def windows(rng: np.random.Generator, height: int, width: int) -> Iterator[Window]:
    """One pixel in each corner and anywhere, a strip along each border, and any two boxes."""
    for top in (0, height - 1):
        for left in (0, width - 1):
            yield Window(top, left, top + 1, left + 1)
    row, column = int(rng.integers(height)), int(rng.integers(width))
    yield Window(row, column, row + 1, column + 1)
    yield Window(0, 0, row + 1, width)
    yield Window(row, 0, height, width)
    yield Window(0, 0, height, column + 1)
    yield Window(0, column, height, width)
    for _ in range(2):
        (top, bottom), (left, right) = (
            sorted(rng.integers(n, size=2).tolist()) for n in (height, width)
        )
        yield Window(top, left, bottom + 1, right + 1)


def part(images: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    return images[..., window.top : window.bottom, window.left : window.right, :]


@pytest.mark.parametrize("pixel_format", PLANAR + PACKED)
def test_a_window_has_the_pixels_of_the_whole_picture(pixel_format: str) -> None:
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        frame = noise(rng, width, height, pixel_format)
        whole = RgbConverter("v.mp4")(frame)
        assert whole.shape == (height, width, 3)
        for window in windows(rng, height, width):
            found = RgbConverter("v.mp4", window)(frame)
            assert np.array_equal(found, part(whole, window)), (width, height, window)


def test_a_window_outlives_a_change_of_the_pixel_format() -> None:
    rng, window = np.random.default_rng(1), Window(7, 21, 30, 50)
    to_rgb = RgbConverter("v.mp4", window)
    for pixel_format in PLANAR + PACKED:
        frame = noise(rng, 72, 40, pixel_format)
        assert np.array_equal(to_rgb(frame), part(RgbConverter("v.mp4")(frame), window))


@pytest.mark.parametrize("pixel_format", PLANAR)
def test_little_more_than_the_window_is_converted(pixel_format: str) -> None:
    window = Window(500, 801, 700, 1001)
    frame = av.VideoFrame(1920, 1080, pixel_format)
    converted = surroundings(window, frame)
    assert window.lies_in(converted)
    assert converted.bottom - converted.top <= 200 + 40
    assert converted.right - converted.left <= 200 + 40


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_read_through_a_window_is_the_clip_cut_down_to_it(name: str) -> None:
    clip = CLIPS[name]
    numbers = [5, 0, 5, clip.num_frames - 1]
    window = Window(9, 18, clip.height - 11, clip.width - 1)
    whole, whole_motion = read_clip(clip.path(), numbers)
    images, motion = read_clip(clip.path(), numbers, window=window)
    assert np.array_equal(images, part(whole, window))
    assert np.array_equal(images, read_frames(clip.path(), numbers, window=window))
    assert images.flags.c_contiguous
    assert np.array_equal(motion.pixels(), whole_motion.pixels(), equal_nan=True)
    assert np.array_equal(motion.known, whole_motion.known)


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_windows_of_real_clips_are_parts_of_their_pictures(name: str) -> None:
    path = shared(name)
    numbers = range(0, probe(path).num_frames, 9)[:4]
    whole = read_frames(path, numbers)
    for window in windows(np.random.default_rng(2), *whole.shape[1:3]):
        assert np.array_equal(read_frames(path, numbers, window=window), part(whole, window))


@pytest.mark.parametrize(
    "window",
    [
        Window(-1, 0, 40, 40),
        Window(0, -1, 40, 40),
        Window(0, 0, 65, 64),
        Window(0, 0, 64, 65),
        Window(10, 10, 10, 20),
        Window(10, 20, 30, 10),
    ],
)
def test_a_window_that_is_not_in_the_picture_is_an_error(window: Window) -> None:
    path = Clip(width=64, height=64, start=(8, 8), velocity=(0, 0)).path()
    for read in (read_frames, read_clip):
        with pytest.raises(VideoError, match="its pictures are 64x64, and do not hold"):
            read(path, [0], window=window)


def test_a_picture_of_another_size_than_was_expected_is_an_error() -> None:
    path = CLIPS["h264"].path()
    expected = Window(0, 0, 8, 8, (112, 160))
    assert read_frames(path, [0], window=expected).shape == (1, 8, 8, 3)
    for read in (read_frames, read_clip):
        with pytest.raises(VideoError, match="its pictures are 160x112 instead of 168x120"):
            read(path, [0], window=Window(0, 0, 8, 8, (120, 168)))
