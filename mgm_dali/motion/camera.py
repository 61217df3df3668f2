"""The camera's part of a motion field: estimated for each frame by itself, and subtracted.

    field               camera              what is left
    < < < < < <         < < < < < <         . . . . . .
    < < . . < <         < < < < < <         . . > > . .      a thing that the camera follows

The camera's motion is affine: pans, zooms, rolls, shear. Up to about 40 percent of the cells may
move otherwise. So hypotheses from three cells each are judged by how many cells agree with them
(random sample consensus, Fischler and Bolles 1981), as what starts from a mean or a median is drawn
to a large foreground; then iteratively re-weighted least squares with the weights of Geman and
McClure (1987) refine the best. All draws are fixed: the result is a function of the frame.

T frames, h w cells of 8x8 pixels, S samples of known cells of each frame.
"""

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import CELL_PIXELS
from mgm_dali.motion.field import QUARTER_PELS, MotionField

__all__ = ["estimate_camera", "subtract_camera"]

MIN_CELLS = 12
"""In a frame of which fewer cells are known nothing is taken for the camera's motion."""
SAMPLES = 512
"""Cells of a frame that are looked at; more cost time and add little."""
JUDGES_EVERY = 4
"""Of the samples, one in so many judges the hypotheses."""
HYPOTHESES = 64
"""At 45 percent outliers the chance that none is free of them is 1 in 10^5."""
JUDGING_SCALE_PIXELS = 1.0
"""A cell that is this far off counts half. Hypotheses are a little off themselves."""
REFINING_SCALES_PIXELS = (1.0, 0.5, 0.5)
"""The same for each round of refinement, where such a cell weighs a quarter."""
SMALLEST_AREA = 0.05
"""Of the parallelogram that three cells span, the longer side of the field being 2: flatter ones
say nothing reliable, and count as a mere translation."""
RIDGE = 1e-5
"""Weight, in shares of all, with which slopes are held at 0: decides where cells lie in a line."""

_rng = np.random.default_rng(0)
_RANKS = (np.arange(SAMPLES) + _rng.random(SAMPLES)) / SAMPLES
"""`[S]` in [0, 1), rising: which of a frame's known cells are sampled. Not evenly spaced, or they
could all fall into one column."""
_TRIPLES = _rng.integers(SAMPLES, size=(HYPOTHESES, 3))


def estimate_camera(field: MotionField) -> NDArray[np.float64]:
    """The affine motion of the background, float64 `[T, 2, 3]`.

    `camera[t] @ (x, y, 1)` is the displacement (dx, dy) in pixels, past to present, of what is at
    (x, y): pixels right of and below the centre of the field, which is the point
    (4 * w, 4 * h) of the picture. Zeros where fewer than `MIN_CELLS` cells are known.
    """
    num_frames, rows, columns, _ = field.vectors.shape
    camera = np.zeros((num_frames, 2, 3))
    frames, samples = _sample(field)
    motion = _refine(samples, _best_hypothesis(samples))
    camera[frames] = motion[:, :, [1, 2, 0]]
    camera[:, :, :2] /= max(rows, columns) / 2 * CELL_PIXELS
    return camera


def subtract_camera(field: MotionField) -> MotionField:
    """The motion relative to the camera, rounded to quarter pixels.

    Which frames are valid and which cells known does not change; unknown cells stay 0.
    """
    _, rows, columns, _ = field.vectors.shape
    cells = np.ones((rows, columns, 3), dtype=np.float32)
    cells[:, :, 0] = _centred(columns) * CELL_PIXELS
    cells[:, :, 1] = _centred(rows)[:, None] * CELL_PIXELS
    camera = (estimate_camera(field) * QUARTER_PELS).astype(np.float32)
    left = (cells.reshape(-1, 3) @ -camera.transpose(0, 2, 1)).reshape(field.vectors.shape)
    left += field.vectors
    np.rint(left, out=left)
    limits = np.iinfo(np.int16)
    vectors = left.clip(limits.min, limits.max, out=left).astype(np.int16)
    vectors[~field.known] = 0
    return MotionField(vectors, field.valid, field.known)


