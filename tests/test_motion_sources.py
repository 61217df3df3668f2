"""Every source of motion passes the same tests, on clips whose motion is known."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_videos import keep
from videos import CLIPS, Clip, medians, shared

from mgm_dali.motion import MOTION_SOURCES, MotionField, codec
from mgm_dali.motion.store import MotionStoreWriter, fingerprint
from mgm_dali.video.reader import VideoError, probe

TOLERANCE_PIXELS = {
    "codec": 0.25,
    "block_matching": 0.0,
    "dis_flow": 0.25,
    "optical_flow": 0.5,
    "raft": 1.0,
    "store": 0.25,
}
"""How far the median motion of the square, and that of the background, may be off.

Those of `optical_flow` and `raft` are guesses: neither hardware nor weights were at hand.
"""
WITH_VECTORS = ("h264", "mpeg4", "mpeg2", "mpeg1")
ANY = ("h264", "h264 in avi", "mpeg4 with B-frames", "hevc", "vp9")
KINDS = dict.fromkeys(MOTION_SOURCES, ANY) | {"codec": WITH_VECTORS, "store": WITH_VECTORS}
"""The clips of which a source gives the motion since the frame before; a store holds codec's."""

RAFT_WEIGHTS = os.environ.get("MGM_RAFT_WEIGHTS")
MARKS: dict[str, Any] = {
    "dis_flow": pytest.mark.skipif(not importlib.util.find_spec("cv2"), reason="needs OpenCV"),
    "optical_flow": pytest.mark.gpu,
    "raft": pytest.mark.skipif(not RAFT_WEIGHTS, reason="MGM_RAFT_WEIGHTS names no file"),
}
SOURCES = [pytest.param(name, marks=MARKS.get(name, ())) for name in MOTION_SOURCES]
ESTIMATORS = [source for source in SOURCES if source.values[0] not in ("codec", "store")]
SOURCES_AND_KINDS = [
    pytest.param(name, kind, marks=MARKS.get(name, ()))
    for name in MOTION_SOURCES
    for kind in KINDS[name]
]

Read = Callable[..., MotionField]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """`read(source, path, frames=None)`, with whatever the source needs beside the video."""

    def read_by(source: str, path: Path, frames: Any = None) -> MotionField:
        resource: Path | None = None
        if source == "raft":
            resource = Path(str(RAFT_WEIGHTS))
        if source == "store":
            resource = tmp_path / "store"
            with MotionStoreWriter(resource, 0, 1) as writer:
                keep(writer, fingerprint(path), codec.read_motion(path))
        return MOTION_SOURCES[source](path, frames, resource)

    return read_by


def test_every_source_is_tested() -> None:
    assert TOLERANCE_PIXELS.keys() == KINDS.keys() == MOTION_SOURCES.keys()


@pytest.mark.parametrize(("source", "kind"), SOURCES_AND_KINDS)
def test_the_square_and_the_background_move_as_they_were_made_to(
    source: str, kind: str, read: Read
) -> None:
    clip = CLIPS[kind]
    field = read(source, clip.path())
    assert field.vectors.shape == (clip.num_frames, 14, 20, 2)
    assert not field.valid[0] and field.valid.sum() >= 15
    for number in np.flatnonzero(field.valid):
        square, background = medians(clip, field, number)
        tolerance = TOLERANCE_PIXELS[source]
        assert np.abs(square - clip.velocity).max() <= tolerance, f"frame {number}: {square}"
        assert np.abs(background).max() <= tolerance, f"frame {number}: {background}"


@pytest.mark.parametrize("velocity", [(-3, 2), (0, 3), (-2, -1), (4, 0)])
@pytest.mark.parametrize("source", SOURCES)
def test_a_vector_points_from_past_to_present_in_any_direction(
    source: str, velocity: tuple[int, int], read: Read
) -> None:
    start = (60 if velocity[0] < 0 else 20, 40 if velocity[1] < 0 else 10)
    clip = Clip(num_frames=8, start=start, velocity=velocity, pan=(1, -2))
    field = read(source, clip.path())
    for number in np.flatnonzero(field.valid):
        square, background = medians(clip, field, number)
        tolerance = TOLERANCE_PIXELS[source]
        assert np.abs(square - velocity).max() <= tolerance, f"frame {number}: {square}"
        assert np.abs(background - clip.pan).max() <= tolerance, f"frame {number}: {background}"


@pytest.mark.parametrize("velocity", [(5, 0), (0, 4), (12, 3), (-12, -3)])
@pytest.mark.parametrize("source", ESTIMATORS)
def test_an_estimator_finds_fast_motion(source: str, velocity: tuple[int, int], read: Read) -> None:
    start = (100 if velocity[0] < 0 else 4, 50 if velocity[1] < 0 else 4)
    clip = Clip(
        *("libvpx-vp9", "webm"),
        num_frames=6,
        start=start,
        velocity=velocity,
        grain_pixels=8,
    )
    field = read(source, clip.path())
    for number in range(1, clip.num_frames):
        square, _ = medians(clip, field, number)
        assert np.abs(square - velocity).max() <= TOLERANCE_PIXELS[source], f"frame {number}"


