"""What `index` says at its end: which videos bring motion, which need help, which are no use."""

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

import av
import pytest
from rich.console import Console
from small_videos import write_video
from videos import CLIPS, Clip

from mgm_dali.data_commands import index_videos
from mgm_dali.index_table import print_index_table
from mgm_dali.motion import presence, read_motion
from mgm_dali.motion.codec import CODECS_WITH_VECTORS
from mgm_dali.motion.presence import carries_vectors
from mgm_dali.video.indexing import IndexReport
from mgm_dali.video.manifest import Video, read_manifest
from mgm_dali.video.manifest_csv import CSV_COLUMNS
from mgm_dali.video.reader import VideoError, probe


def write_types(path: Path, types: str, encoder: str = "libx264") -> Path:
    """A small video of these picture types in display order, such as IIP."""
    pictures = Clip(width=64, height=64, num_frames=40, start=(8, 8), velocity=(0, 0), pan=(1, 1))
    with av.open(str(path), "w") as container:
        options = {"bf": str(types.count("B")), "g": "99", "sc_threshold": "0"}
        stream = container.add_stream(encoder, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.thread_count = 1
        for kind, image in zip(types, pictures.frames(), strict=False):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pict_type = av.video.frame.PictureType[kind]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", CLIPS)
def test_a_video_carries_vectors_if_reading_its_motion_gives_some(kind: str) -> None:
    path = CLIPS[kind].path()
    assert carries_vectors(path) == read_motion(path).valid.any()
    assert carries_vectors(path) == (probe(path).codec in CODECS_WITH_VECTORS)


@pytest.mark.parametrize(
    ("encoder", "types", "expected"),
    [
        ("libx264", "I", False),
        ("libx264", "IP", True),
        ("libx264", "I" * 12, False),
        ("libx264", "I" * 9 + "P", True),
        ("mpeg4", "I" * 12, False),
        ("mpeg4", "IBIBIBI", False),  # its decoder says nothing of B-frames
        ("mpeg4", "IBIBIPI", True),
    ],
)
def test_intra_coded_videos_carry_none_and_late_vectors_are_found(
    encoder: str, types: str, expected: bool, tmp_path: Path
) -> None:
    path = write_types(tmp_path / "clip.mp4", types, encoder)
    assert carries_vectors(path) == expected == read_motion(path).valid.any()


def test_an_intra_only_video_is_not_decoded_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_types(tmp_path / "intra.mp4", "I" * 30)
    asked: list[Any] = []

    def watched(path: Path, frames: Any = None) -> Any:
        asked.append(frames)
        return read_motion(path, frames)

    monkeypatch.setattr(presence, "read_motion", watched)
    assert not carries_vectors(path)
    assert [len(frames) for frames in asked] == [4]


def test_a_broken_second_frame_does_not_hide_the_vectors_of_others(tmp_path: Path) -> None:
    path = tmp_path / "broken.mkv"
    shutil.copy(CLIPS["mpeg2 with B-frames"].path(), path)
    with av.open(str(path)) as container:
        second = [packet for packet in container.demux() if packet.size][1]
    data = bytearray(path.read_bytes())
    data[second.pos + 8 : second.pos + 8 + second.size // 2] = bytes(second.size // 2)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="cannot be decoded"):
        read_motion(path, range(4))
    assert carries_vectors(path)


def test_a_file_that_is_no_video_has_an_error_not_an_answer(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match="cannot be decoded"):
        carries_vectors(tmp_path / "text.mp4")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three videos with vectors, two without, and files that are bad in four ways."""
    folder = tmp_path / "clips"
    for number in range(2):
        write_video(folder / "walk" / f"{number}.mp4", number)
    write_video(folder / "walk" / "old.avi", 3, encoder="mpeg4", container="avi")
    write_video(folder / "walk" / "new.webm", 4, encoder="libvpx-vp9", container="webm")
    write_types(folder / "walk" / "intra.mp4", "I" * 8)
    for number in range(3):
        (folder / f"empty {number}.mp4").touch()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "line\nbreak.mp4").touch()
    (folder / "gone\x1b[31m.mp4").symlink_to("nowhere")
    (folder / "notes.txt").touch()
    return folder


def test_index_ends_with_a_table_and_lists_every_bad_file(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "videos.csv"
    index_videos(source, output, num_workers=2)
    said = capsys.readouterr().err
    lines = said[said.index("usable, with") :].splitlines()
    assert lines[0] == "usable, with codec vectors          3    0.0  2 h264, 1 mpeg4"
    assert lines[1].startswith("usable, without codec vectors       2    0.0  1 h264, 1 vp9; ")
    assert "`mgm-dali prepare`" in lines[1] and "--without-vectors block_matching" in lines[1]
    assert lines[2] == "unusable                            6"
    reasons = [line.split(maxsplit=1) for line in lines[3:7]]
    assert reasons[0] == ["3", f"the file is empty; such as {source}/empty 0.mp4"]
    assert sorted(reasons[1:]) == [
        ["1", f"its name holds a line break; rename it; such as {source}/line\\nbreak.mp4"],
        ["1", f"no such file; such as {source}/gone\\x1b[31m.mp4"],
        ["1", f"not a regular file; such as {source}/pipe.mp4"],
    ]
    assert "1 file(s) ignored" in said
    with (tmp_path / "videos-rejected.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "reason"] and len(rows) == 6 and all(reason for _, reason in rows)
    assert output.read_text().splitlines()[0] == ",".join(CSV_COLUMNS)
    assert len(read_manifest(output)) == 5


def test_a_list_of_rejected_files_does_not_outlive_them(source: Path, tmp_path: Path) -> None:
    index_videos(source, tmp_path / "videos.csv", num_workers=2)
    index_videos(source / "walk", tmp_path / "videos.csv", num_workers=2)
    assert not (tmp_path / "videos-rejected.csv").exists()


def report_of(reasons: list[str]) -> IndexReport:
    video = Video(Path("a.mp4"), 0, 40, 25.0, 64, 64, "h264", 1800.0)
    rejected = [(Path(f"{number}.mp4"), reason) for number, reason in enumerate(reasons)]
    return IndexReport([video] * 3, [True, True, False], ["run"], rejected, 0)


def table_of(report: IndexReport, width: int | None = None) -> list[str]:
    text = io.StringIO()
    terminal = width is not None
    console = Console(file=text, width=width or 80, force_terminal=terminal, color_system=None)
    print_index_table(report, console)
    return text.getvalue().splitlines()


def test_reasons_that_differ_in_numbers_only_are_one_group() -> None:
    reasons = [f"its size changes from 8x{n} to 16x16 at frame {n}" for n in range(3)]
    lines = table_of(report_of([*reasons, "the file is empty", *["3 of its 9 packets give none"]]))
    found = [line.split(maxsplit=1) for line in lines[4:]]
    assert found == [
        ["3", "its size changes from N to N at frame N; such as 0.mp4"],
        ["1", "the file is empty; such as 3.mp4"],
        ["1", "3 of its 9 packets give none; such as 4.mp4"],
    ]


def test_hours_and_counts_are_those_of_the_videos() -> None:
    lines = table_of(report_of([]))
    assert lines[1].split()[-4:] == ["2", "1.0", "2", "h264"]
    assert "      1    0.5  1 h264; " in lines[2]
    assert lines[3].split() == ["unusable", "0"] and len(lines) == 4


def test_without_a_terminal_each_row_is_one_aligned_line() -> None:
    lines = table_of(report_of(["a reason that is long " * 20]))
    assert len(lines) == 5 and all(line == line.rstrip() for line in lines)
    end = lines[0].index("hours") + len("hours")
    assert [line[:end].split()[-1] for line in lines[1:5]] == ["1.0", "0.5", "1", "1"]
    assert lines[4].count("reason") == 20


def test_on_a_terminal_nothing_is_cut_off() -> None:
    lines = table_of(report_of(["a reason that is long " * 20]), width=60)
    assert max(len(line.rstrip()) for line in lines) <= 60
    words = " ".join(line.strip() for line in lines)
    assert words.count("reason") == 20 and "block_matching" in words.replace(" ", "")
