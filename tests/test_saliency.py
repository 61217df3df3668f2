"""How much stronger motion is in boxes: the measure, and the command that prints it."""

import csv
import math
import sys

import numpy as np
import pytest
from small_videos import keep, manifest_of
from videos import CLIPS, SQUARE_PIXELS, Clip

from mgm_dali.cli import main
from mgm_dali.motion.codec import read_motion
from mgm_dali.motion.field import MotionField, grid_size
from mgm_dali.motion.saliency import LEFT_OUT, cell_shares, ratio_interval, saliency

WIDTH, HEIGHT = 162, 114  # the last column and row of cells reach over the border
FINE = 4
"""The reference looks at points a quarter of a pixel apart."""


def random_field(seed, num_frames=3):
    rng = np.random.default_rng(seed)
    columns, rows = grid_size(WIDTH, HEIGHT)
    known = rng.random((num_frames, rows, columns)) < 0.8
    vectors = rng.integers(-40, 40, (*known.shape, 2)).astype(np.int16) * known[..., None]
    return MotionField(vectors, np.ones(num_frames, dtype=bool), known)


def random_boxes(rng, num_boxes, width=WIDTH, height=HEIGHT):
    """Corners at multiples of a quarter of a pixel; some overlap."""
    x0, x1 = np.sort(rng.integers(0, width * FINE, (2, num_boxes)), axis=0)
    y0, y1 = np.sort(rng.integers(0, height * FINE, (2, num_boxes)), axis=0)
    return np.stack((x0, y0, x1 + 1, y1 + 1), axis=1) / FINE


def inside_by_points(boxes, width, height):
    """True where a point of the fine picture is in any box."""
    inside = np.zeros((height * FINE, width * FINE), dtype=bool)
    for x0, y0, x1, y1 in (boxes * FINE).astype(int):
        inside[y0:y1, x0:x1] = True
    return inside


def saliency_by_points(field, boxes_of_frame):
    """The definition, by a loop over frames and masks of points."""
    ratios = []
    for vectors, known, boxes in zip(field.pixels(), field.known, boxes_of_frame, strict=True):
        length, known = (
            cells.repeat(8 * FINE, 0).repeat(8 * FINE, 1)[: HEIGHT * FINE, : WIDTH * FINE]
            for cells in (np.linalg.norm(vectors.astype(float), axis=-1), known)
        )
        inside = inside_by_points(boxes, WIDTH, HEIGHT)
        whole = length[known].mean()
        parts = known & inside, known & ~inside
        ratios.append([length[part].mean() / whole for part in parts])
    return np.mean(ratios, axis=0)


@pytest.mark.parametrize("num_boxes", [1, 2, 7])
def test_the_measure_equals_its_definition_point_by_point(num_boxes):
    field = random_field(num_boxes)
    rng = np.random.default_rng(num_boxes)
    boxes = [random_boxes(rng, num_boxes) for _ in field.valid]
    found = saliency(field, boxes, WIDTH, HEIGHT)
    assert (found.r_bbox, found.r_non_bbox) == pytest.approx(saliency_by_points(field, boxes))
    assert found.frames_used == len(field.valid) and not any(found.left_out.values())


def test_where_boxes_overlap_a_cell_is_covered_once():
    rng = np.random.default_rng(0)
    for num_boxes in (1, 3, 12):
        boxes = random_boxes(rng, num_boxes, 160, 112)
        points = inside_by_points(boxes, 160, 112)
        cells = points.reshape(14, 8 * FINE, 20, 8 * FINE).mean((1, 3))
        assert np.allclose(cell_shares(boxes, 20, 14), cells)
    assert not cell_shares(np.empty((0, 4)), 20, 14).any()


def boxes_around_square(clip):
    """For every frame `[1, 4]`."""
    corners = [clip.corner(number) for number in range(clip.num_frames)]
    return [np.array([[x, y, x + SQUARE_PIXELS, y + SQUARE_PIXELS]], float) for x, y in corners]


@pytest.mark.parametrize("name", ["h264", "mpeg4", "mpeg2", "h264 with B-frames and references"])
def test_the_box_of_what_moves_is_salient_and_others_are_not(name):
    clip = CLIPS[name]
    field = read_motion(clip.path())
    on = saliency(field, boxes_around_square(clip), clip.width, clip.height)
    assert on.r_bbox > 4 > 0.5 > on.r_non_bbox
    assert on.frames_used == field.valid.sum()
    corner = [np.array([[112.0, 0.0, 160.0, 20.0]])] * clip.num_frames  # the square never gets here
    off = saliency(field, corner[: len(field.valid)], clip.width, clip.height)
    assert off.r_bbox < 0.3 and off.r_non_bbox > 1


