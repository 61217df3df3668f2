"""Strips: films show what sheets show, colours tell directions to every reader."""

import numpy as np
import pytest
from matplotlib.patches import PathPatch, Rectangle

from mgm_dali.clips.overlays import HIDDEN_GREY, direction_colours
from mgm_dali.report.draw import attention_strip, mask_strip
from mgm_dali.report.motion_drawings import MotionShown, arrow_strip, wheel_strip
from mgm_dali.report.strips import Strip, draw_film, draw_sheet, pictures
from mgm_dali.report.style import MOTION_COLOURS

RIGHT, LEFT, DOWN, UP = (1, 0), (-1, 0), (0, 1), (0, -1)
EIGHT = np.array([[np.cos(a), np.sin(a)] for a in np.arange(8) * np.pi / 4])

# What readers of each kind see of linear RGB (Machado et al. 2009, severity 1).
COLOUR_BLIND = {
    "protanopia": [
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ],
    "deuteranopia": [
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ],
    "tritanopia": [
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ],
}
TO_XYZ = np.array(
    [(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]
) / np.array([[0.9505], [1.0], [1.0890]])


def lab_as_seen(rgb, matrix=((1, 0, 0), (0, 1, 0), (0, 0, 1))):
    """CIELAB of sRGB bytes `[N, 3]`, as somebody sees them."""
    unit = rgb / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ np.transpose(matrix)).clip(0, 1) @ TO_XYZ.T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        (116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])), axis=-1
    )


@pytest.mark.parametrize("matrix", COLOUR_BLIND.values(), ids=COLOUR_BLIND)
def test_colour_blind_readers_tell_eight_directions_and_stillness_apart(matrix):
    colours = direction_colours(np.vstack((EIGHT, [[0, 0]])), fastest=1)
    seen = lab_as_seen(colours, matrix)
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1)[~np.eye(9, dtype=bool)]
    assert apart.min() > 20, "2.3 is just noticeable, in large areas"


def test_up_is_pale_down_is_dark_left_is_blue_and_right_is_orange():
    up, down, left, right = direction_colours(np.array([UP, DOWN, LEFT, RIGHT]), 1).astype(int)
    assert up.min() > 220 and down.max() < 40
    assert left[2] - left[0] > 100 and right[0] - right[2] > 100


def test_colours_grow_from_grey_with_strength_and_end_at_the_fastest():
    strengths = np.array([0, 1, 2, 4, 400])[:, None]
    off_grey = np.abs(direction_colours(strengths * np.array(RIGHT), 4).astype(int) - 128)
    assert off_grey[0].max() <= 1
    assert (np.diff(off_grey.max(axis=1)) > 0).tolist() == [True, True, True, False]


