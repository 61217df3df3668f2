"""Pictures: what is hidden is covered, what is visible is untouched, and files are whole."""

import subprocess
import sys
from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from numpy.typing import NDArray
from PIL import Image

from mgm_dali.clips.overlays import HIDDEN_GREY, cover_hidden
from mgm_dali.report.charts import draw_confusion, draw_losses, smooth
from mgm_dali.report.draw import mask_strip, reconstruction_strip
from mgm_dali.report.motion_drawings import MotionShown, arrow_strip
from mgm_dali.report.saving import save_animation, save_figure
from mgm_dali.report.strips import draw_sheet

RNG = np.random.default_rng(0)


def random_frames(num_frames: int = 4, side: int = 32) -> NDArray[np.uint8]:
    # Grey itself is left out, so that a grey pixel is a covered pixel.
    return RNG.integers(HIDDEN_GREY + 1, 256, (num_frames, side, side, 3)).astype(np.uint8)


def moving(motion: NDArray[np.float32], valid: list[bool] | None = None) -> MotionShown:
    known = np.ones(motion.shape[:3], bool)
    if valid is not None:
        known &= np.array(valid)[:, None, None]
    return MotionShown(motion, known)


def texts(figure: Figure) -> list[str]:
    """All that is written on a figure's axes."""
    found = []
    for axes in [inner for outer in figure.axes for inner in (outer, *outer.child_axes)]:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        found += [text.get_text() for text in axes.texts]
    return [text for text in found if text]


def arrows(figure: Figure) -> tuple[list[list[float]], list[list[float]]]:
    """Places (x, y) and vectors (dx, dy) of all arrows of a figure."""
    quivers = [
        item for axes in figure.axes for item in axes.collections if isinstance(item, Quiver)
    ]
    places = np.concatenate([quiver.XY for quiver in quivers])
    vectors = np.concatenate([np.stack([quiver.U, quiver.V], axis=-1) for quiver in quivers])
    return places.tolist(), vectors.tolist()


def test_hidden_patches_are_covered_and_visible_ones_untouched() -> None:
    frames, mask = random_frames(), RNG.random((2, 2, 2)) < 0.5
    covered = cover_hidden(frames, mask)
    for (t, h, w), hidden in np.ndenumerate(mask):
        token = np.s_[2 * t : 2 * t + 2, 16 * h : 16 * h + 16, 16 * w : 16 * w + 16]
        expected = np.full_like(frames[token], HIDDEN_GREY) if hidden else frames[token]
        np.testing.assert_array_equal(covered[token], expected)


def test_a_mask_of_slices_covers_first_frames_too() -> None:
    frames, mask = random_frames(2), np.array([[[True]], [[False]]])
    covered = cover_hidden(frames, mask)
    assert (covered[0] == HIDDEN_GREY).all() and (covered[1] == frames[1]).all()


def test_arrows_stand_on_moving_cells_only_and_point_along_the_motion() -> None:
    motion = np.zeros((2, 4, 4, 2), np.float32)
    motion[1, 2, 3] = (3, -1)
    figure = draw_sheet(arrow_strip(random_frames(2), moving(motion, [False, True])))
    assert arrows(figure) == ([[3.5 * 8, 2.5 * 8]], [[3, -1]])


def test_many_cells_share_arrows_and_the_fastest_neighbour_has_it() -> None:
    motion = np.zeros((1, 20, 20, 2), np.float32)
    motion[0, 6, 4], motion[0, 7, 5] = (1, 1), (0, 5)
    figure = draw_sheet(arrow_strip(random_frames(1, 160), moving(motion)))
    assert arrows(figure) == ([[5 * 8, 7 * 8]], [[0, 5]])


def test_frames_without_vectors_are_labelled_so() -> None:
    motion = np.ones((3, 4, 4, 2), np.float32)
    strip = arrow_strip(random_frames(3), moving(motion, [False, True, True]))
    written = texts(draw_sheet(strip))
    assert written.count("no vectors") == 1
    assert "frame 2" in written and "pixels a frame of\nthe video" in written


def test_every_strategy_has_a_row_that_tells_how_much_it_hides() -> None:
    motion = np.zeros((4, 4, 4, 2), np.float32)
    half = np.zeros((2, 2, 2), bool)
    half[:, 0] = True
    masks = {"tube": half, "motion_guided": ~half}
    written = texts(draw_sheet(mask_strip(random_frames(), masks, moving(motion), "title")))
    assert "tube\n50% hidden" in written and "motion guided\n50% hidden" in written
    assert written.count("slice 0") == written.count("slice 1") == 1


