"""Frames by number: exact from anywhere in the file, in the right colours, and quick."""

import shutil
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from videos import CLIPS, SHARED, Clip, frames_of_dali, same_vectors, shared

from mgm_dali.motion.codec import vectors_of
from mgm_dali.video import rgb
from mgm_dali.video.frame_index import index_of
from mgm_dali.video.reader import (
    VideoError,
    decode_all_frames,
    decode_frames,
    probe,
    read_frames,
)
from mgm_dali.video.rgb import RgbConverter

SHARED_SAMPLE = [
    "real/ucf101/v_SoccerJuggling_g23_c01.avi",
    "real/hmdb51/TrumanShow_wave_f_nm_np1_fr_med_26.avi",  # packed B-frames
    "real/k400/mmaction2_rawvideo_part_0.mp4",
    "hostile/odd_dims/huggingface_test_video_66x50.mov",  # edit list, negative time stamps
    "hostile/timestamps/fate_h264_mov-3elist.mp4",
    "hostile/timestamps/meta-pytorch_discard_first_keyframe.mp4",
    "hostile/timestamps/fate_hevc_mov_ibi_elst_starts_b.mp4",  # open groups of two
    "hostile/interlaced/fate_h264_interlaced_crop.mp4",
    "hostile/codecs/drewnoakes_sample_mpeg2.m2v",  # programme stream, open groups
    "hostile/codecs/meta-pytorch_sine_stereo_mp2.mpg",
    "hostile/codecs/androidx_bear-vp9.webm",
    "hostile/codecs/meta-pytorch_av1_video.mkv",
    "hostile/gop/fate_vp9_vp90-2-16-intra-only.mp4",  # no key frame at all
    "hostile/vfr/photoprism_blue-go-video.mp4",
    "hostile/vfr/sannies_MOV00006.3gp",  # names key frames that are none
    "hostile/odd_dims/-video-with-dash-.mp4",
]


