"""Transcoded frames: when they are shown, and how they look."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from image_videos import (
    MATRICES,
    coloured,
    encode_images,
    frames_of,
    grey,
    levels_of,
    peak_signal_to_noise,
    transcoded,
)
from numpy.typing import NDArray
from videos import Clip, shared

from mgm_dali.motion import read_motion
from mgm_dali.video.frame_index import index_of
from mgm_dali.video.reader import probe
from mgm_dali.video.transcoding import prepared_size


def irregular(path: Path) -> tuple[Path, list[int]]:
    """Frames of growing brightness after 1 to 12 hundredths of a second; and their times."""
    steps = np.random.default_rng(3).integers(1, 13, 39)
    pts = [0, *np.cumsum(steps).tolist()]
    return encode_images(path, grey([20 + 5 * number for number in range(40)]), pts), pts


@pytest.mark.parametrize("fps", [None, 12.5, 50])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_irregular_frames_come_at_a_constant_rate_and_at_their_time(
    container: str, fps: float | None, tmp_path: Path
) -> None:
    source, pts = irregular(tmp_path / f"source.{container}")
    output, facts = transcoded(source, tmp_path, fps=fps)
    rate = Fraction(fps) if fps else Fraction(39 * 100, pts[-1])
    assert facts.fps == pytest.approx(float(rate), rel=1e-4)
    length_seconds = pts[-1] / 100 * 40 / 39  # the last frame lasts as long as the average one
    assert facts.duration_seconds == pytest.approx(length_seconds, abs=float(0.6 / rate))
    assert len(set(np.diff(index_of(output).pts))) == 1
    # Each frame fills the places from its own, the nearest to its time, up to the next one's.
    places = np.array([int(time * rate / 100 + Fraction(1, 2)) for time in pts])
    sources, outputs = levels_of(source), levels_of(output)
    shown = [int(np.flatnonzero(places <= place)[-1]) for place in range(len(outputs))]
    assert np.abs(np.array(outputs) - np.array(sources)[shown]).max() < 2


def test_a_lower_rate_takes_every_nth_frame(tmp_path: Path) -> None:
    source = encode_images(
        tmp_path / "source.mp4",
        grey(list(range(20, 220, 5))),
        pts=[10 * number for number in range(40)],
    )
    output, facts = transcoded(source, tmp_path, fps=2.5)
    assert (facts.num_frames, facts.fps) == (10, 2.5)
    # The last frame whose time rounds to the place, as FFmpeg's filter has it.
    assert np.abs(np.array(levels_of(output)) - levels_of(source)[1::4]).max() < 3


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "ts"])
def test_a_constant_rate_keeps_every_frame(container: str, tmp_path: Path) -> None:
    """Also where time stamps are coarse: Matroska counts milliseconds."""
    clip = Clip(num_frames=200, velocity=(0, 0), width=64, height=64, start=(8, 8), pan=(1, 0))
    source = tmp_path / f"source.{container}"
    with av.open(str(source), "w") as container_file:
        stream = container_file.add_stream("libx264", rate=Fraction(30000, 1001))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for image in clip.frames():
            container_file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container_file.mux(stream.encode(None))
    output, facts = transcoded(source, tmp_path)
    assert facts.num_frames == 200
    assert facts.fps == pytest.approx(30000 / 1001)
    assert peak_signal_to_noise(source, output) > 30  # a frame too early or late gives 20


ENCODERS = {
    # pixel format: who encodes it
    "yuv420p": "libx264",
    "yuvj420p": "libx264",
    "yuv422p": "libx264",
    "yuv444p": "libx264",
    "yuv420p10le": "libx264",
    "yuv444p10le": "libx265",
    "gray": "libx264",
    "rgb24": "libx264rgb",
    "gbrp": "libvpx-vp9",
}
LOOKS = [
    (pixel_format, matrix)
    for pixel_format in ENCODERS
    for matrix in MATRICES
    if matrix == "no matrix" or pixel_format not in ("rgb24", "gbrp")
]


@pytest.mark.parametrize(("pixel_format", "matrix"), LOOKS)
def test_every_pixel_format_looks_as_it_did(pixel_format: str, matrix: str, tmp_path: Path) -> None:
    source = encode_images(
        tmp_path / "source.mkv",
        coloured(8),
        encoder=ENCODERS[pixel_format],
        pixel_format=pixel_format,
        matrix=MATRICES[matrix],
    )
    output, _ = transcoded(source, tmp_path, crf=10)
    assert peak_signal_to_noise(source, output) > 40
    frame = frames_of(output)[0]
    assert (frame.colorspace, frame.color_range) == (2, 0), "untagged is limited range"


def test_luma_is_kept_as_numbers_whatever_the_matrix(tmp_path: Path) -> None:
    source = encode_images(tmp_path / "source.mp4", coloured(4), matrix=1)
    output, _ = transcoded(source, tmp_path, crf=1)
    for before, after in zip(frames_of(source), frames_of(output), strict=True):
        assert before.colorspace == 1
        for plane in range(3):
            difference = np.subtract(plane_of(before, plane), plane_of(after, plane), dtype=float)
            assert np.abs(difference).max() <= 4 and abs(difference.mean()) < 0.5


def plane_of(frame: av.VideoFrame, number: int) -> NDArray[np.uint8]:
    plane = frame.planes[number]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]


def test_sound_rotation_and_pixel_aspect_are_left_behind(tmp_path: Path) -> None:
    source = encode_images(
        tmp_path / "source.mp4",
        coloured(6),
        rotation_degrees=90,
        pixel_aspect=Fraction(4, 3),
        sound=True,
    )
    with av.open(str(source)) as container:
        assert len(container.streams) == 2
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    assert abs(frames_of(source)[0].rotation) == 90
    output, facts = transcoded(source, tmp_path)
    assert (facts.width, facts.height) == (128, 96), "as coded"
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)
    assert frames_of(output)[0].rotation == 0
    assert peak_signal_to_noise(source, output) > 34


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("hostile/vfr/Vanilagy_cursed-vfr.mp4", (560, 256)),
        ("hostile/vfr/Zulko_no_duration.webm", (448, 256)),  # VP9
        ("hostile/pixfmt/meta-pytorch_h264_10bits.mp4", None),
        ("hostile/rotation/dmlc_video_90.mov", (448, 256)),
        ("hostile/codecs/androidx_bear-vp9.webm", (320, 240)),
        ("real/hmdb51/TrumanShow_wave_f_nm_np1_fr_med_26.avi", (432, 240)),
        ("hostile/odd_dims/-video-with-dash-.mp4", (16, 16)),
    ],
)
def test_real_videos_keep_their_frames_and_length(
    name: str, size: tuple[int, int] | None, tmp_path: Path
) -> None:
    source = shared(name)
    before = probe(source)
    output, after = transcoded(source, tmp_path)
    assert (after.width, after.height) == (size or prepared_size(before.width, before.height, 256))
    assert after.num_frames == before.num_frames
    assert after.duration_seconds == pytest.approx(before.duration_seconds, rel=0.01)
    assert len(set(np.diff(index_of(output).pts))) == 1
    if before.num_frames > 1 and before.width >= 64:
        assert read_motion(output).valid.any()
