"""Clips whose camera pans, zooms and rolls by known amounts while a square moves in the picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from videos import SQUARE_PIXELS, Clip

__all__ = ["CAMERAS", "CameraClip"]

TEXTURE_PIXELS = 512


@dataclass(frozen=True)
class CameraClip(Clip):
    """From frame to frame the background is turned and magnified about the picture's middle, and
    then moves by `pan`; the square's own `velocity` is that in the picture, as in every `Clip`."""

    width: int = 320
    height: int = 240
    num_frames: int = 16
    gop: int = 16
    start: tuple[int, int] = (100, 90)
    velocity: tuple[int, int] = (5, -3)
    zoom: float = 1.0
    roll_radians: float = 0.0

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """What is encoded, uint8 `[H, W, 3]`."""
        background, square = texture(1), texture(2)[:SQUARE_PIXELS, :SQUARE_PIXELS]
        back = np.linalg.inv(self._from_frame_to_frame())
        to_texture = np.eye(3)
        to_texture[:2, 2] = TEXTURE_PIXELS / 2
        rows, columns = np.indices((self.height, self.width)) + 0.5
        pixels = np.stack((columns - self.width / 2, rows - self.height / 2, np.ones_like(rows)))
        for number in range(self.num_frames):
            x, y = (to_texture[:2] @ pixels.reshape(3, -1)).reshape(2, self.height, self.width)
            image = np.rint(between_pixels(background, x, y)).astype(np.uint8)
            left, top = self.corner(number)
            image[top : top + SQUARE_PIXELS, left : left + SQUARE_PIXELS] = square
            yield np.repeat(image[:, :, None], 3, axis=2)
            to_texture = to_texture @ back

    def camera(self) -> NDArray[np.float64]:
        """`[2, 3]`, the displacement of the background as `estimate_camera` has to find it."""
        motion = np.eye(3) - np.linalg.inv(self._from_frame_to_frame())
        # The field is as large as the picture: both sides are multiples of 8.
        return motion[:2]

    def _from_frame_to_frame(self) -> NDArray[np.float64]:
        """`[3, 3]`, where a point goes that is at (x, y) from the picture's middle."""
        cosine, sine = np.cos(self.roll_radians), np.sin(self.roll_radians)
        motion = np.diag((self.zoom, self.zoom, 1.0))
        motion[:2, :2] = motion[:2, :2] @ ((cosine, -sine), (sine, cosine))
        motion[:2, 2] = self.pan
        return motion


CAMERAS = {
    "still": CameraClip(),
    "pan": CameraClip(pan=(-6, 2)),
    "zoom in": CameraClip(zoom=1.02),
    "zoom out": CameraClip(zoom=0.98),
    "roll": CameraClip(roll_radians=0.02),
    "all at once": CameraClip(pan=(4, 3), zoom=1.015, roll_radians=-0.015),
    "all at once, MPEG-4": CameraClip("mpeg4", pan=(4, 3), zoom=1.015, roll_radians=-0.015),
}


def between_pixels(
    image: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bilinear samples of a texture that repeats itself; its first pixel is centred at (.5, .5)."""
    left, top = np.floor(x - 0.5).astype(int), np.floor(y - 0.5).astype(int)
    right_share, lower_share = x - 0.5 - left, y - 0.5 - top

    def at(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
        return image[row % TEXTURE_PIXELS, column % TEXTURE_PIXELS]

    upper = at(top, left) * (1 - right_share) + at(top, left + 1) * right_share
    lower = at(top + 1, left) * (1 - right_share) + at(top + 1, left + 1) * right_share
    return upper * (1 - lower_share) + lower * lower_share


@cache
def texture(seed: int) -> NDArray[np.float64]:
    """Noise without fine grains, in [20, 235]: what is between its pixels is known too."""
    noise = np.random.default_rng(seed).normal(size=(TEXTURE_PIXELS, TEXTURE_PIXELS))
    rows, columns = np.fft.fftfreq(TEXTURE_PIXELS)[:, None], np.fft.rfftfreq(TEXTURE_PIXELS)
    smooth = np.fft.irfft2(np.fft.rfft2(noise) * np.exp(-200 * (rows**2 + columns**2)))
    return 127.5 + np.clip(smooth / smooth.std() * 40, -107.5, 107.5)
