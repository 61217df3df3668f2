"""Crops: inside the frame, of the sizes they should have, for every kind."""

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