@pytest.mark.parametrize("source", ESTIMATORS)
def test_an_estimator_agrees_with_the_vectors_of_an_encoder(source: str, read: Read) -> None:
    path = CLIPS["h264"].path()
    estimated, exported = read(source, path), codec.read_motion(path)
    both = estimated.known & exported.known
    distance = np.abs(estimated.pixels()[both] - exported.pixels()[both]).max(axis=-1)
    assert (distance <= 0.5).mean() > 0.8


@pytest.mark.parametrize(("source", "kind"), SOURCES_AND_KINDS)
def test_a_frame_has_the_same_field_whatever_else_is_asked_for(
    source: str, kind: str, read: Read
) -> None:
    path = CLIPS[kind].path()
    whole = read(source, path)
    for numbers in ([0], [7], np.array([23, 5, 5, 6]), list(range(1, 20, 4))):
        field = read(source, path, numbers)
        assert np.array_equal(field.valid, whole.valid[numbers])
        assert np.array_equal(field.known, whole.known[numbers])
        # A network computes in groups, whose size may change the last bits.
        off = np.abs(field.vectors.astype(int) - whole.vectors[numbers])
        assert off.max() <= (source == "raft")


@pytest.mark.parametrize("kind", ["h264", "vp9"])
@pytest.mark.parametrize("source", ESTIMATORS)
def test_an_estimator_knows_every_cell_of_every_frame_but_the_first(
    source: str, kind: str, read: Read
) -> None:
    field = read(source, CLIPS[kind].path())
    assert not field.known[0].any() and not field.vectors[0].any()
    assert field.known[1:].all() and field.valid[1:].all()


@pytest.mark.parametrize("source", SOURCES)
def test_the_field_of_an_odd_size_has_a_cell_for_every_begun_eight_pixels(
    source: str, read: Read
) -> None:
    clip = Clip(width=162, height=114, num_frames=6)
    assert read(source, clip.path()).vectors.shape == (6, 15, 21, 2)


@pytest.mark.parametrize("source", ESTIMATORS)
def test_cells_at_the_border_that_have_a_few_pixels_only_move_with_the_others(
    source: str, read: Read
) -> None:
    clip = Clip(width=162, height=114, pan=(2, 1), num_frames=6)
    pixels = read(source, clip.path()).pixels()[1:]
    for edge in (pixels[:, :, -1], pixels[:, -1]):
        median = np.median(edge.reshape(-1, 2), axis=0)
        assert np.abs(median - clip.pan).max() <= TOLERANCE_PIXELS[source]


@pytest.mark.parametrize("size", [(512, 16), (16, 256), (96, 48), (128, 14), (14, 14)])
@pytest.mark.parametrize("source", ESTIMATORS)
def test_a_picture_of_an_extreme_shape_is_estimated_or_not_valid(
    source: str, size: tuple[int, int], read: Read, tmp_path: Path
) -> None:
    path = tmp_path / "strip.mp4"
    write_strip(path, *size)
    field = read(source, path)
    assert field.vectors.shape == (4, -(-size[1] // 8), -(-size[0] // 8), 2)
    assert field.valid.tolist() == [False] + 3 * [min(size) >= 16]


@pytest.mark.parametrize(
    "name",
    [
        "hostile/pixfmt/mozilla_video_colr_nclx_rgb.mp4",  # 2x2
        "hostile/odd_dims/-video-with-dash-.mp4",  # 1x1
        "hostile/pixfmt/fate_vp9_vp93-2-20-10bit-yuv422.mp4",
        "hostile/pixfmt/meta-pytorch_h265_10bits.mp4",
        "hostile/very_short/mozilla_tiny_av1.mp4",  # one frame
    ],
)
@pytest.mark.parametrize("source", ESTIMATORS)
def test_an_odd_file_is_estimated_or_not_valid(source: str, name: str, read: Read) -> None:
    path = shared(name)
    facts = probe(path)
    field = read(source, path)
    assert len(field.valid) == facts.num_frames
    assert field.valid[1:].all() == (min(facts.width, facts.height) >= 16)


@pytest.mark.parametrize("source", [source for source in SOURCES if source.values != ("store",)])
def test_a_file_that_is_no_video_or_not_there_is_a_video_error(
    source: str, read: Read, tmp_path: Path
) -> None:
    path = tmp_path / "x.mp4"
    path.write_text("no video", encoding="utf-8")
    for frames in (None, [0]):
        with pytest.raises(VideoError):
            read(source, path, frames)
        with pytest.raises(VideoError, match="no such file"):
            read(source, tmp_path / "y.mp4", frames)


@pytest.mark.parametrize("source", SOURCES)
def test_a_frame_that_the_video_does_not_have_is_an_error(source: str, read: Read) -> None:
    with pytest.raises(ValueError, match="24"):
        read(source, CLIPS["h264"].path(), [3, 24])


def test_naming_the_sources_loads_no_library_that_only_one_of_them_needs() -> None:
    code = (
        "import sys, mgm_dali.motion;"
        "print([name for name in ('cv2', 'torch', 'torchvision', 'nvidia') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def write_strip(path: Path, width: int, height: int) -> None:
    """Four frames of a texture that moves by one pixel a frame, to the right."""
    import av

    rng = np.random.default_rng(5)
    texture = rng.integers(0, 256, (-(-height // 4), -(-width // 4) + 2), dtype=np.uint8)
    texture = texture.repeat(4, axis=0).repeat(4, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(4):
            image = texture[:height, 4 - number : 4 - number + width]
            image = np.ascontiguousarray(np.repeat(image[:, :, None], 3, axis=2))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
