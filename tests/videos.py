"""Clips whose motion is known, made on the spot, and the way to the clips shared by developers.

+--------------------+
|  background        |     moves by `pan` pixels a frame
|     +------+       |
|     |square| -->   |     moves by `velocity` pixels a frame
|     +------+       |
+--------------------+
"""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from mgm_dali.motion import MotionField

SHARED = Path(__file__).parents[2] / "shared/videos"
"""Real and hostile files; not part of the project."""

SQUARE_PIXELS = 48

_folder = Path(tempfile.mkdtemp(prefix="mgm-dali-tests-"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)


@dataclass(frozen=True)
class Clip:
    """A textured square that moves over a textured background."""

    encoder: str = "libx264"
    container: str = "mp4"
    width: int = 160
    height: int = 112
    num_frames: int = 24
    start: tuple[int, int] = (40, 40)
    """Where the square's upper left corner is in frame 0, (x, y)."""
    velocity: tuple[int, int] = (2, -1)
    pan: tuple[int, int] = (0, 0)
    gop: int = 12
    b_frames: int = 0
    refs: int = 1
    options: tuple[tuple[str, str], ...] = ()
    """More options of the encoder."""
    pixel_format: str = "yuv420p"
    grain_pixels: int = 3
    """How far the texture's grains reach; fast things are only found if theirs are large."""

    def path(self) -> Path:
        """The encoded file; made once per test session."""
        return _encode(self)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """What is encoded, uint8 `[H, W, 3]`."""
        background = _texture(256, 256, self.grain_pixels, seed=1)
        square = _texture(SQUARE_PIXELS, SQUARE_PIXELS, self.grain_pixels, seed=2)
        for number in range(self.num_frames):
            shift = (number * self.pan[1], number * self.pan[0])
            image = np.roll(background, shift, axis=(0, 1))
            image = np.tile(image, (self.height // 256 + 1, self.width // 256 + 1))
            image = image[: self.height, : self.width].copy()
            x, y = self.corner(number)
            image[y : y + SQUARE_PIXELS, x : x + SQUARE_PIXELS] = square
            yield np.repeat(image[:, :, None], 3, axis=2)

    def corner(self, number: int) -> tuple[int, int]:
        """The square's upper left corner in a frame, (x, y)."""
        x, y = (self.start[axis] + number * self.velocity[axis] for axis in (0, 1))
        assert 0 <= x <= self.width - SQUARE_PIXELS, f"frame {number}: the square leaves the frame"
        assert 0 <= y <= self.height - SQUARE_PIXELS, f"frame {number}: the square leaves the frame"
        return x, y

    def inside(self, number: int) -> NDArray[np.bool_]:
        """`[h, w]`, cells that lie in the square with 8 pixels to spare."""
        x, y = self.corner(number)
        rows, columns = np.indices((-(-self.height // 8), -(-self.width // 8))) * 8
        margin, far = 8, SQUARE_PIXELS - 16
        return (
            (columns >= x + margin)
            & (columns <= x + far)
            & (rows >= y + margin)
            & (rows <= y + far)
        )

    def outside(self, number: int) -> NDArray[np.bool_]:
        """`[h, w]`, cells at least 24 pixels away from the square."""
        x, y = self.corner(number)
        rows, columns = np.indices((-(-self.height // 8), -(-self.width // 8))) * 8
        near = 32
        return (
            (columns < x - near)
            | (columns >= x + SQUARE_PIXELS + near - 8)
            | (rows < y - near)
            | (rows >= y + SQUARE_PIXELS + near - 8)
        )


def frames_of_dali(path: Path) -> NDArray[np.uint8]:
    """All frames, uint8 `[T, H, W, 3]`, by the decoder that is NVDEC's twin on the CPU."""
    dali = pytest.importorskip("nvidia.dali")
    encoded = np.fromfile(path, np.uint8)

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def decode() -> object:
        data = dali.fn.external_source(source=lambda: [encoded], batch=True)
        return dali.fn.decoders.video(data, device="cpu")

    pipeline = decode()
    pipeline.build()
    return np.array(pipeline.run()[0].at(0))


def medians(clip: Clip, field: MotionField, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Median vector of the known cells inside the square and far outside of it, pixels."""
    pixels, known = field.pixels()[number], field.known[number]
    return (
        np.median(pixels[clip.inside(number) & known], axis=0),
        np.median(pixels[clip.outside(number) & known], axis=0),
    )


SMALL = {"width": 64, "height": 64, "num_frames": 40, "start": (8, 8), "velocity": (0, 0)}

CLIPS: dict[str, Clip] = {
    "h264": Clip(),
    "h264 with B-frames and references": Clip(b_frames=3, refs=4),
    "h264 with open groups": Clip(b_frames=2, options=(("x264-params", "open-gop=1"),)),
    "h264 with intra refresh": Clip(options=(("x264-params", "intra-refresh=1"),)),
    "h264 of odd size in mkv": Clip(width=162, height=114, b_frames=2, container="mkv"),
    "h264 in avi": Clip(b_frames=2, container="avi"),
    "h264 in ts": Clip(b_frames=2, container="ts"),
    "h264 raw": Clip(b_frames=2, container="h264"),
    "mpeg4": Clip(encoder="mpeg4"),
    "mpeg4 with B-frames": Clip(encoder="mpeg4", b_frames=2),
    "mpeg4 with B-frames in avi": Clip(encoder="mpeg4", b_frames=2, container="avi"),
    "mpeg2": Clip(encoder="mpeg2video", container="mpg"),
    "mpeg2 with B-frames": Clip(encoder="mpeg2video", b_frames=2, container="mkv"),
    "mpeg1": Clip(encoder="mpeg1video", container="mpg"),
    "hevc": Clip(encoder="libx265", b_frames=2),
    "vp9": Clip(encoder="libvpx-vp9", container="webm"),
    "small h264": Clip(**SMALL, gop=40),  # type: ignore[arg-type]
}
"""One of each kind that is read in its own way."""

_FIXED_QUALITY = {"qscale": "3"}
_ENCODER_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "fast", "crf": "16", "sc_threshold": "0"},
    "libx265": {"preset": "ultrafast", "x265-params": "pools=none:frame-threads=1:log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "20"},
}
"""Of those that have no options here the quality is fixed."""


def shared(name: str) -> Path:
    """A file below `SHARED`; the test is skipped where there is none."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def same_vectors(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    """Equal in every field; the structure's padding is never initialised."""
    if a is None or b is None:
        return a is b
    assert a.dtype.names is not None
    return len(a) == len(b) and all(np.array_equal(a[name], b[name]) for name in a.dtype.names)


@cache
def _encode(clip: Clip) -> Path:
    path = _folder / f"{abs(hash(clip)):x}.{clip.container}"
    with av.open(str(path), "w") as container:
        options = {"g": str(clip.gop), "bf": str(clip.b_frames), "refs": str(clip.refs)}
        options |= _ENCODER_OPTIONS.get(clip.encoder, _FIXED_QUALITY) | dict(clip.options)
        stream = container.add_stream(clip.encoder, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pixel_format
        # PyAV's own choice would make x264 cut every picture into slices, one for each core.
        stream.codec_context.thread_count = 1
        if options.get("qscale"):
            stream.codec_context.qscale = True
        for image in clip.frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return path


@cache
def _texture(height: int, width: int, grain_pixels: int, seed: int) -> NDArray[np.uint8]:
    """Smooth enough to be found by a search that follows a slope, and never the same twice."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    for step in range(1, grain_pixels + 1):
        for axis in (0, 1):
            noise = noise + np.roll(noise, step, axis) + np.roll(noise, -step, axis)
    noise = (noise - noise.min()) / np.ptp(noise)
    return (20 + 215 * noise).astype(np.uint8)
