"""The manifest: what is written is read, and what is wrong is said with its line."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from mgm_dali.errors import UserError
from mgm_dali.video.manifest import Video, read_manifest, write_manifest

HEADER = "path,label,num_frames,fps,width,height,codec,duration_seconds"
ROW = "a.mp4,0,53,25.0,480,360,h264,2.12"
NAMES = [
    "plain.mp4",
    "with space.mp4",
    "comma, quote \" and 'both'.mp4",
    "unicode \u00e9\u4e2d\u6587.mp4",
    "line\nbreak.mp4",
    "carriage\rreturn.mp4",
    " leading and trailing ",
    "#hash=%20&.mp4",
    "not utf-8 \udcff.mp4",
    "deep/er/clip.mp4",
]


def video(path: Path, label: int | None = 0, codec: str = "h264") -> Video:
    return Video(path, label, 53, 29.97002997, 480, 360, codec, 53 / 29.97002997)


def write_text(folder: Path, *rows: str, header: str = HEADER, classes: str = "") -> Path:
    path = folder / "videos.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    if classes:
        (folder / "videos.classes.txt").write_text(classes, encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    videos = [
        video(
            tmp_path / name, label=number if number % 3 else None, codec=("h264", "vp9")[number % 2]
        )
        for number, name in enumerate(NAMES)
    ]
    videos.append(video(Path("/elsewhere/clip.mp4"), label=1))
    class_names = [f"class {number}, \u00e9" for number in range(9)]
    write_manifest(tmp_path / "videos.csv", videos, class_names)
    manifest = read_manifest(tmp_path / "videos.csv")
    assert list(manifest) == videos
    assert manifest[-1] == videos[-1] and len(manifest) == len(videos)
    assert list(manifest.class_names) == class_names
    assert manifest.labels.tolist() == [-1, 1, 2, -1, 4, 5, -1, 7, 8, -1, 1]
    assert [manifest.codec_names[code] for code in manifest.codecs] == [v.codec for v in videos]


def test_paths_inside_the_folder_are_written_relative_so_that_it_can_be_moved(
    tmp_path: Path,
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_manifest(old / "videos.csv", [video(old / "x/a.mp4"), video(tmp_path / "b.mp4")], [])
    assert f"{old}" not in (old / "videos.csv").read_text(encoding="utf-8")
    old.rename(new)
    assert [v.path for v in read_manifest(new / "videos.csv")] == [
        new / "x/a.mp4",
        tmp_path / "b.mp4",
    ]


def test_a_relative_path_is_written_for_the_folder_it_was_meant_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest("lists/videos.csv", [video(Path("clips/a.mp4"))], [])
    found = read_manifest(tmp_path / "lists/videos.csv")[0].path
    assert found == tmp_path / "clips/a.mp4"


def test_a_manifest_pickles_small(tmp_path: Path) -> None:
    videos = [video(tmp_path / f"class/clip {number}.mp4") for number in range(5000)]
    write_manifest(tmp_path / "videos.csv", videos, [])
    manifest = read_manifest(tmp_path / "videos.csv")
    data = pickle.dumps(manifest)
    assert len(data) < 5000 * 80
    assert pickle.loads(data)[4321] == videos[4321]
    assert all(isinstance(column, np.ndarray) for column in (manifest.labels, manifest.path_bytes))


def test_rewriting_leaves_nothing_of_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "videos.csv"
    write_manifest(path, [video(tmp_path / "a.mp4", 1)], ["x", "y"])
    write_manifest(path, [video(tmp_path / "b.mp4", 5)], [])
    assert read_manifest(path)[0].label == 5
    assert [file.name for file in tmp_path.iterdir()] == ["videos.csv"]


def test_a_write_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "videos.csv"
    write_manifest(path, [video(tmp_path / "a.mp4")], [])

    def videos():  # type: ignore[no-untyped-def]
        yield video(tmp_path / "b.mp4")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(path, videos(), [])
    assert read_manifest(path)[0].path.name == "a.mp4"
    assert len(list(tmp_path.iterdir())) == 1


def test_columns_may_come_in_any_order_with_others_between(tmp_path: Path) -> None:
    header = "note,codec,path,label,fps,width,height,num_frames,duration_seconds"
    row = "mine,vp9,a.mp4,,25,480,360,53,2.12"
    found = read_manifest(write_text(tmp_path, row, "", header=f"\ufeff{header}"))
    assert list(found) == [Video(tmp_path / "a.mp4", None, 53, 25.0, 480, 360, "vp9", 2.12)]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ((), HEADER, "lists no video"),
        ((ROW,), "path,label", "its first line lacks num_frames, fps, width"),
        ((), "", "its first line lacks path"),
        ((ROW, "b.mp4,0,many,25,480,360,h264,2"), HEADER, r"videos.csv:3: num_frames is 'many'"),
        ((ROW, "b.mp4,0,0,25,480,360,h264,2"), HEADER, r"videos.csv:3: num_frames is '0'"),
        ((ROW, "b.mp4,0,9,nan,480,360,h264,2"), HEADER, r"videos.csv:3: fps is 'nan'"),
        (("b.mp4,-2,9,25,480,360,h264,2",), HEADER, r"videos.csv:2: label is '-2'"),
        (("b.mp4,0.5,9,25,480,360,h264,2",), HEADER, r"videos.csv:2: label is '0.5'"),
        (("b.mp4,0,9,25,99999999999,360,h264,2",), HEADER, r"videos.csv:2: width is"),
        ((ROW, "b.mp4,0,9"), HEADER, r"videos.csv:3: has 3 fields"),
        ((",0,9,25,480,360,h264,2",), HEADER, r"videos.csv:2: the path is empty"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    rows: tuple[str, ...], header: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_manifest(write_text(tmp_path, *rows, header=header))
    assert "\n" not in str(raised.value)


def test_a_label_without_a_name_is_an_error_that_counts_the_names(tmp_path: Path) -> None:
    path = write_text(tmp_path, ROW, ROW.replace(",0,", ",2,"), classes="run\nwalk\n")
    with pytest.raises(UserError, match=r"videos.csv:3: label 2 is none of the 2 named classes"):
        read_manifest(path)


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mgm-dali index"):
        read_manifest(tmp_path / "videos.csv")
