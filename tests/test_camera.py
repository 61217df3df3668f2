"""The camera's motion: found within a tenth of a pixel, and gone where it is subtracted."""

import numpy as np
import pytest
from camera_videos import CAMERAS
from videos import Clip, shared

from mgm_dali.config import RunConfig
from mgm_dali.motion.camera import MIN_CELLS, estimate_camera, subtract_camera
from mgm_dali.motion.codec import read_motion
from mgm_dali.motion.field import MotionField
from mgm_dali.video.manifest import Video, write_manifest
from mgm_dali.video.reader import probe

ROWS, COLUMNS = 30, 40


def places(rows, columns):
    """`[h, w, 3]`: (x, y, 1) at the centres of the cells, in pixels from the field's centre."""
    row, column = np.indices((rows, columns)) + 0.5
    return np.stack((8 * (column - columns / 2), 8 * (row - rows / 2), np.ones_like(row)), axis=2)


def displacement(camera, rows, columns):
    """`[T, h, w, 2]` in pixels, of what the camera moves."""
    return np.einsum("tij,hwj->thwi", camera, places(rows, columns))


def field_of(pixels, known=None):
    """A field whose vectors are the nearest quarter pixels; unknown cells hold 0."""
    vectors = np.rint(4 * pixels).astype(np.int16)
    if known is None:
        return MotionField(vectors, np.ones(len(vectors), dtype=bool))
    return MotionField(vectors * known[..., None], known.any((1, 2)), known)


def median_length(field, where):
    return np.median(np.linalg.norm(field.pixels()[where], axis=-1))


@pytest.fixture(scope="module")
def fields():
    """`fields(name)` reads one of CAMERAS, once."""
    read = {}
    return lambda name: read.setdefault(name, read_motion(CAMERAS[name].path()))


@pytest.mark.parametrize("name", CAMERAS)
def test_the_camera_of_a_known_clip_is_found(fields, name):
    clip, field = CAMERAS[name], fields(name)
    assert field.valid.sum() == clip.num_frames - 1
    found = estimate_camera(field)[field.valid]
    assert np.abs(found[:, :, :2] - clip.camera()[:, :2]).max() < 0.001
    assert np.abs(found[:, :, 2] - clip.camera()[:, 2]).max() < 0.06
    expected = displacement(clip.camera()[None], ROWS, COLUMNS)
    assert np.abs(displacement(found, ROWS, COLUMNS) - expected).max() < 0.15


@pytest.mark.parametrize("name", CAMERAS)
def test_what_is_left_is_the_squares_own_motion(fields, name):
    clip, field = CAMERAS[name], fields(name)
    left = subtract_camera(field)
    camera = displacement(clip.camera()[None], ROWS, COLUMNS)[0]
    for frame in np.flatnonzero(field.valid):
        background = clip.outside(frame) & field.known[frame]
        assert median_length(left, (frame, background)) <= 0.25
        square = clip.inside(frame) & field.known[frame]
        own = np.array(clip.velocity) - camera[square]
        assert np.abs(np.median(left.pixels()[frame, square] - own, axis=0)).max() < 0.2
        assert square.sum() > 5


def test_a_still_camera_changes_nothing(fields):
    field = fields("still")
    assert np.array_equal(subtract_camera(field).vectors, field.vectors)
    assert field.vectors.any()


def affine_scene(seed, scattered):
    """Known cameras, 40% of the cells moving otherwise, 10% unknown, and noise.

    Gives the field, the cameras `[T, 2, 3]`, and which cells follow them.
    """
    rng = np.random.default_rng(seed)
    num_frames = 8
    camera = np.zeros((num_frames, 2, 3))
    camera[:, :, :2] = rng.uniform(-0.03, 0.03, (num_frames, 2, 2))
    camera[:, :, 2] = rng.uniform(-10, 10, (num_frames, 2))
    pixels = displacement(camera, ROWS, COLUMNS)
    away = np.zeros(pixels.shape[:3], dtype=bool)
    if scattered:
        away = rng.random(away.shape) < 0.4
        pixels[away] = rng.uniform(-30, 30, (away.sum(), 2))
    else:
        for frame in range(num_frames):  # one thing that is 40% of the picture
            top, left = rng.integers(ROWS - 20 + 1), rng.integers(COLUMNS - 24 + 1)
            away[frame, top : top + 20, left : left + 24] = True
            angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(6, 20)
            own = speed * np.array((np.cos(angle), np.sin(angle)))
            pixels[frame][away[frame]] = camera[frame] @ (0, 0, 1) + own
    pixels += rng.normal(0, 0.2, pixels.shape)
    known = rng.random(away.shape) < 0.9
    return field_of(pixels, known), camera, known & ~away