def _centred(count: int) -> NDArray[np.float32]:
    """Where the centres of so many cells lie, in cells from the middle of all."""
    return (np.arange(count) + (0.5 - count / 2)).astype(np.float32)


def _sample(field: MotionField) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Frames of which enough is known, and the same number of known cells of each of them.

    Samples are `[frames, 5, S]`: 1, x, y, dx, dy; places in units of half the field's longer side
    from its centre, motion in pixels.
    """
    num_frames, rows, columns, _ = field.vectors.shape
    known = np.flatnonzero(field.known)
    ends = np.searchsorted(known, np.arange(num_frames + 1) * (rows * columns))
    counts = np.diff(ends)
    frames = np.flatnonzero(counts >= MIN_CELLS)
    ranks = ends[frames, None] + (_RANKS * counts[frames, None]).astype(np.intp)
    cells = known[ranks]
    row, column = np.divmod(cells % (rows * columns), columns)
    samples = np.empty((len(frames), 5, SAMPLES), dtype=np.float32)
    samples[:, 0] = 1
    samples[:, 1] = (_centred(columns) / (max(rows, columns) / 2)).take(column)
    samples[:, 2] = (_centred(rows) / (max(rows, columns) / 2)).take(row)
    samples[:, 3:] = field.vectors.reshape(-1, 2)[cells].transpose(0, 2, 1)
    samples[:, 3:] /= QUARTER_PELS
    return frames, samples


def _best_hypothesis(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of the motions through three cells each, and of none at all, the one most cells agree with.

    `[T, 2, 3]`: for dx and dy the motion at the centre and its slopes along x and y.
    """
    corners = samples.take(_TRIPLES, axis=2)
    edges = corners[:, 1:, :, 1:] - corners[:, 1:, :, :1]
    x, y, moved = edges[:, :1], edges[:, 1:2], edges[:, 2:]
    area = x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
    area[np.abs(area) < SMALLEST_AREA] = np.inf  # which makes both slopes 0
    num_frames = len(samples)
    motions = np.zeros((num_frames, 2, 1 + HYPOTHESES, 3), dtype=np.float32)
    of_triples = motions[:, :, 1:]
    of_triples[..., 1] = (moved[..., 0] * y[..., 1] - moved[..., 1] * y[..., 0]) / area
    of_triples[..., 2] = (moved[..., 1] * x[..., 0] - moved[..., 0] * x[..., 1]) / area
    of_triples[..., 0] = corners[:, 3:, :, 0]
    of_triples[..., 0] -= of_triples[..., 1] * corners[:, 1:2, :, 0]
    of_triples[..., 0] -= of_triples[..., 2] * corners[:, 2:3, :, 0]
    judges = samples[:, :, JUDGES_EVERY // 2 :: JUDGES_EVERY]
    off = motions.reshape(num_frames, 2 * (1 + HYPOTHESES), 3) @ judges[:, :3]
    off = off.reshape(*motions.shape[:3], judges.shape[2])
    off -= judges[:, 3:, None]
    off *= off
    off[:, 0] += off[:, 1]
    off[:, 0] += np.float32(JUDGING_SCALE_PIXELS**2)
    agreement = np.reciprocal(off[:, 0], out=off[:, 0]).sum(2)
    best: NDArray[np.float32] = motions[np.arange(num_frames), :, agreement.argmax(1)]
    return best


def _refine(samples: NDArray[np.float32], motion: NDArray[np.float32]) -> NDArray[np.float32]:
    """Iteratively re-weighted least squares, from and to `[T, 2, 3]` as of `_best_hypothesis`."""
    place, moved = samples[:, :3], samples[:, 3:]
    for scale in REFINING_SCALES_PIXELS:
        off = moved - motion @ place
        off *= off
        weight = 1 / np.square(off[:, 0] + off[:, 1] + np.float32(scale**2))
        sums = ((place * weight[:, None]) @ samples.transpose(0, 2, 1)).astype(np.float64)
        normal, right = sums[:, :, :3], sums[:, :, 3:]
        for slope in (1, 2):
            normal[:, slope, slope] += RIDGE * normal[:, 0, 0]
        motion = np.linalg.solve(normal, right).transpose(0, 2, 1).astype(np.float32)
    return motion
