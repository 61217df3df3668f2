"""Indexing: every file is judged on its own, and the order is that of the names."""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_videos import NUM_FRAMES, write_video

from mgm_dali.errors import UserError
from mgm_dali.video.indexing import IndexReport, files_below, index_source, split_train_val
from mgm_dali.video.manifest import Video


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, nested, with all kinds of files that are no videos among them."""
    root = tmp_path_factory.mktemp("source")
    write_video(root / "b walk" / "2.mp4", 1)
    write_video(root / "b walk" / "deep" / "er" / "1.mkv", 2, container="mkv")
    write_video(root / "a, \u00fc" / "10.MP4", 3)
    write_video(root / "a, \u00fc" / "9.mp4", 4)
    write_video(root / "alone.mp4", 5)
    os.mkfifo(root / "b walk" / "pipe.mp4")
    (root / "b walk" / "empty.mp4").touch()
    (root / "b walk" / "text.mp4").write_text("not a video\n" * 100)
    (root / "b walk" / "gone.mp4").symlink_to(root / "nowhere.mp4")
    whole = (root / "b walk" / "2.mp4").read_bytes()
    (root / "a, \u00fc" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(root / "a, \u00fc" / "line\nbreak.mp4", 6)
    (root / "a, \u00fc" / "notes.txt").touch()
    (root / "a, \u00fc" / "._9.mp4").touch()
    (root / ".cache").mkdir()
    (root / ".cache" / "x.mp4").touch()
    (root / "b walk" / "up").symlink_to(root)
    return root


@pytest.fixture(scope="module")
def report(source: Path) -> IndexReport:
    return index_source(source, num_workers=3)


def names(report: IndexReport, source: Path) -> list[tuple[str, int | None]]:
    return [(str(video.path.relative_to(source)), video.label) for video in report.videos]


def test_classes_are_sorted_folders_and_files_follow_their_names(
    report: IndexReport, source: Path
) -> None:
    assert report.class_names == ["a, \u00fc", "b walk"]
    assert names(report, source) == [
        ("alone.mp4", None),
        ("a, \u00fc/10.MP4", 0),
        ("a, \u00fc/9.mp4", 0),
        ("b walk/2.mp4", 1),
        ("b walk/deep/er/1.mkv", 1),
    ]


def test_a_row_says_what_the_file_holds(report: IndexReport) -> None:
    video = report.videos[0]
    assert (video.num_frames, video.width, video.height) == (NUM_FRAMES, 64, 64)
    assert (video.codec, video.fps) == ("h264", 25.0)
    assert video.duration_seconds == pytest.approx(NUM_FRAMES / 25)


def test_bad_files_are_rejected_with_the_reason_and_stop_nothing(report: IndexReport) -> None:
    reasons = {path.name: reason for path, reason in report.rejected}
    assert reasons.pop("cut.mp4").startswith("cannot be decoded")
    assert reasons.pop("text.mp4").startswith("cannot be decoded")
    assert reasons == {
        "pipe.mp4": "not a regular file",
        "empty.mp4": "the file is empty",
        "gone.mp4": "no such file",
        "line\nbreak.mp4": "its name holds a line break; rename it",
    }


def test_files_that_do_not_look_like_videos_are_counted_not_opened(report: IndexReport) -> None:
    assert report.ignored == 1  # notes.txt; what is hidden does not count


def test_the_report_does_not_depend_on_the_number_of_workers(
    report: IndexReport, source: Path
) -> None:
    done: list[tuple[int, int]] = []
    alone = index_source(source, num_workers=1, progress=lambda *counts: done.append(counts))
    assert alone == report
    assert done == [(number, 11) for number in range(2, 12)]  # one was bad by its name


def test_a_reader_that_is_killed_costs_one_file(source: Path) -> None:
    def kill_readers(done: int, _: int) -> None:
        if done == 1:
            for process in multiprocessing.active_children():
                process.kill()
                process.join()

    folder = source / "a, \u00fc"
    many = source / "many.txt"
    many.write_text(f"{folder / '9.mp4'} 0\n" * 8)
    report = index_source(many, num_workers=1, progress=kill_readers)
    reasons = [reason for _, reason in report.rejected]
    assert reasons == ["the process that read it was killed by SIGKILL"]
    assert len(report.videos) == 7


def test_a_file_that_takes_too_long_is_given_up(source: Path) -> None:
    def stop_readers(done: int, _: int) -> None:
        if done == 1:
            for process in multiprocessing.active_children():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGSTOP)

    slow = source / "slow.txt"
    slow.write_text(f"{source / 'alone.mp4'}\n" * 8)
    report = index_source(slow, num_workers=1, timeout_seconds=2, progress=stop_readers)
    assert [reason for _, reason in report.rejected] == ["not done after 2 s; it was given up"]
    assert len(report.videos) == 7


def test_a_list_is_read_as_people_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("a.mp4", "b c.mp4", "d, e.mp4", 'f "g".mp4', "h 5.mp4")):
        write_video(tmp_path / "clips" / name, number)
    elsewhere = write_video(tmp_path / "i.mp4", 9)
    (tmp_path / "clips" / "train.txt").write_text(
        "\ufeffa.mp4 3\r\n\nb c.mp4 12\nd, e.mp4,0\n"
        '"f ""g"".mp4",7\nh 5.mp4\n'
        f"{elsewhere}\t4\na.mp4 , 5\nmissing.mp4 1\nREADME.md 2\n"
    )
    monkeypatch.chdir(tmp_path)
    report = index_source(Path("clips/train.txt"), num_workers=1)
    assert [(video.path.name, video.label) for video in report.videos] == [
        ("a.mp4", 3),
        ("b c.mp4", 12),
        ("d, e.mp4", 0),
        ('f "g".mp4', 7),
        ("h 5.mp4", None),
        ("i.mp4", 4),
        ("a.mp4", 5),
    ]
    assert report.class_names == []
    assert [path.name for path, _ in report.rejected] == ["missing.mp4", "README.md"]
    assert "suffix '.md'" in report.rejected[1][1]


@pytest.mark.parametrize("line", ["a.mp4 walking", "12", "a.mp4 -1", "words"])
def test_a_line_that_cannot_be_understood_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(f"path,label\n\n{line}\n")
    with pytest.raises(UserError, match="whole number as the label") as caught:
        index_source(path, num_workers=1)
    assert str(caught.value).startswith(f"{path}:3: found {line!r}")


def test_a_line_of_a_megabyte_is_refused_in_a_moment(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 " * 500_000 + "x")
    with pytest.raises(UserError, match="whole number as the label"):
        index_source(tmp_path / "train.txt", num_workers=1)


@pytest.fixture
def deepest(tmp_path: Path) -> Iterator[Path]:
    """The last of 1,200 folders in one another."""
    folders = [tmp_path / "d"]
    while len(folders) < 1200:
        folders.append(folders[-1] / "d")
    for folder in folders:
        folder.mkdir()
    yield folders[-1]
    for folder in reversed(folders):  # what clears `tmp_path` descends by recursion
        for path in folder.glob("*"):
            path.unlink(missing_ok=True)
        folder.rmdir()


def test_folders_may_be_nested_deeper_than_python_recurses(deepest: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a.mp4", deepest / "b.mp4", deepest / "c.mp4", tmp_path / "e.mp4"]
    for path in files:
        path.touch()
    (deepest / "up").symlink_to(tmp_path / "d")
    assert list(files_below(tmp_path)) == files


def test_files_come_in_the_order_of_a_sorted_walk(source: Path) -> None:
    def walk(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name not in (".cache", "up"):
                yield from walk(path)
            elif path.name not in (".cache", "up", "._9.mp4"):
                yield path

    assert list(files_below(source)) == list(walk(source))


def test_a_name_too_long_for_the_system_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=folder)
            inside = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = inside
    finally:
        os.close(folder)
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        list(files_below(tmp_path))


@pytest.mark.parametrize("name", ["nowhere", "film.mp4"])
def test_a_source_that_is_neither_folder_nor_list_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=name):
        index_source(tmp_path / name, num_workers=1)


def rows(counts: dict[int | None, int]) -> list[Video]:
    """Videos of so many in each class, the classes mixed."""
    labels = [label for number in range(100) for label in counts if number < counts[label]]
    return [
        Video(Path(f"{row}.mp4"), label, 20, 25.0, 64, 64, "h264", 0.8)
        for row, label in enumerate(labels)
    ]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_a_split_takes_its_share_of_every_class(share: float) -> None:
    videos = rows({0: 40, 1: 80, 2: 20, None: 40})
    train, val = split_train_val(videos, share, seed=1)
    assert sorted(train + val, key=videos.index) == videos
    counts = Counter(video.label for video in val)
    assert counts == {
        label: count
        for label, total in ((0, 40), (1, 80), (2, 20), (None, 40))
        if (count := round(share * total))
    }


def test_small_classes_keep_one_and_give_their_share_together() -> None:
    videos = rows({**dict.fromkeys(range(50), 3), **dict.fromkeys(range(50, 70), 1)})
    train, val = split_train_val(videos, 0.2, seed=0)
    assert {video.label for video in train} == set(range(70))
    assert len(val) == 30  # a fifth of 150; classes of one give none


def test_a_split_follows_from_its_seed() -> None:
    videos = rows({0: 30, 1: 30})
    first, again, other = (split_train_val(videos, 0.3, seed) for seed in (5, 5, 6))
    assert first == again != other
    assert first[0] == sorted(first[0], key=videos.index)


def test_a_share_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="expected 0 to below 1"):
        split_train_val(rows({0: 3}), 1.0, seed=0)
