"""Other people's files: each is read or rejected with a reason; none crashes or hangs."""

import csv
import gc
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.stream import VideoStream
from every_reader import read_in_every_way
from videos import CLIPS, shared

from mgm_dali.cli import main
from mgm_dali.data_commands import index_videos
from mgm_dali.motion import block_matching, read_clip, read_motion
from mgm_dali.motion.codec import iter_vectors
from mgm_dali.motion.presence import carries_vectors
from mgm_dali.video.frame_index import packets
from mgm_dali.video.indexing import VIDEO_SUFFIXES
from mgm_dali.video.manifest import read_manifest
from mgm_dali.video.opening import MAX_PIXELS, OpenVideo, open_video
from mgm_dali.video.reader import (
    VideoError,
    VideoFacts,
    decode_all_frames,
    probe,
    read_frames,
)
from mgm_dali.video.workers import Failure, run_in_workers


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


def write_playlist(path: Path) -> None:
    target = CLIPS["h264"].path()
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n", encoding="utf-8")


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "no such file"),
    "folder": (Path.mkdir, "not a regular file"),
    "pipe": (os.mkfifo, "not a regular file"),
    "empty": (Path.touch, "the file is empty"),
    "text": (lambda path: path.write_text("no video " * 99, encoding="utf-8"), "cannot be decoded"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 40), "cannot be decoded"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "Too many levels"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "link to a folder": (lambda path: path.symlink_to("."), "not a regular file"),
    "script that opens another file": (write_script, "a script, a playlist, or another format"),
    "playlist that opens another file": (write_playlist, "cannot be decoded"),
    "huge picture": (write_huge_picture, "8192x2064 have over 16777216 pixels"),
    "sound": (write_sound, "no video stream"),
}


READERS: tuple[Callable[[Path], object], ...] = (
    probe,
    lambda path: read_frames(path, [0]),
    lambda path: read_clip(path, [0]),
    read_motion,
    block_matching.read_motion,
    lambda path: list(iter_vectors(path)),
    carries_vectors,
)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_a_video_error_with_its_path_and_reason(kind: str, tmp_path: Path) -> None:
    make, reason = BAD_FILES[kind]
    path = tmp_path / "bad file.mp4"
    make(path)
    start = time.monotonic()
    for read in READERS:
        with pytest.raises(VideoError, match=reason) as raised:
            read(path)
        assert raised.value.path == path
        assert str(raised.value) == f"{path}: {raised.value.reason}"
        assert "\n" not in str(raised.value)
    assert time.monotonic() - start < 5


ODD_NAMES = (
    *("http:x.mp4", "concat:a|b.mp4", "-y.mp4", "%03d.mp4", " .mp4", "a?b#c.mp4", "[bold].mp4"),
    *("line\nbreak.mp4", "tab\t.mp4", "\x1b[31m.mp4", 'a, "b".mp4', "\u202e.mp4"),
    os.fsdecode(b"\xff\xfe.mp4"),
)