def test_intra_coded_cells_do_not_count():
    field = random_field(1, num_frames=1)
    field.known[:], field.vectors[:] = True, 8
    field.vectors[0, :4, :4] = 80
    boxes = [np.array([[0.0, 0, 64, 64]])]
    before = saliency(field, boxes, WIDTH, HEIGHT)
    field.known[0, 4:8, :4], field.vectors[0, 4:8, :4] = False, 0
    after = saliency(field, boxes, WIDTH, HEIGHT)
    # In units of the motion outside; of 64 cells in the box 16 move ten times as far.
    for found, expected in ((before, (16 * 10 + 48) / 64), (after, (16 * 10 + 32) / 48)):
        assert found.r_bbox / found.r_non_bbox == pytest.approx(expected)


ANY_BOX = np.array([[0.0, 0, 80, 50]])


def test_frames_that_have_no_ratio_are_counted_by_reason():
    field = random_field(2, num_frames=6)
    boxes = [ANY_BOX] * 6
    boxes[1] = np.empty((0, 4))
    field.valid[2], field.known[2], field.vectors[2] = False, False, 0
    boxes[3] = np.array([[0.0, 0, WIDTH, HEIGHT]])
    field.vectors[4] = 0
    field.known[5, :7, :10] = False
    found = saliency(field, boxes, WIDTH, HEIGHT)
    assert found.frames_used == 1
    expected = {"no_boxes": 1, "no_vectors": 1, "one_sided": 2, "static": 1}
    assert found.left_out == expected and expected.keys() == LEFT_OUT.keys()
    first = MotionField(field.vectors[:1], field.valid[:1], field.known[:1])
    alone = saliency(first, [ANY_BOX], WIDTH, HEIGHT)
    assert (found.r_bbox, found.r_non_bbox) == (alone.r_bbox, alone.r_non_bbox)


def test_a_video_of_which_no_frame_can_be_used_has_no_ratio():
    columns, rows = grid_size(WIDTH, HEIGHT)
    field = MotionField(np.zeros((2, rows, columns, 2), np.int16), np.zeros(2, dtype=bool))
    found = saliency(field, [ANY_BOX] * 2, WIDTH, HEIGHT)
    assert math.isnan(found.r_bbox) and found.frames_used == 0


def test_the_interval_holds_the_ratio_and_shrinks_with_more_videos():
    rng = np.random.default_rng(0)
    widths = []
    for num_videos in (10, 1000):
        inside = rng.normal(1.5, 0.3, num_videos)
        outside = rng.normal(1.0, 0.2, num_videos)
        ratio, low, high = ratio_interval(inside, outside, np.random.default_rng(1))
        assert ratio == pytest.approx(inside.mean() / outside.mean())
        assert low < ratio < high
        again = ratio_interval(inside, outside, np.random.default_rng(1))
        assert again == (ratio, low, high)
        widths.append(high - low)
    # Gaussian error propagation for 1000 videos: 1.5 * sqrt(.2^2 + .2^2) / sqrt(1000), 1.96 times
    assert widths[1] == pytest.approx(2 * 1.96 * 1.5 * 0.283 / math.sqrt(1000), rel=0.2)
    assert widths[0] > 3 * widths[1]


def test_a_ratio_to_nothing_is_infinite():
    ones, zeros = np.ones(3), np.zeros(3)
    assert ratio_interval(ones, zeros, np.random.default_rng(0)) == (math.inf,) * 3