@pytest.mark.parametrize(("num_frames", "step", "columns"), [(16, 2, 8), (8, 1, 8), (18, 3, 6)])
def test_a_sheet_shows_at_most_eight_frames_evenly_spread(
    num_frames: int, step: int, columns: int
) -> None:
    frames = random_frames(num_frames)
    written = texts(draw_sheet(reconstruction_strip(frames, frames, frames, "note")))
    shown = [text for text in written if text.startswith("frame ")]
    assert shown == [f"frame {step * number}" for number in range(columns)]


def test_a_clip_that_stands_still_can_be_drawn() -> None:
    still = moving(np.zeros((1, 4, 4, 2), np.float32), [False])
    draw_sheet(arrow_strip(random_frames(1), still))
    draw_sheet(mask_strip(random_frames(1), {"tube": np.ones((1, 2, 2), bool)}, still, "title"))


def test_the_running_mean_keeps_length_and_constants() -> None:
    np.testing.assert_allclose(smooth(np.full(100, 3.0)), 3.0)
    values = RNG.normal(size=101)
    assert smooth(values)[50] == pytest.approx(values[48:53].mean())
    assert smooth(values)[0] == pytest.approx(values[:3].mean())


def test_losses_have_one_bold_named_line_a_curve() -> None:
    curves = {"tube": (range(50), RNG.random(50)), "motion_guided": (range(50), RNG.random(50))}
    (axes,) = draw_losses(curves).axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == list(curves)
    assert [line.get_linewidth() for line in axes.lines] == [0.8, 2.0] * 2


def test_a_confusion_matrix_is_counted_and_its_title_is_the_accuracy() -> None:
    figure = draw_confusion(np.array([[3, 1], [0, 0]]), ["left", "right"])
    written = texts(figure)
    assert "75.0% of 4 right, 2 classes" in written
    assert [text for text in written if text.isdigit()] == ["3", "1", "0", "0"]


@pytest.mark.parametrize(("num_classes", "num_names"), [(2, 2), (61, 61), (400, 400), (401, 0)])
def test_up_to_four_hundred_classes_are_named_beside_their_rows(num_classes, num_names) -> None:
    names = [f"class {i}" for i in range(num_classes)]
    figure = draw_confusion(np.eye(num_classes, dtype=int), names)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sum(text.startswith("class ") for text in shown) == num_names
    cell_points = 72 * (figure.get_figheight() - 2.5) / num_classes
    if num_names:
        assert figure.axes[0].get_yticklabels()[0].get_fontsize() < cell_points


def test_an_unreadable_video_counts_as_wrong_in_the_title_of_a_confusion_matrix() -> None:
    figure = draw_confusion(np.array([[3, 1], [0, 0]]), ["left", "right"], num_unreadable=2)
    assert "50.0% of 6 right, 2 classes, 2 unreadable" in texts(figure)


def test_any_name_of_a_class_can_be_drawn(tmp_path: Path) -> None:
    names = ["$\\frac{", "a\nb", "\udcff", "long " * 30]
    save_figure(draw_confusion(np.eye(4, dtype=int), names), tmp_path / "confusion.png", dpi=50)
    assert (tmp_path / "confusion.png").stat().st_size


def test_figures_are_saved_whole_at_the_resolution_asked_for(tmp_path: Path) -> None:
    figure = draw_losses({"tube": (range(5), range(5))})
    widths = []
    for dpi in (50, 100):
        save_figure(figure, tmp_path / f"{dpi}.png", dpi)
        with Image.open(tmp_path / f"{dpi}.png") as picture:
            widths.append(picture.width)
    assert widths[1] == pytest.approx(2 * widths[0], abs=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100.png", "50.png"]


def test_drawing_leaves_the_callers_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    draw_losses({"tube": (range(5), range(5))})
    assert dict(matplotlib.rcParams) == before
    imports = "import sys, mgm_dali.report.charts, mgm_dali.report.draw, mgm_dali.report.saving"
    check = f"{imports}; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_a_gif_repeats_and_has_every_frame_enlarged(tmp_path: Path) -> None:
    save_animation(random_frames(4), tmp_path / "clip.gif", fps=10)
    with Image.open(tmp_path / "clip.gif") as gif:
        assert (gif.n_frames, gif.size) == (4, (256, 256))  # type: ignore[attr-defined]
        assert (gif.info["duration"], gif.info["loop"]) == (100, 0)


def test_an_mp4_has_every_frame_in_even_sides(tmp_path: Path) -> None:
    save_animation(random_frames(4, 257), tmp_path / "clip.mp4", fps=12.5)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        shapes = [(frame.width, frame.height) for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate or 0) == 12.5
    assert shapes == [(258, 258)] * 4


def test_an_animation_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected one of \.gif, \.mp4"):
        save_animation(random_frames(1), tmp_path / "clip.avi")