def test_a_name_is_a_name_whatever_it_looks_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ODD_NAMES:
        shutil.copy(CLIPS["small h264"].path(), name)
        assert probe(name).num_frames == 40
        assert read_clip(name, [3])[0].shape == (1, 64, 64, 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_video_error(tmp_path: Path) -> None:
    shutil.copy(CLIPS["small h264"].path(), tmp_path / "locked.mp4")
    (tmp_path / "locked.mp4").chmod(0)
    with pytest.raises(VideoError, match="Permission denied"):
        probe(tmp_path / "locked.mp4")


def test_a_folder_full_of_traps_is_indexed_and_each_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "traps"
    folder.mkdir()
    for number, (make, _) in enumerate(BAD_FILES.values()):
        make(folder / f"bad {number}.mp4")
    for name in ODD_NAMES:
        shutil.copy(CLIPS["small h264"].path(), folder / name)
    monkeypatch.setattr(sys, "argv", ["mgm-dali", "index", str(folder), "-o", str(tmp_path / "v")])
    with pytest.raises(SystemExit) as left:
        main()
    said = capfd.readouterr().err
    assert left.value.code == 0, said
    good = [name for name in ODD_NAMES if "\n" not in name]
    assert sorted(video.path.name for video in read_manifest(tmp_path / "v")) == sorted(good)
    listed = (tmp_path / "v-rejected.csv").read_text()
    for number, kind in enumerate(BAD_FILES):  # folders are looked into, not listed
        is_file = kind not in ("missing", "folder", "link to a folder")
        assert (f"bad {number}.mp4," in listed) == is_file, kind
    unusable = next(line for line in said.splitlines() if line.startswith("unusable"))
    assert int(unusable.split()[1]) == len(BAD_FILES) - 3 + 1  # no folders; the line break
    assert "\x1b" not in said


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


def test_streams_that_appear_on_the_way_do_not_cost_the_frames_before() -> None:
    """PyAV's demuxer may then stumble behind the last packet."""

    def stumbling_demux(stream: VideoStream) -> "Iterator[Packet[VideoStream]]":
        yield from (packet for packet in video.container.demux(stream) if packet.size)
        raise IndexError("list index out of range")

    with open_video(CLIPS["h264"].path()) as video:
        container: Any = SimpleNamespace(demux=stumbling_demux)
        assert len(list(packets(OpenVideo(video.path, container, video.stream)))) == 24


@pytest.mark.parametrize("kind", ["h264", "vp9"])
def test_a_frame_is_freed_as_soon_as_its_vectors_are_read(kind: str) -> None:
    """Not when Python next looks for cycles: by then a worker held 140 frames, 0.4 GB in 1080p."""
    gc.collect()
    gc.disable()
    try:
        before = count_frames()
        assert len(list(iter_vectors(CLIPS[kind].path()))) == 24
        assert count_frames() - before <= 1
    finally:
        gc.enable()


def count_frames() -> int:
    return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())


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


SHARED_FOLDERS = {
    "quick": ("very_short", "odd_dims", "reschange"),
    "slow": (
        *("broken", "codecs", "derived", "gop", "interlaced", "pixfmt", "rotation"),
        *("timestamps", "vfr"),
    ),
}
MAX_MEGABYTES = 1500
"""While the longest, 745 frames of 1920x1080 pixels, is read whole."""


@pytest.mark.parametrize("which", ["quick", pytest.param("slow", marks=pytest.mark.slow)])
def test_hostile_files_are_read_or_rejected_with_a_reason_by_all_readers(which: str) -> None:
    folders = [shared(f"hostile/{name}") for name in SHARED_FOLDERS[which]]
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    outcomes = run_in_workers(
        read_in_every_way, paths, num_workers=2, seconds_allowed=lambda _: 120
    )
    for place, reading in outcomes:
        assert not isinstance(reading, Failure), f"{paths[place]}: {reading}"
        assert reading.peak_megabytes < MAX_MEGABYTES, paths[place]


def test_no_hostile_folder_is_forgotten() -> None:
    found = {folder.name for folder in shared("hostile").iterdir()}
    assert found == {name for names in SHARED_FOLDERS.values() for name in names}


@pytest.mark.slow
def test_hostile_files_are_indexed_and_each_that_is_rejected_has_a_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = shared("hostile")
    index_videos(folder, tmp_path / "videos.csv", num_workers=2)
    usable = {video.path for video in read_manifest(tmp_path / "videos.csv")}
    with (tmp_path / "videos-rejected.csv").open(newline="") as file:
        rejected = {Path(row["path"]): row["reason"] for row in csv.DictReader(file)}
    videos = {path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES}
    assert usable | set(rejected) == videos and not usable & set(rejected)
    assert all(reason and "\n" not in reason for reason in rejected.values())
    said = capfd.readouterr().err
    assert f"{len(rejected)} unusable" in said and "usable, without codec vectors" in said


@pytest.mark.slow
def test_real_files_are_all_read() -> None:
    paths = [
        path
        for path in sorted(shared("real").rglob("*"))
        if path.is_file() and path.suffix != ".npz"
    ]
    for place, facts in run_in_workers(probe, paths, num_workers=2, seconds_allowed=lambda _: 120):
        assert isinstance(facts, VideoFacts) and facts.num_frames > 1, paths[place]