@pytest.mark.parametrize("scattered", [True, False], ids=["noise", "one large thing"])
@pytest.mark.parametrize("seed", range(3))
def test_forty_percent_outliers_cost_no_more_than_a_tenth_of_a_pixel(seed, scattered):
    """Against least squares on the cells of which the test knows that they follow the camera."""
    field, camera, follows = affine_scene(seed, scattered)
    found = displacement(estimate_camera(field), ROWS, COLUMNS)
    for frame, cells in enumerate(follows):
        where, moved = places(ROWS, COLUMNS)[cells], field.pixels()[frame, cells]
        best = np.linalg.lstsq(where, moved, rcond=None)[0].T
        error = np.abs(found[frame] - displacement(best[None], ROWS, COLUMNS)[0])
        assert error.mean() < 0.1 and error.max() < 0.3
        naive_where = places(ROWS, COLUMNS)[field.known[frame]]
        naive = np.linalg.lstsq(naive_where, field.pixels()[frame, field.known[frame]], rcond=None)
        naive_error = displacement(naive[0].T[None] - camera[frame], ROWS, COLUMNS)
        assert np.abs(naive_error).max() > 1, "the outliers would have mattered"


def test_every_frame_is_judged_by_itself():
    field, _, _ = affine_scene(5, scattered=False)
    field.known[3, 2:] = False
    together, left = estimate_camera(field), subtract_camera(field)
    for frame in range(len(together)):
        one = slice(frame, frame + 1)
        alone = MotionField(field.vectors[one], field.valid[one], field.known[one])
        assert np.array_equal(estimate_camera(alone)[0], together[frame])
        assert np.array_equal(subtract_camera(alone).vectors[0], left.vectors[frame])
    again = MotionField(field.vectors[::-1], field.valid[::-1], field.known[::-1])
    assert np.array_equal(estimate_camera(again)[::-1], together)


def test_what_unknown_cells_hold_does_not_count():
    field, _, _ = affine_scene(6, scattered=True)
    vectors = field.vectors.copy()
    vectors[~field.known] = 30000
    strange = MotionField(vectors, field.valid, field.known)
    assert np.array_equal(estimate_camera(strange), estimate_camera(field))
    assert np.array_equal(subtract_camera(strange).vectors, subtract_camera(field).vectors)


def test_unknown_cells_and_invalid_frames_stay_as_they_are():
    field, _, _ = affine_scene(7, scattered=True)
    before = field.vectors.copy()
    field.known[2], field.valid[2], field.vectors[2], before[2] = False, False, 0, 0
    left = subtract_camera(field)
    assert np.array_equal(left.valid, field.valid) and np.array_equal(left.known, field.known)
    assert not left.vectors[~field.known].any() and not estimate_camera(field)[2].any()
    assert np.array_equal(field.vectors, before), "the field that was given is not touched"


def test_a_static_frame_has_a_camera_of_exact_zeros():
    field = field_of(np.zeros((2, ROWS, COLUMNS, 2)))
    assert not estimate_camera(field).any() and not subtract_camera(field).vectors.any()


def line(horizontal):
    """All known cells in one row or column, of a pan with a zoom."""
    pixels = displacement(np.array([[[0.02, 0, 5], [0, 0.02, -3]]]), ROWS, COLUMNS)
    known = np.zeros((1, ROWS, COLUMNS), dtype=bool)
    known[(0, 4) if horizontal else (0, slice(None), 7)] = True
    return field_of(pixels, known)


@pytest.mark.parametrize("horizontal", [True, False])
def test_cells_in_a_line_tell_the_motion_along_it(horizontal):
    field = line(horizontal)
    assert median_length(field, field.known) > 4
    assert np.abs(subtract_camera(field).vectors).max() <= 1


