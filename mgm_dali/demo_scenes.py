"""The pictures of the demo videos: one textured shape that moves over a textured background.

The class is the motion. Kind, size, colour, texture and place of the shape are drawn at random, and
the background drifts a little, as under a held camera.

Letters: T frames, S side of the square picture in pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEMO_CLASSES", "NUM_FRAMES", "MotionPath", "Track", "draw_video"]

Array = NDArray[np.float32]

NUM_FRAMES = 36


class Track(NamedTuple):
    """The way of a shape: offset from its place in sides of the picture, and relative size."""

    x: Array
    """`[T]`, positive to the right."""
    y: Array
    """`[T]`, positive downwards."""
    scale: Array
    """`[T]`, 1 is the size that was drawn for the shape."""


MotionPath = Callable[[Array, float, float], Track]
"""`path(time [T] from 0 to 1, reach, phase) -> Track`: `reach` is the length of the way in sides
of the picture; `phase` in [0, 1) says where a path that repeats starts."""


def _line(x: int, y: int) -> MotionPath:
    def path(time: Array, reach: float, _phase: float) -> Track:
        along = (time - 0.5) * reach
        return Track(x * along, y * along, np.ones_like(time))

    return path


def _circle(turns: int) -> MotionPath:
    """Turns above 0 are clockwise on the screen, whose y axis points down."""

    def path(time: Array, reach: float, phase: float) -> Track:
        # Starting anywhere in the lower half keeps the task small enough for a minute of training.
        angle = 2 * np.pi * (0.5 * phase + turns * time)
        radius = 0.45 * reach
        return Track(radius * np.cos(angle), radius * np.sin(angle), np.ones_like(time))

    return path


def _approach(time: Array, reach: float, _phase: float) -> Track:
    return Track(0 * time, 0 * time, 0.5 + 2 * reach * time)


def _shake(time: Array, reach: float, phase: float) -> Track:
    """Three times to and fro: slow enough to be seen in every second frame."""
    along = 0.3 * reach * np.sin(2 * np.pi * (phase + 3 * time))
    return Track(along, 0 * time, np.ones_like(time))


DEMO_CLASSES: dict[str, MotionPath] = {
    "right": _line(1, 0),
    "left": _line(-1, 0),
    "up": _line(0, -1),
    "down": _line(0, 1),
    "clockwise": _circle(1),
    "counterclockwise": _circle(-1),
    "approach": _approach,
    "shake": _shake,
}
"""Class name to motion. A class more is one line here."""


def _triangle(u: Array, v: Array) -> Array:
    return np.maximum(np.float32(0.866) * np.abs(u) - v / 2, v) - np.float32(0.6)


def _cross(u: Array, v: Array) -> Array:
    u, v = np.abs(u), np.abs(v)
    long, short = np.float32(1.1), np.float32(0.45)
    distance: Array = np.minimum(np.maximum(u - long, v - short), np.maximum(v - long, u - short))
    return distance


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda u, v: np.hypot(u, v) - 1,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - np.float32(0.9),
    "triangle": _triangle,
    "cross": _cross,
}
"""Shape to its signed distance, below 0 inside; (u, v) is the place and 1 is the radius."""


def draw_video(class_name: str, side_pixels: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Frames `[T, S, S, 3]` uint8 RGB of one shape that moves as its class says."""
    time = np.linspace(0, 1, NUM_FRAMES, dtype=np.float32)
    track = DEMO_CLASSES[class_name](time, rng.uniform(0.5, 0.75), rng.uniform())
    place = rng.uniform(0.4, 0.6, size=2)
    drift = rng.uniform(-0.1, 0.1, size=2)  # of the camera, in sides over the whole video
    camera_x, camera_y = (_column(side_pixels * share * time) for share in drift)
    center_x = side_pixels * _column(place[0] + track.x) + camera_x
    center_y = side_pixels * _column(place[1] + track.y) + camera_y
    radius = side_pixels * _column(rng.uniform(0.18, 0.26) * track.scale)

    pixel = np.arange(side_pixels, dtype=np.float32) + np.float32(0.5)
    x, y = pixel[None, None, :], pixel[None, :, None]
    background = _texture(rng, x - camera_x, y - camera_y, (30, 110))
    u, v = (x - center_x) / radius, (y - center_y) / radius
    mean_radius = radius.mean()
    foreground = _texture(rng, u * mean_radius, v * mean_radius, (140, 235))

    turn = rng.uniform(0, 2 * np.pi)
    cos, sin = np.array([np.cos(turn), np.sin(turn)], np.float32)
    shape = SHAPES[rng.choice(list(SHAPES))]
    distance_pixels = radius * shape(cos * u - sin * v, sin * u + cos * v)
    inside = np.clip(0.5 - distance_pixels, 0, 1)  # the share of each pixel that the shape covers
    picture = (background + inside * (foreground - background)).round().astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(picture, 0, -1))


def _texture(rng: np.random.Generator, x: Array, y: Array, levels: tuple[int, int]) -> Array:
    """Values `[3, T, S, S]` between two levels: two colours mixed by a sum of plane waves.

    One wave gives stripes, two give checks, more give blotches. `x` `[T, 1, S]` and `y` `[T, S, 1]`
    are in pixels.
    """
    pattern: Array = np.zeros((1, 1, 1), np.float32)
    for _ in range(rng.choice([1, 2, 5])):
        angle, period, phase = rng.uniform(0, np.pi), rng.uniform(7, 16), rng.uniform(0, 2 * np.pi)
        across = x * np.float32(2 * np.pi / period * np.cos(angle)) + np.float32(phase)
        along = y * np.float32(2 * np.pi / period * np.sin(angle))
        # sin(across + along), with the slow functions on rows and columns, not on all pixels
        pattern = pattern + np.sin(across) * np.cos(along) + np.cos(across) * np.sin(along)
    colours = rng.uniform(*levels, size=(2, 3, 1, 1, 1)).astype(np.float32)
    mixed: Array = colours.mean(0) + np.tanh(pattern) * (colours[1] - colours[0]) / 2
    return mixed


def _column(values: NDArray[np.floating]) -> Array:
    """`[T]` as `[T, 1, 1]`, to meet the rows and columns of the pixels."""
    return values.astype(np.float32)[:, None, None]
