"""The benchmark of estimated motion: its comparison is right, and it runs to the end."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import PictureType

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import estimates
from videos import Clip

from mgm_dali.motion import MotionField
from mgm_dali.motion.codec import iter_vectors
from mgm_dali.video.manifest import Video
from mgm_dali.video.reader import decode_all_frames, probe

CLIP = Clip(num_frames=30, b_frames=2, refs=3, gop=8)


def test_only_cells_that_both_know_are_compared_and_in_pixels():
    rng = np.random.default_rng(3)
    fields = []
    for _ in range(2):
        known = rng.random((4, 3, 5)) < 0.7
        known[0] = False
        vectors = rng.integers(-9, 10, (4, 3, 5, 2)).astype(np.int16) * known[..., None]
        fields.append(MotionField(vectors, known.any((1, 2)), known))
    one, other = fields
    distances = [
        sum((int(a) - int(b)) ** 2 for a, b in zip(one.vectors[at], other.vectors[at], strict=True))
        ** 0.5
        / 4
        for at in np.ndindex(4, 3, 5)
        if one.known[at] and other.known[at]
    ]
    found = estimates.compared(one, other)
    assert found["median_pixels"] == pytest.approx(np.median(distances))
    near = sum(distance <= 1 for distance in distances) / len(distances)
    assert found["near_share"] == pytest.approx(near)


def test_what_is_encoded_anew_has_one_interval_in_every_vector(tmp_path):
    video = Video(path=CLIP.path(), label=None, **vars(probe(CLIP.path())))
    assert estimates.encode_anew(video, tmp_path / "anew.mp4", 20) == 20
    kinds = [
        PictureType(frame.pict_type).name for _, frame in decode_all_frames(tmp_path / "anew.mp4")
    ]
    assert kinds == ["I"] + 19 * ["P"]
    (_, none), *others = iter_vectors(tmp_path / "anew.mp4")
    assert none is None
    assert all((vectors["source"] < 0).all() for _, vectors in others), "each from what was before"


def test_the_script_measures_each_estimate(tmp_path):
    numbers = tmp_path / "numbers.json"
    command = [sys.executable, estimates.__file__, "--quick", "--videos", CLIP.path()]
    done = subprocess.run(
        [*command, "--json", numbers], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(numbers.read_text())["estimates"]
    assert set(found) == set(estimates.ESTIMATES)
    for of_videos in found.values():
        (facts,) = of_videos.values()
        assert facts["near_share"] > 0.5 and facts["median_pixels"] < 1
