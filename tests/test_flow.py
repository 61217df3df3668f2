"""Flow to cells: the same as a loop over cells writes down."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mgm_dali.motion.flow import cells_of_flow, grow_pictures


def average_slowly(
    to_past: NDArray[np.float32], width: int, height: int, pixels_per_vector: int
) -> NDArray[np.float64]:
    """Motion in pixels, `[h, w, 2]`: cell by cell, vector by vector."""
    cells = np.zeros((-(-height // 8), -(-width // 8), 2))
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            inside = [
                to_past[y, x]
                for y in range(to_past.shape[0])
                for x in range(to_past.shape[1])
                if y * pixels_per_vector // 8 == row and x * pixels_per_vector // 8 == column
            ]
            cells[row, column] = -np.mean(inside, axis=0, dtype=np.float64)
    return cells


@pytest.mark.parametrize("pixels_per_vector", [1, 2, 4, 8])
@pytest.mark.parametrize(("width", "height"), [(32, 24), (33, 17), (31, 23), (8, 8), (3, 20)])
def test_a_cell_moves_by_the_opposite_of_its_mean_flow_to_the_past(
    width: int, height: int, pixels_per_vector: int
) -> None:
    size = -(-height // pixels_per_vector), -(-width // pixels_per_vector), 2
    to_past = np.random.default_rng(3).normal(0, 9, size).astype(np.float32)
    vectors, known = cells_of_flow(to_past, pixels_per_vector=pixels_per_vector)
    expected = average_slowly(to_past, width, height, pixels_per_vector)
    assert vectors.dtype == np.int16 and vectors.shape == expected.shape and known.all()
    assert np.abs(vectors / 4 - expected).max() <= 0.125 + 1e-5  # half of a quarter


def test_what_no_sixteen_bits_hold_is_cut_and_not_turned_round() -> None:
    to_past = np.zeros((8, 16, 2), np.float32)
    to_past[:, :8], to_past[:, 8:] = 1e6, -1e6
    vectors, known = cells_of_flow(to_past)
    assert vectors.tolist() == [[[-32768, -32768], [32767, 32767]]] and known.all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_flow_that_is_not_a_number_is_not_known(value: float) -> None:
    to_past = np.ones((16, 16, 2), np.float32)
    to_past[3, 12, 1] = value
    vectors, known = cells_of_flow(to_past)
    assert known.tolist() == [[True, False], [True, True]]
    assert vectors.tolist() == [[[-4, -4], [0, 0]], [[-4, -4], [-4, -4]]]


@pytest.mark.parametrize(
    ("size", "smallest", "multiple", "expected"),
    [
        ((100, 170), 128, 8, (128, 176)),
        ((256, 344), 128, 8, (256, 344)),
        ((5, 7), 64, 1, (64, 64)),
        ((65, 7), 64, 1, (65, 64)),
        ((129, 129), 129, 8, (136, 136)),
    ],
)
def test_pictures_grow_by_their_last_column_and_row(
    size: tuple[int, int], smallest: int, multiple: int, expected: tuple[int, int]
) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    grown = grow_pictures(pictures, smallest_pixels=smallest, multiple=multiple)
    assert grown.shape == (2, *expected, 3)
    assert np.array_equal(grown[:, : size[0], : size[1]], pictures)
    assert (grown[:, : size[0], size[1] :] == pictures[:, :, -1:]).all()
    assert (grown[:, size[0] :, : size[1]] == pictures[:, -1:]).all()
    grey = grow_pictures(pictures[..., 0], smallest_pixels=smallest, multiple=multiple)
    assert np.array_equal(grey, grown[..., 0])
