"""Other people's files: each is read or rejected with a reason; none crashes or hangs."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from videos import CLIPS, SHARED, shared

from mgm_dali.video.opening import MAX_PIXELS
from mgm_dali.video.reader import VideoError, decode_all_frames, probe, read_frames


def write_script(path: Path) -> None:
    target = CLIPS["h264"].path()
    path.write_text(f"ffconcat version 1.0\nfile {target}\n", encoding="utf-8")


def write_huge_picture(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 8192, MAX_PIXELS // 8192 + 16, "yuv420p"
        stream.codec_context.thread_count = 1
        container.mux(stream.encode(av.VideoFrame(stream.width, stream.height, "yuv420p")))
        container.mux(stream.encode(None))


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "no such file"),
    "folder": (Path.mkdir, "not a regular file"),
    "pipe": (os.mkfifo, "not a regular file"),
    "empty": (Path.touch, "the file is empty"),
    "text": (lambda path: path.write_text("no video " * 99, encoding="utf-8"), "cannot be decoded"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 40), "cannot be decoded"),
    "script that opens another file": (write_script, "cannot be"),
    "huge picture": (write_huge_picture, "8192x2064 have over 16777216 pixels"),
    "sound": (write_sound, "no video stream"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_a_video_error_with_its_path_and_reason(kind: str, tmp_path: Path) -> None:
    make, reason = BAD_FILES[kind]
    path = tmp_path / "bad file.mp4"
    make(path)
    start = time.monotonic()
    for read in (probe, lambda path: read_frames(path, [0])):
        with pytest.raises(VideoError, match=reason) as raised:
            read(path)
        assert raised.value.path == path
        assert str(raised.value) == f"{path}: {raised.value.reason}"
        assert "\n" not in str(raised.value)
    assert time.monotonic() - start < 5


def test_a_name_that_looks_like_a_protocol_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http:x.mp4", "concat:a|b.mp4", "-y.mp4", "%03d.mp4"):
        shutil.copy(CLIPS["small h264"].path(), name)
        assert probe(name).num_frames == 40


def test_a_file_that_lost_its_end_is_rejected_but_its_frames_can_be_read(tmp_path: Path) -> None:
    whole = CLIPS["h264 of odd size in mkv"].path().read_bytes()
    path = tmp_path / "short.mkv"
    path.write_bytes(whole[: len(whole) * 3 // 5])
    assert read_frames(path, [0, 3]).shape == (2, 114, 162, 3)
    try:
        assert probe(path).num_frames < 24
    except VideoError as error:
        assert "cannot be decoded" in error.reason


def test_a_broken_packet_costs_its_own_frames_only(tmp_path: Path) -> None:
    clip = CLIPS["mpeg2 with B-frames"]
    data = bytearray(clip.path().read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    path = tmp_path / "broken.mkv"
    path.write_bytes(data)
    assert len(dict(decode_all_frames(path))) >= clip.num_frames - 4


def test_a_first_key_frame_that_is_missing_is_noticed() -> None:
    with pytest.raises(VideoError, match="its first frame cannot be decoded"):
        probe(shared("hostile/gop/fate_h264_mp4-init-nonkeyframe.mp4"))


def test_a_size_that_changes_within_a_video_is_an_error() -> None:
    path = shared("hostile/reschange/NVIDIA_test_res_change.h264")
    with pytest.raises(VideoError, match="size changes from 848x464 to 424x232 at frame 60"):
        read_frames(path, [0, 60])


def test_a_title_that_is_not_utf8_does_no_harm() -> None:
    name = "real/hmdb51/hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"
    assert read_frames(shared(name), [3]).shape == (1, 240, 320, 3)


def read_somehow(path: Path) -> str:
    """What becomes of a file: its facts, or the reason against it."""
    try:
        facts = probe(path)
        numbers = sorted({0, facts.num_frames // 2, facts.num_frames - 1})
        images = read_frames(path, numbers)
    except VideoError as error:
        assert error.reason
        return error.reason
    assert images.shape == (len(numbers), facts.height, facts.width, 3)
    return f"{facts.num_frames} frames"


@pytest.mark.parametrize("folder", ["broken", "derived", "very_short", "odd_dims"])
def test_hostile_files_are_read_or_rejected_with_a_reason(folder: str) -> None:
    for path in sorted(shared(f"hostile/{folder}").iterdir()):
        start = time.monotonic()
        assert read_somehow(path)
        assert time.monotonic() - start < 20, path


@pytest.mark.slow
def test_all_shared_files_are_read_or_rejected_with_a_reason() -> None:
    shared("hostile")
    outcomes = {
        path.relative_to(SHARED).as_posix(): read_somehow(path)
        for folder in ("hostile", "real")
        for path in sorted((SHARED / folder).rglob("*"))
        if path.is_file() and path.suffix != ".npz"
    }
    for name, outcome in outcomes.items():
        if name.startswith("real/"):
            assert outcome.endswith("frames"), f"{name}: {outcome}"


@pytest.mark.slow
def test_mutated_files_are_read_or_rejected_with_a_reason(tmp_path: Path) -> None:
    for kind, clip in CLIPS.items():
        whole = clip.path().read_bytes()
        rng = np.random.default_rng(len(whole))
        for round_number in range(6):
            data = np.frombuffer(whole, np.uint8).copy()
            places = rng.integers(0, len(data), 3 ** (round_number % 4))
            data[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
            path = tmp_path / f"mutated.{clip.container}"
            path.write_bytes(data[: None if round_number % 2 else rng.integers(1, len(data))])
            assert read_somehow(path), kind
