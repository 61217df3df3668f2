"""Both ways of cutting a box out of frames: DALI's, which is meant for GPUs, runs on CPUs too."""

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types

from mgm_dali.pipelines.resize import CUTTERS

NUM_CLIPS = 64


@pipeline_def(batch_size=NUM_CLIPS, num_threads=2, device_id=None)
def cut(arrays, name, size):
    pixels, start, end = fn.external_source(
        source=iter([arrays]),
        num_outputs=3,
        layout=["FHWC", "", ""],
        dtype=[types.UINT8, types.FLOAT, types.FLOAT],
    )
    return CUTTERS[name](pixels, (start, end), size)


def random_clips(rng):
    """Noise of random sizes, and boxes in it; half of them run from right to left."""
    pixels, starts, ends = [], [], []
    for clip in range(NUM_CLIPS):
        height, width = rng.integers(20, 90, 2)
        pixels.append(rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8))
        top, left = int(rng.integers(height)), int(rng.integers(width))
        bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
        left, right = (right, left) if clip % 2 else (left, right)
        starts.append(np.array((top, left), np.float32))
        ends.append(np.array((bottom, right), np.float32))
    return pixels, starts, ends


@pytest.mark.parametrize("size", [16, 48, 112])
def test_the_ways_of_cutting_agree_within_one_level(size):
    arrays = random_clips(np.random.default_rng(size))
    by_name = {name: np.array(cut(arrays, name, size).run()[0].as_tensor()) for name in CUTTERS}
    assert by_name["cpu"].shape == (NUM_CLIPS, 2, size, size, 3)
    difference = by_name["cpu"].astype(int) - by_name["cuda"]
    assert np.abs(difference).max() <= 1 and np.abs(difference).mean() < 0.3


@pytest.mark.parametrize("name", CUTTERS)
def test_a_box_of_the_clips_own_size_is_copied(name):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    start, end = np.array((3, 7), np.float32), np.array((35, 39), np.float32)
    swapped = np.array((3, 39), np.float32), np.array((35, 7), np.float32)
    starts = [start, swapped[0]] * (NUM_CLIPS // 2)
    ends = [end, swapped[1]] * (NUM_CLIPS // 2)
    found = np.array(cut(([pixels] * NUM_CLIPS, starts, ends), name, 32).run()[0].as_tensor())
    assert (found[0] == pixels[:, 3:35, 7:39]).all()
    assert (found[1] == pixels[:, 3:35, 38:6:-1]).all()


@pytest.mark.parametrize("name", CUTTERS)
def test_nothing_outside_of_the_box_is_seen(name):
    """White inside, black outside: a mean of both would be grey."""
    pixels = np.zeros((2, 40, 60, 3), np.uint8)
    pixels[:, 10:20, 30:50] = 255
    start, end = np.array((10, 30), np.float32), np.array((20, 50), np.float32)
    clips = ([pixels] * NUM_CLIPS, [start] * NUM_CLIPS, [end] * NUM_CLIPS)
    assert (np.array(cut(clips, name, 64).run()[0].as_tensor()) == 255).all()