CLIP = Clip(num_frames=12)
HEADER = "path,frame,x0,y0,x1,y1\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`videos.csv` lists `clips/a b.mp4`, `clips/b.mp4`, the same, and `gone.mp4`, which is not."""
    folder = tmp_path_factory.mktemp("saliency")
    (folder / "clips").mkdir()
    for name in ("a b.mp4", "b.mp4"):
        (folder / "clips" / name).write_bytes(CLIP.path().read_bytes())
    (folder / "gone.mp4").write_bytes(CLIP.path().read_bytes())
    names = ("clips/a b.mp4", "clips/b.mp4", "gone.mp4")
    manifest_of(folder / "videos.csv", [folder / name for name in names])
    (folder / "gone.mp4").unlink()
    return folder


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs `mgm-dali saliency` here; gives (status, stdout, stderr)."""

    def run(*arguments, cwd):
        monkeypatch.setattr(sys, "argv", ["mgm-dali", "saliency", *map(str, arguments)])
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "200")
        try:
            main()
            status = 0
        except SystemExit as left:
            status = left.code or 0
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return run


def square_lines(name):
    lines = []
    for number, ((x0, y0, x1, y1),) in enumerate(boxes_around_square(CLIP)):
        lines.append(f"{name},{number},{x0},{y0},{x1},{y1}\n")
    return "".join(lines)


def test_the_command_measures_and_says_what_it_left_out(command, folder):
    lines = square_lines("clips/a b.mp4") + square_lines("clips/b.mp4")
    (folder / "all.csv").write_text(HEADER + lines + "gone.mp4,3,0,0,500,9\nno.mp4,1,0,0,1,1\n")
    status, out, err = command("videos.csv", "all.csv", "-o", "out/each.csv", cwd=folder)
    assert status == 0, err
    expected = saliency(read_motion(CLIP.path()), boxes_around_square(CLIP), 160, 112)
    table = {line.split()[0]: line for line in out.splitlines() if line[0] != " "}
    assert table["videos"].split(maxsplit=1)[1].startswith("2 used, of 3")
    assert "1 that cannot be read" in out and "2 without motion vectors" in out
    assert table["frames"].split()[1] == str(2 * (CLIP.num_frames - 1))
    assert table["r_bbox"].split()[1] == f"{expected.r_bbox:.3f}"
    assert table["r_non_bbox"].split()[1] == f"{expected.r_non_bbox:.3f}"
    ratio = f"{expected.r_bbox / expected.r_non_bbox:.2f}"
    assert table["ratio"].split()[1] == ratio
    assert f"95% interval over videos {ratio} to {ratio}" in out, "both videos are the same"
    assert "cannot be read: gone.mp4: no such file" in err
    assert "1 box(es) over the border" in err and "1 box(es) of videos that videos.csv" in err
    with (folder / "out" / "each.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["clips/a b.mp4", "clips/b.mp4", "gone.mp4"]
    assert float(rows[0]["r_bbox"]) == pytest.approx(expected.r_bbox)
    assert rows[2]["r_bbox"] == "" and "no such file" in rows[2]["problem"]


def test_the_command_reads_a_store_and_subtracts_the_camera(command, tmp_path):
    clip = Clip(num_frames=12, pan=(4, 1))
    (tmp_path / "a.mp4").write_bytes(clip.path().read_bytes())
    manifest_of(tmp_path / "videos.csv", [tmp_path / "a.mp4"])
    (tmp_path / "boxes.csv").write_text(HEADER + square_lines("a.mp4"))
    from mgm_dali.motion.store import MotionStoreWriter, fingerprint

    with MotionStoreWriter(tmp_path / "store", 0, 1, source="codec") as writer:
        keep(writer, fingerprint(tmp_path / "a.mp4"), read_motion(tmp_path / "a.mp4"))
    ratios = []
    for options in ((), ("--store", "store"), ("--store", "store", "--subtract-camera")):
        status, out, err = command("videos.csv", "boxes.csv", *options, cwd=tmp_path)
        assert status == 0, err
        ratios.append(float(out.splitlines()[-1].split()[1]))
        assert "one video only" in out
    assert ratios[0] == ratios[1] < 1, "the background is faster than the square"
    assert ratios[2] > 5


def test_without_any_ratio_the_command_says_why(command, tmp_path):
    (tmp_path / "a.webm").write_bytes(CLIPS["vp9"].path().read_bytes())
    manifest_of(tmp_path / "videos.csv", [tmp_path / "a.webm"])
    (tmp_path / "boxes.csv").write_text(HEADER + "a.webm,3,0,0,9,9\na.webm,4,0,0,9,9\n")
    status, out, err = command("videos.csv", "boxes.csv", cwd=tmp_path)
    assert status == 1 and "2 without motion vectors" in out and "22 without a box" in out
    *_, line = err.strip().splitlines()
    assert line.startswith("error: boxes.csv: no frame gives a ratio") and "block_matching" in line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--source", "codek"), "--source 'codek': expected one of block_matching, codec"),
        (("--source", "raft"), "extract a store first"),
        (("--source", "store"), "--store FOLDER: is needed"),
        (("--source", "codec", "--store", "x"), "--store FOLDER: is needed"),
        (("--store", "x"), "no motion store there"),
    ],
)
def test_a_source_that_cannot_be_is_one_line(command, folder, options, part):
    status, out, err = command("videos.csv", "boxes.csv", *options, cwd=folder)
    assert status == 1 and not out
    assert err.startswith("error: ") and part in err and len(err.splitlines()) == 1