@pytest.mark.parametrize(("rows", "columns"), [(1, 16), (16, 1), (2, 9), (8, 8), (135, 240)])
def test_a_pan_is_found_in_a_field_of_any_size(rows, columns):
    field = field_of(np.broadcast_to((7.25, -4.5), (2, rows, columns, 2)))
    assert np.abs(estimate_camera(field)[:, :, 2] - (7.25, -4.5)).max() < 1e-3
    assert not subtract_camera(field).vectors.any()


def test_of_too_few_cells_nothing_is_taken_for_the_camera():
    known = np.zeros((2, ROWS, COLUMNS), dtype=bool)
    known[0, 3, : MIN_CELLS - 1] = known[1, 3, :MIN_CELLS] = True
    left = subtract_camera(field_of(np.full((2, ROWS, COLUMNS, 2), 6.0), known))
    assert (left.vectors[0][known[0]] == 24).all() and not left.vectors[1].any()


def huge(rng, shape):
    limits = np.iinfo(np.int16)
    return rng.choice([limits.min, limits.max], shape).astype(np.int16)


EXTREME = {
    "no frame": np.zeros((0, 4, 5, 2), dtype=np.int16),
    "one cell": np.full((3, 1, 1, 2), 7, dtype=np.int16),
    "longest vectors one way": np.full((2, 20, 20, 2), 32767, dtype=np.int16),
    "longest vectors both ways": huge(np.random.default_rng(0), (2, 20, 20, 2)),
    "any vectors": np.random.default_rng(1).integers(-32768, 32767, (2, 20, 20, 2), dtype=np.int16),
    "a wide strip": np.random.default_rng(2).integers(-99, 99, (2, 2, 400, 2), dtype=np.int16),
}


@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.parametrize("share_known", [0.0, 0.05, 1.0])
def test_extreme_fields_give_numbers_and_no_warning(name, share_known):
    vectors = EXTREME[name].copy()
    known = np.random.default_rng(3).random(vectors.shape[:3]) < share_known
    vectors[~known] = 0
    field = MotionField(vectors, known.any((1, 2)), known)
    assert np.isfinite(estimate_camera(field)).all()
    left = subtract_camera(field)
    assert left.vectors.shape == vectors.shape and left.vectors.dtype == np.int16
    assert not left.vectors[~known].any()


def test_a_camera_that_is_faster_than_vectors_can_tell_does_not_wrap_around():
    vectors = np.full((1, 20, 20, 2), 30000, dtype=np.int16)
    vectors[0, 5, 5] = -30000
    left = subtract_camera(MotionField(vectors, np.ones(1, dtype=bool)))
    assert (left.vectors[0, 5, 5] == -32768).all()
    assert np.count_nonzero(left.vectors) == 2, "all others stand still"


def test_a_real_panned_clip_calms_down():
    field = read_motion(shared("real/k400/mmaction2_test.mp4"))
    left = subtract_camera(field)
    before, after = (median_length(each, field.known) for each in (field, left))
    assert before > 3 and after < 0.5 * before


def test_the_loader_subtracts_the_camera_where_it_is_told_to(tmp_path):
    from mgm_dali.pipelines import Share, make_loader

    path = Clip(pan=(3, 1), start=(80, 40), velocity=(1, 0), num_frames=12).path()
    rows = [Video(path=path, label=None, **vars(probe(path)))]
    write_manifest(tmp_path / "videos.csv", rows, ())
    batches = []
    for subtract in (False, True):
        sections = {
            "device": "cpu",
            "data": {"train": tmp_path / "videos.csv", "num_workers": 0},
            "clip": {"stride_frames": 1},
            "augment": {"crop": "center", "flip": False},
            "motion": {"subtract_camera": subtract},
            "model": {"name": "vit_micro", "num_frames": 12, "image_size": 112},
        }
        loader = make_loader(RunConfig.model_validate(sections), "pretrain", Share(1))
        batches.append(next(iter(loader)))
    plain, relative = batches
    assert (plain.video == relative.video).all()
    assert (plain.motion_valid == relative.motion_valid).all()
    frames = plain.motion_valid[0]
    # The square is always right of the crop's first four columns: 24 of 80 pixels are cut off.
    background = plain.motion[0, frames, :, :4].flatten(0, 2).median(0).values.numpy()
    assert np.abs(background - (3, 1)).max() < 0.3
    assert relative.motion[0, frames, :, :4].norm(dim=-1).median() < 0.3
