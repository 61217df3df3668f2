"""The demo set: reproducible files, motion as the table says, and odd input among them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from mgm_dali.demo_scenes import draw_video
from mgm_dali.demo_videos import DEMO_CLASSES, make_demo_videos
from mgm_dali.errors import UserError

NUM_VIDEOS = 16


@pytest.fixture(scope="module")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    make_demo_videos(root, NUM_VIDEOS, seed=3, num_workers=2)
    return root


def digests(root: Path) -> dict[str, str]:
    """Relative path to the hash of the content, for every video."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.glob("*/*"))
    }


def shape_centers(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre `[T, 2]` (x, y) and area `[T]` of the shape, which is brighter than any background."""
    inside = frames.min(axis=-1) > 125
    area = inside.sum(axis=(1, 2)).astype(float)
    y, x = np.indices(inside.shape[1:])
    center = np.stack([(inside * x).sum(axis=(1, 2)), (inside * y).sum(axis=(1, 2))], axis=-1)
    return center / area[:, None], area


def turning(center: NDArray[np.float64]) -> float:
    """Above 0 for a way that is clockwise on the screen."""
    arm = center - center.mean(axis=0)
    return float((arm[:-1, 0] * arm[1:, 1] - arm[:-1, 1] * arm[1:, 0]).sum())


def reversals(positions: NDArray[np.float64]) -> int:
    return int((np.diff(np.sign(np.diff(positions[::3]))) != 0).sum())


Moves = Callable[[NDArray[np.float64], NDArray[np.float64]], bool]
MOVES: dict[str, Moves] = {
    "right": lambda center, _: center[-1, 0] - center[0, 0] > 10,
    "left": lambda center, _: center[-1, 0] - center[0, 0] < -10,
    "up": lambda center, _: center[-1, 1] - center[0, 1] < -10,
    "down": lambda center, _: center[-1, 1] - center[0, 1] > 10,
    "clockwise": lambda center, _: turning(center) > 100,
    "counterclockwise": lambda center, _: turning(center) < -100,
    "approach": lambda _, area: area[-1] > 4 * area[0],
    "shake": lambda center, _: reversals(center[:, 0]) >= 4,
}


@pytest.mark.parametrize("class_name", DEMO_CLASSES)
def test_each_class_moves_as_its_table_says(class_name: str) -> None:
    for number in range(10):
        center, area = shape_centers(draw_video(class_name, 64, np.random.default_rng(number)))
        moved = {name for name, moves in MOVES.items() if moves(center, area)}
        assert class_name in moved, f"video {number} was seen to move as {moved}"


def test_appearance_does_not_depend_on_the_class() -> None:
    """The same draw gives the same picture for all classes, up to where the shape stands."""
    mean_colours = [
        draw_video(name, 64, np.random.default_rng(5))[:, :4, :4].mean(axis=(1, 2))
        for name in ("left", "right")
    ]
    np.testing.assert_array_equal(*mean_colours)


def test_codec_vectors_point_the_way_the_shape_moves(demo_root: Path) -> None:
    for class_name, (x, y) in {
        "right": (1, 0),
        "left": (-1, 0),
        "up": (0, -1),
        "down": (0, 1),
    }.items():
        path = sorted((demo_root / class_name).glob("h264_*"))[0]
        strongest = []
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.options = {"flags2": "+export_mvs"}
            for frame in container.decode(video=0):
                data = frame.side_data.get("MOTION_VECTORS")
                if data is not None:
                    vectors = data.to_ndarray()
                    # The motion of the content is from the reference block to this one.
                    moved = np.stack([vectors["motion_x"], vectors["motion_y"]], -1) / -4.0
                    strongest.append(moved[np.hypot(*moved.T).argmax()])
        dx, dy = np.mean(strongest, axis=0)
        assert dx * x + dy * y > 0.5, f"{class_name}: mean strongest vector is ({dx:.2f}, {dy:.2f})"


def test_the_same_seed_makes_byte_identical_files(demo_root: Path, tmp_path: Path) -> None:
    make_demo_videos(tmp_path, NUM_VIDEOS, seed=3, num_workers=0)
    assert digests(tmp_path) == digests(demo_root)
    assert len(digests(demo_root)) == NUM_VIDEOS + 5


def test_another_seed_makes_other_files(demo_root: Path, tmp_path: Path) -> None:
    make_demo_videos(tmp_path, 2, seed=4, num_workers=0)
    ours, theirs = digests(tmp_path), digests(demo_root)
    assert ours and all(ours[name] != theirs[name] for name in ours)


def test_classes_are_balanced_and_no_half_written_file_stays(demo_root: Path) -> None:
    for name in DEMO_CLASSES:
        assert len(list((demo_root / name).glob("h264_*.mp4"))) == NUM_VIDEOS // len(DEMO_CLASSES)
    assert not list(demo_root.rglob("*.partial*"))


def test_hevc_and_vp9_files_are_among_them_and_the_broken_one_cannot_be_opened(
    demo_root: Path,
) -> None:
    codecs = []
    for path in sorted(demo_root.glob("*/*")):
        if path.name.startswith("broken"):
            with pytest.raises(av.error.InvalidDataError):
                av.open(str(path))
            codecs.append("broken")
        else:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                assert (stream.width, stream.height) == (64, 64)
                codecs.append(stream.codec_context.name)
    odd = {name: codecs.count(name) for name in set(codecs)}
    assert odd == {"h264": NUM_VIDEOS, "hevc": 2, "vp9": 2, "broken": 1}


def test_files_that_are_there_already_are_kept(demo_root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo_root.glob("*/*")}
    lost = next(iter(before))
    content = lost.read_bytes()
    lost.unlink()
    seen: list[tuple[int, int]] = []
    make_demo_videos(
        demo_root, NUM_VIDEOS, seed=3, num_workers=0, progress=lambda *at: seen.append(at)
    )
    after = {path: path.stat().st_mtime_ns for path in demo_root.glob("*/*")}
    assert {path for path in after if after[path] != before[path]} == {lost}
    assert lost.read_bytes() == content
    assert seen[-1] == (NUM_VIDEOS + 5, NUM_VIDEOS + 5)


def test_a_folder_of_another_recipe_is_refused(demo_root: Path) -> None:
    with pytest.raises(UserError, match="another recipe"):
        make_demo_videos(demo_root, NUM_VIDEOS, seed=4, num_workers=0)


def test_a_side_that_codecs_dislike_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found 50 .* multiple of 16"):
        make_demo_videos(tmp_path, 1, seed=0, side_pixels=50)
