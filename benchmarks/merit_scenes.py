"""Clips of which it is known what moves: textured squares before a textured background.

    kind     what moves in the picture                camera    what the background does
    one      a square of 64 to 88 pixels              still     nothing
    small    one of 28 to 36                          pan       4 pixels a frame, more than squares
    two      two of 48 to 64, each on its own way     zoom      grows or shrinks by 1% a frame
    slow     one, at half a pixel a frame
    grain    one, and new noise in every frame

Textures have the spectrum of natural pictures, so there are plain places and edges, and an encoder
finds wrong vectors where it does in other videos. Squares run straight and bounce off the border.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

__all__ = ["CAMERAS", "ENCODINGS", "KINDS", "SIDE_PIXELS", "Kind", "Scene", "encode"]

Floats = NDArray[np.float64]

SIDE_PIXELS = 224
NUM_FRAMES = 68
CLIP_FRAMES, STRIDE_FRAMES = 16, 4
TEXTURE_PIXELS = 512


@dataclass(frozen=True)
class Kind:
    """What moves, and how clean the pictures are."""

    sides: tuple[int, int]
    """Shortest and longest, in pixels."""
    pixels_a_frame: float = 3.5
    count: int = 1
    grain: float = 0.0
    """Standard deviation of the noise, in grey levels of 256."""


KINDS = {
    "one": Kind((64, 88)),
    "small": Kind((28, 36)),
    "two": Kind((48, 64), count=2),
    "slow": Kind((64, 88), pixels_a_frame=0.5),
    "grain": Kind((64, 88), grain=6.0),
}

CAMERAS = ("still", "pan", "zoom")
PAN_PIXELS, ZOOM = 4.0, 1.01

ENCODINGS = {
    "uploaded": {"preset": "medium", "crf": "23", "bf": "3", "refs": "3", "g": "250"},
    "prepared": {"preset": "medium", "crf": "20", "bf": "0", "refs": "1", "g": "16"},
}
"""As sites keep what people upload, and much as `mgm-dali prepare` makes it."""


@dataclass(frozen=True)
class Scene:
    """One clip; its seed draws textures, sizes and ways."""

    kind: str
    camera: str
    seed: int

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The pictures, uint8 `[S, S, 3]`."""
        rng = np.random.default_rng((self.seed, 1))
        background, *surfaces = (_texture(rng) for _ in range(1 + KINDS[self.kind].count))
        place = np.arange(SIDE_PIXELS) + 0.5
        for number in range(NUM_FRAMES):
            (scale, shift_x, shift_y), middle = self._camera(number), SIDE_PIXELS / 2
            of_frame_0 = (place - middle) / scale
            picture = _between_pixels(background, of_frame_0 - shift_x, of_frame_0 - shift_y)
            for (x, y, side), surface in zip(self.squares(number), surfaces, strict=True):
                rows, columns = _covered(y, side), _covered(x, side)
                picture[rows, columns] = _between_pixels(
                    surface, place[columns] - x, place[rows] - y
                )
            picture += KINDS[self.kind].grain * rng.normal(size=picture.shape)
            grey = np.rint(picture).clip(0, 255).astype(np.uint8)
            yield np.repeat(grey[..., None], 3, axis=2)

    def sampled(self) -> NDArray[np.int64]:
        """The frames that a clip shows; the seed decides how they lie to the key frames."""
        return STRIDE_FRAMES * np.arange(1, 1 + CLIP_FRAMES) + self.seed % STRIDE_FRAMES

    def inside(self, number: int) -> NDArray[np.bool_]:
        """`[S, S]`, the pixels of what moves in a frame."""
        found = np.zeros((SIDE_PIXELS, SIDE_PIXELS), np.bool_)
        for x, y, side in self.squares(number):
            found[_covered(y, side), _covered(x, side)] = True
        return found

    def squares(self, number: int) -> list[tuple[float, float, int]]:
        """Left and upper edge, and side, in pixels, in a frame."""
        places = []
        for side, start, step in self._ways:
            room = SIDE_PIXELS - side
            x, y = room - np.abs((start * room + step * number) % (2 * room) - room)
            places.append((float(x), float(y), side))
        return places

    @cached_property
    def _ways(self) -> list[tuple[int, Floats, Floats]]:
        """Side of each square, where it starts, in shares of its room, and its step a frame."""
        kind, rng = KINDS[self.kind], np.random.default_rng((self.seed, 2))
        ways = []
        for _ in range(kind.count):
            side = int(rng.integers(kind.sides[0], kind.sides[1] + 1))
            angle = rng.uniform(0, 2 * np.pi)
            step = kind.pixels_a_frame * np.array([np.cos(angle), np.sin(angle)])
            ways.append((side, rng.uniform(0, 1, size=2), step))
        return ways

    def _camera(self, number: int) -> tuple[float, float, float]:
        """How much larger the background is than in frame 0, and how far it has moved (x, y)."""
        rng = np.random.default_rng((self.seed, 3))
        angle, zoom = rng.uniform(0, 2 * np.pi), ZOOM ** rng.choice((-1, 1))
        if self.camera == "zoom":
            return zoom**number, 0.0, 0.0
        way = PAN_PIXELS * number if self.camera == "pan" else 0.0
        return 1.0, way * np.cos(angle), way * np.sin(angle)


def encode(scene: Scene, encoding: str, path: Path) -> None:
    """Writes the scene as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25, ENCODINGS[encoding])
        stream.width, stream.height, stream.pix_fmt = SIDE_PIXELS, SIDE_PIXELS, "yuv420p"
        stream.codec_context.thread_count = 1  # x264 would cut frames into one slice per core
        for picture in scene.frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _covered(start: float, side: int) -> slice:
    """The pixels whose middles lie within."""
    first = int(np.ceil(start - 0.5))
    return slice(first, first + side)


def _texture(rng: np.random.Generator) -> Floats:
    """`[P, P]` around 128, repeating itself: noise of amplitude 1 / frequency."""
    rows, columns = np.fft.fftfreq(TEXTURE_PIXELS)[:, None], np.fft.rfftfreq(TEXTURE_PIXELS)
    frequency = np.hypot(rows, columns).clip(4 / TEXTURE_PIXELS)
    noise = np.fft.rfft2(rng.normal(size=(TEXTURE_PIXELS, TEXTURE_PIXELS)))
    smooth = np.fft.irfft2(noise / frequency)
    return 128 + 40 * smooth / smooth.std()


def _between_pixels(texture: Floats, x: Floats, y: Floats) -> Floats:
    """Bilinear samples `[len(y), len(x)]` at columns x and rows y of a texture."""
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    across, down = x - left, (y - top)[:, None]
    rows = texture[top % TEXTURE_PIXELS] * (1 - down) + texture[(top + 1) % TEXTURE_PIXELS] * down
    left_of, right_of = rows[:, left % TEXTURE_PIXELS], rows[:, (left + 1) % TEXTURE_PIXELS]
    return left_of * (1 - across) + right_of * across