def planes(frame: av.VideoFrame) -> list[NDArray[np.uint8]]:
    """The picture as decoded, without the padding of its lines."""
    found = []
    for plane, component in zip(frame.planes, frame.format.components, strict=False):
        line_bytes = plane.width * -(-component.bits // 8)
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        found.append(lines[:, :line_bytes].copy())
    return found


def equal_frames(a: av.VideoFrame, b: av.VideoFrame) -> bool:
    pixels = all(np.array_equal(x, y) for x, y in zip(planes(a), planes(b), strict=True))
    return pixels and same_vectors(vectors_of(a), vectors_of(b))


def assert_random_access_is_exact(path: Path, choices: Sequence[Sequence[int]]) -> None:
    everything = dict(decode_all_frames(path, export_vectors=True))
    for numbers in choices:
        found = list(decode_frames(path, numbers, export_vectors=True))
        assert [number for number, _ in found] == sorted(set(numbers))
        wrong = [number for number, frame in found if not equal_frames(frame, everything[number])]
        assert not wrong, f"of frames {numbers}"


@pytest.mark.parametrize("kind", CLIPS)
def test_frames_read_from_anywhere_equal_those_of_a_whole_decode(kind: str) -> None:
    path = CLIPS[kind].path()
    last = CLIPS[kind].num_frames - 1
    choices = [[0], [last], [5, 7, 9], [11, 12, 13], [1, 22], range(3, 20, 4), range(last + 1)]
    assert_random_access_is_exact(path, choices)


@pytest.mark.parametrize("name", SHARED_SAMPLE)
def test_frames_of_real_files_read_from_anywhere_equal_those_of_a_whole_decode(name: str) -> None:
    path = shared(name)
    count = probe(path).num_frames
    rng = np.random.default_rng(0)
    middle = count // 2
    choices = [[0], [count - 1], range(middle, min(count, middle + 12), 3)]
    choices.append(sorted(rng.choice(count, min(count, 6), replace=False).tolist()))
    assert_random_access_is_exact(path, choices)


@pytest.mark.slow
def test_clips_of_every_whole_shared_file_equal_those_of_a_whole_decode() -> None:
    """Where packets are broken, what is shown instead depends on where decoding began."""
    shared("hostile")
    num_whole = 0
    for path in sorted(path for folder in ("hostile", "real") for path in files_in(folder)):
        try:
            count = probe(path).num_frames
        except VideoError:
            continue
        everything = {
            number: digest(frame) for number, frame in decode_all_frames(path, export_vectors=True)
        }
        if len(everything) != count:
            continue
        num_whole += 1
        rng = np.random.default_rng(count)
        starts = rng.integers(0, max(1, count - 61), 2).tolist()
        choices = [range(start, min(count, start + 61), 4) for start in starts]
        choices += [[0], [count - 1], sorted(rng.choice(count, min(5, count), replace=False))]
        for numbers in choices:
            for number, frame in decode_frames(path, numbers, export_vectors=True):
                assert digest(frame) == everything[number], f"{path}, frame {number} of {numbers}"
    assert num_whole > 100


def files_in(folder: str) -> list[Path]:
    return [path for path in (SHARED / folder).rglob("*") if path.is_file()]


def digest(frame: av.VideoFrame) -> bytes:
    """Of the picture and the vectors; a whole film of frames would not fit into memory."""
    found = blake2b(digest_size=16)
    for plane in planes(frame):
        found.update(plane)
    vectors = vectors_of(frame)
    if vectors is not None:
        assert vectors.dtype.names is not None
        for name in vectors.dtype.names:
            found.update(np.ascontiguousarray(vectors[name]))
    return found.digest()


@pytest.mark.parametrize("kind", CLIPS)
def test_every_frame_is_the_one_that_was_encoded_under_its_number(kind: str) -> None:
    clip = CLIPS[kind]
    originals = np.stack(list(clip.frames()))[..., 0].astype(int)
    numbers = [0, 7, 13, clip.num_frames - 1]
    images = read_frames(clip.path(), numbers)[..., 1].astype(int)
    for number, image in zip(numbers, images, strict=True):
        # Limited range turns 0..255 into 16..235 and back, so the picture itself is close.
        errors = np.abs(originals - image).mean(axis=(1, 2))
        assert errors[number] == errors.min() < 8


@pytest.mark.parametrize("kind", CLIPS)
def test_a_probe_tells_size_length_and_codec(kind: str) -> None:
    clip = CLIPS[kind]
    facts = probe(clip.path())
    assert (facts.num_frames, facts.width, facts.height) == (
        clip.num_frames,
        clip.width,
        clip.height,
    )
    assert facts.fps == pytest.approx(25, rel=1e-3)
    assert facts.duration_seconds == pytest.approx(clip.num_frames / 25, rel=1e-3)
    assert facts.codec == {"libx264": "h264", "libx265": "hevc", "libvpx-vp9": "vp9"}.get(
        clip.encoder, clip.encoder
    )


def test_frames_come_in_the_order_asked_and_may_repeat() -> None:
    path = CLIPS["h264"].path()
    images = read_frames(path, [9, 2, 9, 23])
    assert images.shape == (4, 112, 160, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images[0], images[2])
    assert np.array_equal(images[1:2], read_frames(path, np.array([2])))


def test_an_index_lists_time_stamps_and_key_frames() -> None:
    index = index_of(CLIPS["h264 with B-frames and references"].path())
    assert len(index.pts) == 24 and (np.diff(index.pts) > 0).all()
    assert np.searchsorted(index.pts, index.key_pts).tolist() == [0, 12]
    assert not index.ordinal and index.codec == "h264"


def test_frames_of_an_avi_are_counted_not_timed() -> None:
    path = CLIPS["mpeg4 with B-frames in avi"].path()
    assert index_of(path).ordinal
    assert [number for number, _ in decode_all_frames(path)] == list(range(24))


def test_a_file_that_is_replaced_is_indexed_again(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copy(CLIPS["h264"].path(), path)
    assert len(index_of(path).pts) == 24
    shutil.copy(CLIPS["small h264"].path(), path)
    assert len(index_of(path).pts) == 40


@pytest.mark.parametrize("numbers", [[], [-1], [24], [0, 99]])
def test_a_frame_that_the_video_does_not_have_is_an_error(numbers: list[int]) -> None:
    for kind in ("h264", "h264 in avi"):
        with pytest.raises(VideoError, match="frame"):
            read_frames(CLIPS[kind].path(), numbers)


@pytest.mark.parametrize("luma", [16, 81, 180, 235])
def test_colours_are_bt601_whatever_the_tags_say(luma: int, tmp_path: Path) -> None:
    path = tmp_path / "flat.mp4"
    blue_difference, red_difference = 90, 170
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = 1  # says BT.709
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane, value in zip(frame.planes, (luma, blue_difference, red_difference), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    y, u, v = 1.164383 * (luma - 16), blue_difference - 128, red_difference - 128
    expected = np.clip(
        [y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u], 0, 255
    )
    assert np.abs(read_frames(path, [0])[0].reshape(-1, 3) - expected).max() <= 1.5


def test_pixels_equal_those_of_dali() -> None:
    clip = CLIPS["vp9"]
    theirs = frames_of_dali(clip.path())
    assert np.array_equal(theirs, read_frames(clip.path(), range(clip.num_frames)))


PIXEL_FORMATS = (
    "yuv420p yuvj420p yuv422p yuvj422p yuv444p yuv440p yuv410p yuv411p nv12 gray gray10le "
    "yuv420p10le yuv422p10le yuv444p10le yuv420p12le gbrp gbrp10le rgb24 bgra yuva420p yuyv422 "
    "rgb555le rgb565le"
).split()


@pytest.mark.parametrize("pixel_format", PIXEL_FORMATS)
def test_the_faster_way_to_rgb_gives_the_same_pixels(
    pixel_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for size in [(64, 48), (65, 48), (34, 52), (30, 4), (1, 4), (50, 46), (51, 45)]:
        frame = av.VideoFrame(*size, pixel_format)
        for plane in frame.planes:
            plane.update(rng.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
        frames.append(frame)
    found = [RgbConverter("v.mp4")(frame) for frame in frames]
    monkeypatch.setattr(rgb, "_chroma_is_whole", lambda _: False)
    expected = [RgbConverter("v.mp4")(frame) for frame in frames]
    assert all(map(np.array_equal, found, expected))


def test_files_are_closed_whatever_happens(tmp_path: Path) -> None:
    whole = CLIPS["h264 of odd size in mkv"].path().read_bytes()
    (tmp_path / "start.mkv").write_bytes(whole[: len(whole) // 20])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (CLIPS["h264"].path(), CLIPS["h264 in avi"].path(), tmp_path / "start.mkv"):
        try:
            read_frames(path, [1])
            next(decode_frames(path, [0, 5]))
            read_frames(path, [999])
        except VideoError:
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_clip_of_a_small_video_is_read_in_milliseconds() -> None:
    path = Clip(width=64, height=64, num_frames=40, start=(8, 8), velocity=(0, 0), gop=40).path()
    times = []
    for _ in range(5):
        start = time.process_time()
        read_frames(path, range(2, 34, 2))
        times.append(time.process_time() - start)
    assert min(times) < 0.05