def test_the_wheel_in_the_legend_has_the_colours_of_the_field_and_its_scale():
    vectors = np.zeros((1, 2, 2, 2), np.float32)
    vectors[0, 0, 1] = (6, 0)
    known = np.array([[[True, True], [True, False]]])
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    figure = draw_sheet(wheel_strip(frames, MotionShown(vectors, known)))
    wheel, _, field = (axes.images[0] for axes in figure.axes)
    grey, orange = direction_colours(np.array([(0, 0), (6, 0)]), 6).tolist()
    cells = field.get_array().reshape(2, 8, 2, 8, 3).swapaxes(1, 2)
    assert (cells[[0, 1], 0] == grey).all() and (cells[0, 1] == orange).all()
    assert np.unique(cells[1, 1]).tolist() == [0, 255], "no vector: striped"
    image = wheel.get_array()
    left, right, bottom, top = wheel.get_extent()
    assert (left, right, bottom, top) == (-6, 6, 6, -6)
    side = len(image)
    at_rim = image[side // 2, side - 1, :3].astype(int)
    assert np.abs(at_rim - orange).max() <= 3
    assert image[0, 0, 3] == 0, "nothing is outside of the wheel"


def test_a_film_has_every_frame_of_every_row_at_its_place():
    colours = np.array([[10, 0, 0], [0, 120, 0], [0, 0, 250], [200, 200, 0]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (4, 32, 32, 3))
    rows = {"forwards": pictures(frames), "backwards": pictures(frames[::-1])}
    film = draw_film(Strip("title", rows, num_frames=4))
    assert film.dtype == np.uint8 and film.shape[0] == 4 and film.shape[3] == 3
    _, height, width, _ = film.shape
    for time, picture in enumerate(film):
        middle = picture[int(0.6 * height)]
        assert middle[width // 4].tolist() == colours[time].tolist()
        assert middle[3 * width // 4].tolist() == colours[::-1][time].tolist()


def test_masks_on_film_hide_the_frames_of_their_slice():
    frames = np.full((4, 32, 32, 3), 255, np.uint8)
    mask = np.array([[[True]], [[False]]])
    motion = MotionShown(np.zeros((4, 4, 4, 2), np.float32), np.ones((4, 4, 4), bool))
    film = draw_film(mask_strip(frames, {"tube": mask}, motion, "title"))
    grey = (film == HIDDEN_GREY).all(-1).sum((1, 2))
    assert (grey[:2] > 10_000).all() and (grey[2:] < 1000).all()


def test_the_query_is_marked_in_its_own_slice_only_and_heat_is_where_it_looks():
    frames = np.full((4, 64, 64, 3), 100, np.uint8)
    weights = np.full((2, 4, 4), 0.01, np.float32)
    weights[0, 1, 2] = 1 - weights.sum() + 0.01
    figure = draw_sheet(attention_strip(frames, weights, (1, 3, 0), "title"))
    panels = [axes for axes in figure.axes if axes.images][:4]
    marks = [
        {patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle)}
        for axes in panels
    ]
    assert marks == [set(), {(-0.5, 47.5)}, set(), {(-0.5, 47.5)}]
    heat = np.asarray(panels[2].images[0].get_array()).astype(int).sum(-1)
    hot = heat > heat.min() + 100
    assert hot.sum() == 16 * 16 and hot[16:32, 32:48].all()


def motion_row(known):
    """What `mask_strip` shows of motion `[4, 2, 2]`, its legend's words and its note."""
    vectors = np.zeros((4, 2, 2, 2), np.float32)
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    shown = MotionShown(vectors, known)
    strip = mask_strip(frames, {"tube": np.ones((2, 1, 1), bool)}, shown, "title")
    figure = draw_sheet(strip)
    slices = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images][2:4]
    bars = [inner.get_ylabel() for axes in figure.axes for inner in axes.child_axes]
    return slices, bars[0], strip.note


def test_no_vector_looks_unlike_no_motion():
    known = np.ones((4, 2, 2), bool)
    known[:2, 0, 1] = False
    known[2, 1, 1] = False  # the slice's other frame has one
    (first, second), legend, note = motion_row(known)
    striped = first[:8, 8:]
    assert np.unique(striped).tolist() == [0, 255]
    still = MOTION_COLOURS(0, bytes=True)[:3]
    assert (first[8:] == still).all() and (first[:, :8] == still).all() and (second == still).all()
    assert "striped: no vector" in legend and "simulated" not in note


def test_a_clip_that_stands_still_has_no_stripes_and_one_without_vectors_says_what_follows():
    _, legend, note = motion_row(np.ones((4, 2, 2), bool))
    assert "striped" not in legend and "simulated" not in note
    slices, legend, note = motion_row(np.zeros((4, 2, 2), bool))
    assert all(np.unique(picture).tolist() == [0, 255] for picture in slices)
    assert "striped: no vector" in legend
    assert "no vectors in this clip: motion-guided masks are simulated motion" in note


@pytest.mark.parametrize("wild", [False, True])
def test_a_scale_that_something_exceeds_says_so(wild):
    vectors = np.full((1, 20, 20, 2), (4, 0), np.float32)
    if wild:
        vectors[0, 0, 0] = (90, 0)
    motion, frames = MotionShown(vectors, vectors[..., 0] > 0), np.zeros((1, 160, 160, 3), np.uint8)
    wheel = draw_sheet(wheel_strip(frames, motion)).axes[0]
    assert [label.get_text() for label in wheel.get_xticklabels()][1] == (
        ">= 4.0" if wild else "4.0"
    )
    for strip in (
        arrow_strip(frames, motion),
        mask_strip(frames, {"tube": np.ones((1, 10, 10), bool)}, motion, "title"),
        attention_strip(frames, attention_of(400, wild), (0, 0, 0), "note"),
    ):
        bars = [inner for axes in draw_sheet(strip).axes for inner in axes.child_axes]
        tips = [patch for patch in bars[0].patches if isinstance(patch, PathPatch)]
        assert len(tips) == wild


def attention_of(num_tokens, wild):
    weights = np.full((1, 20, num_tokens // 20), 1 / num_tokens, np.float32)
    if wild:
        weights[0, 0, 0] = 0.5
    return weights


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_a_strip_of_any_length_becomes_a_sheet_and_a_film(num_frames):
    frames = np.zeros((num_frames, 16, 32, 3), np.uint8)
    for rows in ({"one": pictures(frames)}, {"one": pictures(frames), "two": pictures(frames)}):
        strip = Strip("A long title " * 20, rows, num_frames, aspect=0.5, note="note " * 60)
        draw_sheet(strip)
        assert len(draw_film(strip)) == num_frames
