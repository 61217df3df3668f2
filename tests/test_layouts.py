"""Official lists: what each data set publishes becomes manifests with the official labels."""

import csv
import json
from pathlib import Path

import pytest
from official_lists import EXAMPLES, Rows, dive, write_example
from small_videos import write_video
from videos import shared

from mgm_dali.data_commands import index_lists
from mgm_dali.errors import UserError
from mgm_dali.video.layouts import LAYOUTS, read_layout
from mgm_dali.video.listed import find_listed
from mgm_dali.video.manifest import read_manifest


def rows_of(manifest: Path, videos: Path) -> Rows:
    return [(str(row.path.relative_to(videos)), row.label) for row in read_manifest(manifest)]


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_every_layout_has_an_example() -> None:
    assert set(EXAMPLES) == set(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_official_lists_become_manifests_with_the_official_labels(
    layout: str, tmp_path: Path
) -> None:
    example = EXAMPLES[layout]
    videos, lists = write_example(layout, tmp_path)
    index_lists(videos, tmp_path / "out.csv", layout, lists)
    assert rows_of(tmp_path / "out.csv", videos) == example.train
    assert rows_of(tmp_path / "out-val.csv", videos) == example.val
    assert (tmp_path / "out-test.csv").exists() == (example.test is not None)
    if example.test is not None:
        assert rows_of(tmp_path / "out-test.csv", videos) == example.test
    for name in ("out.csv", "out-val.csv"):
        assert read_manifest(tmp_path / name).class_names == example.class_names
    assert (tmp_path / "out-missing.csv").exists() == bool(example.missing)
    if example.missing:
        assert [name for name, _ in table(tmp_path / "out-missing.csv")] == example.missing


def test_without_a_training_video_the_others_are_written_and_the_command_fails(
    tmp_path: Path,
) -> None:
    videos, lists = write_example("ucf101", tmp_path)
    (lists / "._trainlist01.txt").write_bytes(b"\0\0")
    with pytest.raises(UserError, match="no readable video of the training list"):
        index_lists(videos, tmp_path / "out.csv", "ucf101", lists, split=2)
    assert (tmp_path / "out-missing.csv").exists()  # v_YoYo_g01_c01, which train had
    assert rows_of(tmp_path / "out-val.csv", videos) == [("YoYo/v_YoYo_g25_c05.avi", 2)]
    assert not (tmp_path / "out.csv").exists()
    index_lists(videos, tmp_path / "out.csv", "ucf101", lists)
    assert not (tmp_path / "out-missing.csv").exists()


@pytest.mark.parametrize(
    ("part", "gone"),
    [
        ("train", "missing"),
        ("train", "unreadable"),
        ("val", "missing"),
        ("val", "unreadable"),
        ("val", "without a list"),
        ("test", "without a list"),
    ],
)
def test_an_older_manifest_of_a_part_without_videos_is_refused_and_nothing_is_written(
    part: str, gone: str, tmp_path: Path
) -> None:
    videos, lists = write_example("kinetics", tmp_path)
    if gone == "without a list":
        next(lists.glob(f"*{part}*.csv")).unlink()
    for path in list((videos / part).rglob("*.m*")):
        path.unlink()
        if gone == "unreadable":
            path.touch()
    old = tmp_path / ("out.csv" if part == "train" else f"out-{part}.csv")
    old.write_text("old")
    with pytest.raises(UserError, match=f"now there is no {part} video; remove it") as caught:
        index_lists(videos, tmp_path / "out.csv", "kinetics", lists)
    assert str(caught.value).startswith(f"{old}: is of an earlier call")
    names = {"out.csv", "out-val.csv", "out-test.csv"}
    assert {path.name for path in tmp_path.glob("out*.csv")} & names == {old.name}
    assert old.read_text() == "old"


def test_no_listed_video_says_what_was_sought_and_what_is_there(tmp_path: Path) -> None:
    _, lists = write_example("ssv2", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    write_video(elsewhere / "deep" / "9.mp4")
    with pytest.raises(UserError) as caught:
        find_listed(elsewhere, read_layout("ssv2", lists, 1))
    for part in (str(elsewhere), "'78687'", "train.json: entry 1", "'deep'", "1 videos below"):
        assert part in str(caught.value)


def test_paths_begin_in_the_folder_or_are_absolute(tmp_path: Path) -> None:
    videos, lists = write_example("videomae", tmp_path)
    (lists / "train.csv").write_text(f"{videos / 'k400/g.mp4'} 1\n{'x' * 5000}.mp4 1\n\0.mp4 1\n")
    found = find_listed(tmp_path, read_layout("videomae", lists, 1))
    assert found.parts["train"] == [(videos / "k400/g.mp4", 1)]
    assert [reason[-12:] for _, reason in found.missing] == ["no such file"] * 4
    with pytest.raises(UserError, match=r"there is 'lists', 'videos'"):
        (lists / "train.csv").write_text("k400/a.mp4 1\n")
        find_listed(tmp_path, read_layout("videomae", lists, 1))


def test_a_video_listed_twice_is_an_error_with_both_lines(tmp_path: Path) -> None:
    videos, lists = write_example("ucf101", tmp_path)
    line = "YoYo/v_YoYo_g25_c05.avi 3\n"
    (lists / "trainlist01.txt").write_text(line * 3)
    with pytest.raises(UserError) as caught:
        find_listed(videos, read_layout("ucf101", lists, 1))
    assert "trainlist01.txt:2: lists" in str(caught.value)
    assert "trainlist01.txt:1 has listed before (2 lines are such)" in str(caught.value)


def test_two_files_of_one_name_are_not_chosen_between(tmp_path: Path) -> None:
    videos, lists = write_example("ssv2", tmp_path)
    write_video(videos / "prepared" / "78687.mp4", 9)
    found = find_listed(videos, read_layout("ssv2", lists, 1))
    reason = next(reason for name, reason in found.missing if name == Path("78687"))
    assert "2 files have its name, keep one" in reason and "prepared/78687.mp4" in reason
    assert [path.name for path, _ in found.parts["train"]] == ["42326.mp4"]


def test_a_file_in_the_folder_of_another_class_is_not_taken(tmp_path: Path) -> None:
    videos, lists = write_example("hmdb51", tmp_path)
    found = find_listed(videos, read_layout("hmdb51", lists, 1))
    (missing,) = found.missing
    assert "clap_test_split1.txt:3: lies in the folder of another class" in missing[1]
    assert "cartwheel/both;_f_1.avi" in missing[1]


@pytest.mark.parametrize("suffix", [".mp4", ".MKV", ""])
def test_names_of_transcoded_copies_are_found_whatever_their_suffix_in_the_list(
    suffix: str, tmp_path: Path
) -> None:
    videos, lists = write_example("hmdb51", tmp_path)
    write_video(videos / "q.1.mp4", 9)
    (lists / "clap_test_split1.txt").write_text(f"q.1{suffix} 2\n")
    found = find_listed(videos, read_layout("hmdb51", lists, 1))
    assert (videos / "q.1.mp4", 1) in found.parts["val"]


def test_unreadable_videos_are_rejected_and_the_labels_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, lists = write_example("diving48", tmp_path)
    (lists / "Diving48_V2_train.json").write_text(
        json.dumps([dive("empty", 0), dive("-mmq0PT-u8k_00155", 1)])
    )
    (videos / "rgb" / "empty.mp4").touch()
    write_video(videos / "more.mp4", 7)
    index_lists(videos, tmp_path / "out.csv", "diving48", lists)
    assert rows_of(tmp_path / "out.csv", videos) == [("rgb/-mmq0PT-u8k_00155.mp4", 1)]
    ((name, reason),) = table(tmp_path / "out-rejected.csv")
    assert Path(name).name == "empty.mp4" and reason == "the file is empty"
    said = capsys.readouterr().err
    assert "train: 2 of 2 listed videos are there" in said
    assert "1 other video(s) below" in said and "2 classes" in said


def test_a_video_in_two_lists_is_opened_once_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, lists = write_example("videomae", tmp_path)
    (lists / "train.csv").write_text("k400/g.mp4 0\n")
    (lists / "test.csv").write_text("k400/g.mp4 1\n")
    index_lists(videos, tmp_path / "out.csv", "videomae", lists)
    labels = [rows_of(tmp_path / f"out{part}.csv", videos)[0][1] for part in ("", "-val", "-test")]
    assert labels == [0, 2, 1]
    said = capsys.readouterr().err
    assert "indexing: 1 of 1" in said and "1 video(s) are in train and val" in said


def test_lists_of_numbers_alone_have_no_class_names(tmp_path: Path) -> None:
    videos, lists = write_example("videomae", tmp_path)
    (lists / "label_map_k400.txt").unlink()
    index_lists(videos, tmp_path / "out.csv", "videomae", lists)
    assert read_manifest(tmp_path / "out.csv").class_names == ()


@pytest.mark.parametrize("folder", ["lists", "videos/../lists", "no/../lists", "link", "link/."])
@pytest.mark.parametrize("annotations", ["lists", "link"])
def test_no_list_is_overwritten_by_a_manifest(
    folder: str, annotations: str, tmp_path: Path
) -> None:
    videos, lists = write_example("kinetics", tmp_path)
    (tmp_path / "link").symlink_to(lists)
    before = {path: path.read_bytes() for path in lists.iterdir()}
    output = tmp_path / folder / "kinetics-400_train.csv"
    with pytest.raises(UserError, match="would lie among the official lists"):
        index_lists(videos, output, "kinetics", tmp_path / annotations)
    assert before == {path: path.read_bytes() for path in lists.iterdir()}


def test_only_unreadable_videos_write_no_manifest(tmp_path: Path) -> None:
    videos, lists = write_example("diving48", tmp_path)
    for path in videos.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no readable video of the training list"):
        index_lists(videos, tmp_path / "out.csv", "diving48", lists)
    assert not (tmp_path / "out.csv").exists()


def test_real_files_are_found_by_their_official_names(tmp_path: Path) -> None:
    videos = shared("real/ucf101")
    (tmp_path / "lists").mkdir()
    for name, text in {
        "classInd.txt": "1 Archery\n2 SoccerJuggling\n",
        "trainlist01.txt": "SoccerJuggling/v_SoccerJuggling_g23_c01.avi 2\n",
        "testlist01.txt": "SoccerJuggling/v_SoccerJuggling_g24_c01.avi\n",
    }.items():
        (tmp_path / "lists" / name).write_text(text)
    index_lists(videos, tmp_path / "out.csv", "ucf101", tmp_path / "lists")
    assert rows_of(tmp_path / "out.csv", videos) == [("v_SoccerJuggling_g23_c01.avi", 1)]
    assert rows_of(tmp_path / "out-val.csv", videos) == [("v_SoccerJuggling_g24_c01.avi", 1)]
