"""Motion from the codec: the right vectors, of the right frames, with the right sign."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from videos import CLIPS, Clip, medians, same_vectors, shared

from mgm_dali.motion import MotionField, read_clip, read_motion
from mgm_dali.motion.codec import CODECS_WITH_VECTORS, iter_vectors
from mgm_dali.motion.field import Grid, rasterise
from mgm_dali.video.reader import probe, read_frames

# The fields of mv-extractor's rows, in its order; the flags are not among them.
REFERENCE_FIELDS = (
    *("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y"),
    *("motion_x", "motion_y", "motion_scale"),
)
WITH_VECTORS = [kind for kind, clip in CLIPS.items() if not clip.encoder.endswith(("vp9", "265"))]
# Intra refresh puts holes into every frame; the small clip stands still.
MOVING = [kind for kind in WITH_VECTORS if "refresh" not in kind and "small" not in kind]


@pytest.mark.parametrize("name", ["vid_h264", "vid_mpeg4_part2"])
def test_vectors_equal_those_of_mv_extractor_frame_for_frame(name: str) -> None:
    with np.load(shared(f"real/mv_reference/{name}.mvs.npz")) as reference:
        counts, rows = reference["counts"], reference["mvs"]
    ends = np.cumsum(counts)
    num_frames = 0
    for number, vectors in iter_vectors(shared(f"real/mv_reference/{name}.mp4")):
        count = int(counts[number])
        expected = rows[:, ends[number] - count : ends[number]]
        assert (0 if vectors is None else len(vectors)) == count, f"frame {number}"
        if vectors is not None:
            found = np.stack([vectors[field].astype(int) for field in REFERENCE_FIELDS])
            assert np.array_equal(found, expected), f"frame {number}"
        num_frames += 1
    assert num_frames == len(ends) == 337


ENCODERS = {
    # codec: encoder, container
    "flv1": ("flv", "flv"),
    "h263": ("h263p", "avi"),
    "h264": ("libx264", "mp4"),
    "mpeg1video": ("mpeg1video", "mpg"),
    "mpeg2video": ("mpeg2video", "mp4"),
    "mpeg4": ("mpeg4", "mp4"),
    "msmpeg4v2": ("msmpeg4v2", "avi"),
    "msmpeg4v3": ("msmpeg4", "avi"),
    "rv10": ("rv10", "rm"),
    "rv20": ("rv20", "rm"),
    "wmv1": ("wmv1", "asf"),
    "wmv2": ("wmv2", "asf"),
}


@pytest.mark.parametrize("velocity", [(2, -1), (-3, 2), (0, 3), (-2, -1)])
@pytest.mark.parametrize("codec", sorted(CODECS_WITH_VECTORS))
def test_a_vector_is_the_way_of_its_content_since_the_frame_before(
    codec: str, velocity: tuple[int, int]
) -> None:
    start = (60 if velocity[0] < 0 else 20, 40 if velocity[1] < 0 else 10)
    clip = Clip(*ENCODERS[codec], num_frames=13, start=start, velocity=velocity)
    assert probe(clip.path()).codec == codec
    field = read_motion(clip.path())
    numbers = np.flatnonzero(field.valid)
    assert len(numbers) >= 10
    for number in numbers:
        square, background = medians(clip, field, number)
        assert np.abs(square - velocity).max() <= 0.25, f"frame {number}"
        assert np.abs(background).max() <= 0.25, f"frame {number}"


@pytest.mark.parametrize("kind", MOVING)
def test_with_any_reference_a_vector_points_the_way_things_go(kind: str) -> None:
    """With B-frames and far references it is a whole multiple of the motion per frame."""
    clip = CLIPS[kind]
    field = read_motion(clip.path())
    assert field.valid.sum() >= 6
    for number in np.flatnonzero(field.valid):
        square, background = medians(clip, field, number)
        multiple = square @ clip.velocity / np.dot(clip.velocity, clip.velocity)
        assert 1 <= round(multiple) <= 4, f"frame {number}"
        assert np.abs(square - round(multiple) * np.array(clip.velocity)).max() <= 0.5
        assert np.abs(background).max() <= 0.25


def test_the_background_of_a_camera_that_pans_moves_too() -> None:
    clip = Clip(pan=(-2, 1), start=(20, 50))
    field = read_motion(clip.path())
    for number in np.flatnonzero(field.valid):
        square, background = medians(clip, field, number)
        assert np.abs(square - clip.velocity).max() <= 0.25
        assert np.abs(background - clip.pan).max() <= 0.25


@pytest.mark.parametrize("kind", ["h264", "h264 with B-frames and references", "mpeg2"])
def test_frames_without_vectors_are_not_valid(kind: str) -> None:
    field = read_motion(CLIPS[kind].path())
    assert not field.valid[0] and not field.valid[12] and field.valid[1:12].all()
    assert not field.vectors[~field.known].any()
    assert np.array_equal(field.valid, field.known.any((1, 2)))


def test_intra_coded_blocks_are_not_known_and_blocks_at_rest_are() -> None:
    """A column of intra-coded blocks wanders through these frames; most of the scene is at rest."""
    clip = CLIPS["h264 with intra refresh"]
    field = read_motion(clip.path())
    refreshed = [number for number in np.flatnonzero(field.valid) if not field.known[number].all()]
    assert len(refreshed) >= 6
    for number in refreshed:
        whole_columns = ~field.known[number].any(axis=0)
        assert 2 <= whole_columns.sum() <= 6
        at_rest = clip.outside(number) & ~whole_columns
        assert field.known[number][at_rest].mean() > 0.9
        assert not field.vectors[number][at_rest].any()


@pytest.mark.parametrize("kind", ["mpeg4 with B-frames", "mpeg4 with B-frames in avi"])
def test_b_frames_of_mpeg4_count_as_frames_without_vectors(kind: str) -> None:
    """Their decoder exports zeros, which would look like a scene that stands still."""
    field = read_motion(CLIPS[kind].path())
    raw = [vectors is not None for _, vectors in iter_vectors(CLIPS[kind].path())]
    assert sum(raw) > 18 and 5 <= field.valid.sum() <= 8


@pytest.mark.parametrize("kind", ["hevc", "vp9"])
def test_a_codec_without_vectors_gives_a_field_in_which_nothing_is_valid(kind: str) -> None:
    path = CLIPS[kind].path()
    assert probe(path).codec not in CODECS_WITH_VECTORS
    pixels, field = read_clip(path, [0, 5, 9])
    assert pixels.shape == (3, 112, 160, 3)
    assert field.vectors.shape == (3, 14, 20, 2)
    assert not field.valid.any() and not field.vectors.any()


@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip_is_its_frames_and_their_motion_in_the_order_asked(kind: str) -> None:
    path = CLIPS[kind].path()
    numbers = [14, 3, 3, 23, 0, 12]
    pixels, field = read_clip(path, numbers)
    whole = read_motion(path)
    assert np.array_equal(pixels, read_frames(path, numbers))
    assert np.array_equal(field.vectors, whole.vectors[numbers])
    assert np.array_equal(field.valid, whole.valid[numbers])
    assert np.array_equal(field.known, whole.known[numbers])
    alone = read_motion(path, np.array(numbers))
    assert np.array_equal(alone.vectors, field.vectors)
    assert np.array_equal(alone.known, field.known)
    assert "int16 [6, " in repr(field)


@pytest.mark.parametrize(
    "name",
    [
        "real/k400/mmaction2_rawvideo_part_0.mp4",
        "real/hmdb51/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
        "hostile/odd_dims/huggingface_test_video_66x50.mov",
        "hostile/vfr/photoprism_blue-go-video.mp4",
        "hostile/interlaced/fate_h264_interlaced_crop.mp4",
        "hostile/vfr/sannies_MOV00006.3gp",
    ],
)
def test_frame_n_of_the_field_is_frame_n_of_the_vectors(name: str) -> None:
    path = shared(name)
    facts = probe(path)
    field = read_motion(path)
    assert field.vectors.shape == (
        facts.num_frames,
        -(-facts.height // 8),
        -(-facts.width // 8),
        2,
    )
    for number, vectors in iter_vectors(path):
        if field.valid[number]:
            assert vectors is not None
            expected, known = rasterise_slowly(vectors, facts.width, facts.height)
            assert np.array_equal(field.vectors[number], expected), f"frame {number}"
            assert np.array_equal(field.known[number], known), f"frame {number}"
            break


def rasterise_slowly(vectors: NDArray[Any], width: int, height: int) -> Grid:
    """Cell by cell and block by block, as one would write it down."""
    grid = np.zeros((-(-height // 8), -(-width // 8), 2), np.int16)
    known, from_past = np.zeros(grid.shape[:2], bool), np.zeros(grid.shape[:2], bool)
    rows, columns = grid.shape[:2]
    for vector in vectors:
        sign = -1 if vector["source"] < 0 else 1
        scale = int(vector["motion_scale"])
        motion = [sign * int(vector[name]) * 4 // scale for name in ("motion_x", "motion_y")]
        left, top = (
            int(vector["dst_x"]) - int(vector["w"]) // 2,
            int(vector["dst_y"]) - int(vector["h"]) // 2,
        )
        for y in range(top, top + int(vector["h"]), 8):
            for x in range(left, left + int(vector["w"]), 8):
                if not (0 <= x // 8 < columns and 0 <= y // 8 < rows):
                    continue
                known[y // 8, x // 8] = True
                cell = grid[y // 8, x // 8].astype(int)
                longer = motion[0] ** 2 + motion[1] ** 2 - (cell**2).sum()
                if longer > 0 or (longer == 0 and sign < 0 and not from_past[y // 8, x // 8]):
                    grid[y // 8, x // 8] = motion
                    from_past[y // 8, x // 8] = sign < 0
    return grid, known


@pytest.mark.parametrize("kind", WITH_VECTORS)
def test_rasterising_equals_a_loop_over_blocks_and_cells(kind: str) -> None:
    """Of many frames at once, some of them without vectors, as of each alone."""
    clip = CLIPS[kind]
    found = [vectors for _, vectors in iter_vectors(clip.path())]
    some = next(vectors for vectors in found if vectors is not None)
    of_frames = [some[:0] if vectors is None else vectors for vectors in found][::3]
    grids, known = rasterise(of_frames, clip.width, clip.height)
    for place, vectors in enumerate(of_frames):
        expected = rasterise_slowly(vectors, clip.width, clip.height)
        assert np.array_equal(grids[place], expected[0])
        assert np.array_equal(known[place], expected[1])
        alone = rasterise([vectors], clip.width, clip.height)
        assert np.array_equal(alone[0][0], grids[place])
        assert np.array_equal(alone[1][0], known[place])


def test_of_two_vectors_of_a_block_the_longer_is_taken_and_a_future_one_is_not_turned() -> None:
    _, vectors = next((n, v) for n, v in iter_vectors(CLIPS["h264"].path()) if v is not None)
    block = vectors[:1].copy()
    for field, value in {"w": 16, "h": 8, "dst_x": 24, "dst_y": 12, "motion_scale": 4}.items():
        block[field] = value
    past, future = block.copy(), block.copy()
    past["source"], past["motion_x"], past["motion_y"] = -1, 8, 0
    future["source"], future["motion_x"], future["motion_y"] = 1, 0, 12
    (grid,), (known,) = rasterise([np.concatenate((past, future))], 60, 30)
    assert grid.shape == (4, 8, 2)
    assert np.argwhere(known).tolist() == [[1, 2], [1, 3]]
    expected = np.zeros_like(grid)
    expected[1, 2:4] = (0, 12)
    assert np.array_equal(grid, expected)
    future["motion_y"] = 0
    expected[1, 2:4] = (-8, 0)
    (grid,), _ = rasterise([np.concatenate((future, past))], 60, 30)
    assert np.array_equal(grid, expected)


def test_a_vector_outside_the_picture_does_no_harm_to_other_frames() -> None:
    _, vectors = next((n, v) for n, v in iter_vectors(CLIPS["h264"].path()) if v is not None)
    wild = vectors.copy()
    wild["dst_x"], wild["dst_y"] = 30000, -30000
    wild["motion_x"], wild["motion_scale"] = 1 << 30, 0
    grids, known = rasterise([vectors, wild, vectors[:0], wild, vectors], 160, 112)
    assert grids.shape == (5, 14, 20, 2) and not known[2].any()
    assert np.array_equal(grids[0], grids[4]) and np.array_equal(known[0], known[4])
    expected = rasterise([vectors], 160, 112)
    assert np.array_equal(grids[0], expected[0][0]) and np.array_equal(known[0], expected[1][0])


def test_reading_twice_gives_the_same_vectors() -> None:
    path = CLIPS["h264 with B-frames and references"].path()
    for (_, first), (_, second) in zip(iter_vectors(path), iter_vectors(path), strict=True):
        assert same_vectors(first, second)


def test_a_field_of_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected int16 \[T, h, w, 2\], found float32"):
        MotionField(np.zeros((3, 4, 5, 2), np.float32), np.zeros(3, bool))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected bool \[3\], found bool \[2\]"):
        MotionField(np.zeros((3, 4, 5, 2), np.int16), np.zeros(2, bool))


@pytest.mark.parametrize(
    ("motion", "quarters"), [(40_000, -32768), (-(2**31), 32767), (2**31 - 1, -32768)]
)
def test_an_absurd_vector_is_cut_and_not_turned_round(motion: int, quarters: int) -> None:
    _, vectors = next((n, v) for n, v in iter_vectors(CLIPS["h264"].path()) if v is not None)
    block = vectors[:1].copy()
    block["source"], block["motion_x"], block["motion_y"], block["motion_scale"] = -1, motion, 0, 4
    (grid,), (known,) = rasterise([block], 160, 112)
    assert set(grid[known][:, 0].tolist()) == {quarters}
    assert not grid[..., 1].any()
