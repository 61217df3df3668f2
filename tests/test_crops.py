"""Crops: inside the frame, of the sizes they should have, for every kind."""

from collections import Counter

import numpy as np
import pytest

from mgm_dali.clips.crops import CROPS, random_crop, view_crop
from mgm_dali.config import AugmentConfig


@pytest.mark.parametrize("kind", CROPS)
@pytest.mark.parametrize("size", [(240, 320), (320, 240), (64, 64), (17, 300), (1080, 33)])
def test_every_crop_lies_inside_the_frame(kind, size):
    rng = np.random.default_rng(0)
    config = AugmentConfig(crop=kind)
    for _ in range(300):
        crop = random_crop(config, *size, 64, rng)
        assert 0 <= crop.top < crop.bottom <= size[0]
        assert 0 <= crop.left < crop.right <= size[1]


def test_multi_scale_crops_use_four_scales_of_the_short_side_and_thirteen_places():
    rng = np.random.default_rng(0)
    crops = [random_crop(AugmentConfig(), 256, 340, 224, rng) for _ in range(3000)]
    sides = {256, 224, 192, 168}
    assert {crop.height for crop in crops} == sides
    assert {crop.width for crop in crops} == sides
    full = {(c.top, c.left) for c in crops if (c.height, c.width) == (192, 192)}
    assert len(full) == 13
    assert (0, 0) in full and (64, 148) in full and (32, 74) in full


def videomae_boxes(height, width, size):
    """Every (top, left, height, width) of VideoMAE's multi-scale crop with how often it is drawn.

    Sides are 1, 0.875, 0.75 and 0.66 of the short side; two that are neighbours in this row, or
    the same, make a box; a side less than 3 pixels from the clip's becomes the clip's. A box lies
    at one of thirteen points on a grid of quarters of the room that is left.
    """
    sides = []
    for scale in (1, 0.875, 0.75, 0.66):
        side = int(min(height, width) * scale)
        sides.append(size if abs(side - size) < 3 else side)
    drawn = Counter()
    for i, box_height in enumerate(sides):
        for j, box_width in enumerate(sides):
            if abs(i - j) > 1:
                continue
            down, right = (height - box_height) // 4, (width - box_width) // 4
            corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
            crosses = [(2, 2), (0, 2), (2, 0), (2, 4), (4, 2)]
            between = [(1, 1), (1, 3), (3, 1), (3, 3)]
            for rows, columns in corners + crosses + between:
                drawn[rows * down, columns * right, box_height, box_width] += 1
    assert sum(drawn.values()) == 10 * 13
    return drawn


@pytest.mark.parametrize("size", [(256, 340), (340, 256), (241, 241), (120, 457)])
def test_multi_scale_crops_are_videomaes_and_all_equally_likely(size):
    expected = videomae_boxes(*size, 112)
    generator = np.random.default_rng(0)
    total = 26_000
    drawn, flips = Counter(), 0
    for _ in range(total):
        crop = random_crop(AugmentConfig(), *size, 112, generator)
        drawn[crop.top, crop.left, crop.height, crop.width] += 1
        flips += crop.flip
    assert set(drawn) == set(expected)
    means = {box: total * weight / 130 for box, weight in expected.items()}
    chi_square = sum((drawn[box] - mean) ** 2 / mean for box, mean in means.items())
    freedom = len(means) - 1
    # mean `freedom`, variance twice that: five deviations above is one in a million
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5
    assert abs(flips / total - 0.5) < 0.02


def test_the_sides_and_the_place_of_a_multi_scale_crop_are_drawn_apart():
    generator = np.random.default_rng(1)
    pairs, places = Counter(), Counter()
    total = 13_000
    for _ in range(total):
        crop = random_crop(AugmentConfig(), 400, 800, 112, generator)
        pairs[crop.height, crop.width] += 1
        down, right = (400 - crop.height) // 4, (800 - crop.width) // 4
        places[crop.top // down if down else -1, crop.left // right] += 1
    assert len(pairs) == 10 and all(abs(n - 1300) < 175 for n in pairs.values())
    # A box of the whole height has no room up or down: 3 of 13 places are left, in 2 of 10 pairs.
    inside = {place: n for place, n in places.items() if place[0] >= 0}
    assert len(inside) == 13 and all(abs(n - 800) < 140 for n in inside.values())


@pytest.mark.parametrize("size", [(112, 112), (111, 130), (114, 112), (90, 400), (113, 115)])
def test_a_crop_of_a_video_near_the_clips_size_stays_inside(size):
    """Snapping to the clip's side must not reach over the border of a video just below it."""
    generator = np.random.default_rng(2)
    for _ in range(500):
        crop = random_crop(AugmentConfig(), *size, 112, generator)
        assert 0 <= crop.top < crop.bottom <= size[0]
        assert 0 <= crop.left < crop.right <= size[1]


def test_a_side_almost_as_long_as_the_clip_becomes_as_long():
    rng = np.random.default_rng(0)
    heights = {random_crop(AugmentConfig(), 258, 400, 224, rng).height for _ in range(500)}
    assert 224 in heights and 225 not in heights  # 0.875 * 258 = 225.75


def test_random_resized_crops_keep_area_and_ratio_in_their_bounds():
    rng = np.random.default_rng(0)
    config = AugmentConfig(crop="random_resized", min_area=0.3)
    for _ in range(500):
        crop = random_crop(config, 240, 320, 64, rng)
        assert 0.28 < crop.height * crop.width / (240 * 320) <= 1.0
        assert 0.73 < crop.width / crop.height < 1.36


def test_half_of_the_clips_are_mirrored_unless_it_is_off():
    rng = np.random.default_rng(0)
    flips = [random_crop(AugmentConfig(), 64, 64, 64, rng).flip for _ in range(1000)]
    assert 440 < sum(flips) < 560
    still = AugmentConfig(flip=False)
    assert not any(random_crop(still, 64, 64, 64, rng).flip for _ in range(100))


def test_three_view_crops_cover_the_longer_side():
    wide = [view_crop(240, 320, k, 3) for k in range(3)]
    assert [crop.left for crop in wide] == [0, 40, 80]
    assert all((crop.height, crop.width, crop.top) == (240, 240, 0) for crop in wide)
    tall = [view_crop(320, 240, k, 3) for k in range(3)]
    assert [crop.top for crop in tall] == [0, 40, 80]
    assert view_crop(240, 320, 0, 1).left == 40


def test_the_table_knows_the_same_names_as_the_config():
    assert set(CROPS) == set(AugmentConfig.model_fields["crop"].annotation.__args__)
