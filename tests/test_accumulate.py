"""Motion over a whole stride: equal to following single cells by hand, and to what was drawn."""

import numpy as np
import pytest
from videos import Clip

from mgm_dali.config import RunConfig
from mgm_dali.motion import MotionField, read_motion
from mgm_dali.motion.accumulate import LONGEST_WINDOW, accumulate, window_frames
from mgm_dali.motion.extract import extract
from mgm_dali.motion.recipe import Recipe
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.video.manifest import Video, read_manifest, write_manifest
from mgm_dali.video.reader import probe

MOVING = Clip(num_frames=40, gop=250, start=(16, 56), velocity=(2, -1))


def manifest_in(folder):
    """A manifest of one video."""
    path = MOVING.path()
    write_manifest(folder / "videos.csv", [Video(path=path, label=0, **vars(probe(path)))], ["any"])
    return folder / "videos.csv"


def followed_by_hand(field, first, last):
    """Vectors of frame `last` since the frame before `first`, cell by cell in plain Python."""
    _, rows, columns, _ = field.vectors.shape
    ways, known = np.zeros((rows, columns, 2), int), np.zeros((rows, columns), bool)
    for row in range(rows):
        for column in range(columns):
            # In quarter pixels, from the middle of the cell.
            x, y = column * 32 + 16, row * 32 + 16
            for frame in range(last, first - 1, -1):
                at_row = min(max(y // 32, 0), rows - 1)
                at_column = min(max(x // 32, 0), columns - 1)
                dx, dy = map(int, field.vectors[frame, at_row, at_column])
                known[row, column] |= field.known[frame, at_row, at_column]
                x, y = x - dx, y - dy
            ways[row, column] = column * 32 + 16 - x, row * 32 + 16 - y
    return ways, known


def random_field(num_frames, seed, most=120):
    rng = np.random.default_rng(seed)
    known = rng.random((num_frames, 5, 7)) < 0.6
    known[rng.random(num_frames) < 0.2] = False
    vectors = rng.integers(-most, most, (num_frames, 5, 7, 2), dtype=np.int16)
    vectors[~known] = 0
    return MotionField(vectors, known.any((1, 2)), known)


@pytest.mark.parametrize("frames", [(0, 4, 8, 12), (3, 5, 6, 13), (7,), (2, 9, 9, 9), (19, 19)])
def test_cells_are_followed_as_by_hand(frames):
    field = random_field(20, seed=len(frames))
    read = window_frames(np.array(frames))
    part = MotionField(field.vectors[read], field.valid[read], field.known[read])
    found = accumulate(part, read, np.array(frames))
    different = sorted(set(frames))
    gap = different[1] - different[0] if len(different) > 1 else 1
    for place, frame in enumerate(frames):
        if place and frame == frames[place - 1]:  # it has not moved since it was shown
            assert not found.vectors[place].any() and not found.known[place].any()
            assert not found.valid[place]
            continue
        earlier = [number for number in different if number < frame]
        first = earlier[-1] + 1 if earlier else max(frame - gap + 1, 0)
        ways, known = followed_by_hand(field, first, frame)
        assert (found.vectors[place] == ways).all() and (found.known[place] == known).all()
        assert found.valid[place] == known.any()


def test_windows_hold_the_frames_between_and_no_more():
    assert window_frames(np.array([4, 8, 12])).tolist() == list(range(1, 13))
    assert window_frames(np.array([0, 3])).tolist() == [0, 1, 2, 3]
    assert window_frames(np.array([5])).tolist() == [5]
    assert len(window_frames(np.array([0, 1000]))) == 1 + LONGEST_WINDOW


def test_motion_too_long_for_its_numbers_ends_at_their_limit():
    field = random_field(20, seed=0)
    field.vectors[...], field.known[...] = 32767, True
    found = accumulate(field, np.arange(20), np.array([0, 19]))
    assert (found.vectors[1] == 32767).all()


@pytest.mark.parametrize("stride", [2, 4])
def test_a_square_has_moved_a_whole_stride(stride):
    frames = np.arange(8, 24, stride)
    read = window_frames(frames)
    found = accumulate(read_motion(MOVING.path(), read), read, frames)
    for place, frame in enumerate(frames):
        inside = MOVING.inside(frame) & found.known[place]
        moved = np.median(found.pixels()[place][inside], axis=0)
        assert np.abs(moved - stride * np.array(MOVING.velocity)).max() <= 0.5


def test_an_i_frame_between_does_not_blind_its_window():
    clip = Clip(num_frames=24, gop=12, start=(16, 56), velocity=(2, -1))
    alone = read_motion(clip.path(), [8, 12])
    read = window_frames(np.array([8, 12]))
    found = accumulate(read_motion(clip.path(), read), read, np.array([8, 12]))
    assert not alone.valid[1] and found.valid.all()
    moved = np.median(found.pixels()[1][clip.inside(12)], axis=0)
    assert np.abs(moved - 3 * np.array(clip.velocity)).max() <= 0.5  # three of four have vectors


@pytest.mark.parametrize("source", ["codec", "store", "block_matching"])
def test_the_loader_gives_motion_of_the_whole_stride_from_any_source(tmp_path, source):
    manifest = manifest_in(tmp_path)
    data = {"train": manifest, "num_workers": 0}
    if source == "store":
        extract(read_manifest(manifest), tmp_path / "store", Recipe(), num_workers=1)
        data["motion_store"] = tmp_path / "store"
    medians = {}
    for accumulated in ("frame", "window"):
        config = RunConfig.model_validate(
            {
                "device": "cpu",
                "data": data,
                "clip": {"stride_frames": 4},
                "motion": {"source": source, "accumulate": accumulated},
                "augment": {"crop": "center", "flip": False},
                "model": {"name": "vit_micro", "num_frames": 4, "image_size": 112},
            }
        )
        with make_loader(config, "pretrain", Share(1)) as loader:
            batch = next(iter(loader))
        moving = batch.motion[0, 2][batch.motion_known[0, 2]]
        moving = moving[moving.norm(dim=-1) > 1]
        medians[accumulated] = moving.median(0).values.numpy()
    assert np.abs(medians["frame"] - MOVING.velocity).max() <= 0.5
    assert np.abs(medians["window"] - 4 * np.array(MOVING.velocity)).max() <= 1


def test_warped_masks_follow_whole_strides_unless_told_otherwise():
    expected = {
        ("motion_guided", "auto"): False,
        ("flow_warp", "auto"): True,
        ("flow_warp", "frame"): False,
        ("motion_guided", "window"): True,
    }
    for (strategy, accumulated), follows in expected.items():
        config = RunConfig.model_validate(
            {"mask": {"strategy": strategy}, "motion": {"accumulate": accumulated}}
        )
        assert config.accumulates_motion == follows
