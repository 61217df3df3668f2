"""A large manifest: its columns are kept in a file, mapped by all, and never believed wrongly."""

import logging
import os
import pickle
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from large_lists import HEADER, read_by_the_parser, rows_of, videos

from mgm_dali.config import DataConfig, RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.share import Share
from mgm_dali.video import kept_columns as kept_columns_module
from mgm_dali.video import manifest as manifest_module
from mgm_dali.video import manifest_csv
from mgm_dali.video.kept_columns import KeptColumns, kept_columns, kept_path, map_columns
from mgm_dali.video.manifest import Manifest, read_manifest, write_manifest


@pytest.fixture(autouse=True)
def every_manifest_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "KEPT_FROM_BYTES", 0)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A CSV with names of every kind, in a folder of its own."""
    path = tmp_path / "list" / "videos.csv"
    write_manifest(path, videos(path.parent), ["run", "walk", "sit"])
    return settled(path)


def settled(path: Path) -> Path:
    """Waits until the clock of the file system has moved on since the file was changed."""
    clock = path.parent / "clock"
    clock.touch()
    while clock.stat().st_mtime_ns <= path.stat().st_ctime_ns:
        clock.touch()
    clock.unlink()
    return path


def rewritten(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return settled(path)


def read_without_parsing(path: Path) -> Manifest:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_module, "read_columns", None)
        return read_manifest(path)


def test_the_same_manifest_comes_of_the_csv_and_of_the_kept_file(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = read_manifest(listed), read_without_parsing(listed)
    monkeypatch.setattr(manifest_module, "KEPT_FROM_BYTES", 1 << 40)
    plain = read_manifest(listed)
    assert rows_of(plain) == read_by_the_parser(listed)
    assert plain.kept is None
    for mapped in (first, second):
        assert mapped.kept is not None
        assert rows_of(mapped) == rows_of(plain)
        assert (mapped.codec_names, mapped.class_names) == (plain.codec_names, plain.class_names)
        for name, dtype in manifest_csv.DTYPES.items():
            column = getattr(mapped, name)
            assert column.dtype == dtype
            assert np.array_equal(column, getattr(plain, name))
        assert mapped.checksum() == plain.checksum()
        assert mapped.csv_checksum() == plain.csv_checksum()
    assert plain.csv_checksum() == sha256(listed.read_bytes()).hexdigest()


def test_a_small_list_has_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    write_manifest(tmp_path / "videos.csv", videos(tmp_path), [])
    read_manifest(settled(tmp_path / "videos.csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["videos.csv"]


def test_a_faulty_list_has_nothing_beside_it(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "videos.csv", f"{HEADER}\na.mp4,0,9\n".encode())
    with pytest.raises(UserError, match=r"videos.csv:2: has 3 fields"):
        read_manifest(path)
    assert [path.name for path in tmp_path.iterdir()] == ["videos.csv"]


def test_a_list_that_has_changed_is_read_anew_even_if_size_and_time_are_the_same(
    listed: Path,
) -> None:
    read_manifest(listed)
    before = listed.stat()
    rewritten(listed, listed.read_bytes().replace(b"0/plain", b"0/PLAIN", 1))
    os.utime(listed, ns=(before.st_atime_ns, before.st_mtime_ns))
    settled(listed)
    assert (listed.stat().st_size, listed.stat().st_mtime_ns) == (
        before.st_size,
        before.st_mtime_ns,
    )
    assert read_manifest(listed)[0].path.name == "PLAIN.mp4"
    assert read_without_parsing(listed)[0].path.name == "PLAIN.mp4"


def test_a_list_that_changes_while_it_is_read_is_not_kept(listed: Path) -> None:
    def read() -> manifest_csv.Columns:
        columns = manifest_csv.read_columns(listed, ())
        listed.write_bytes(listed.read_bytes() + b"new.mp4,1,9,25,320,240,h264,2\n")
        return columns

    assert isinstance(kept_columns(listed, read), manifest_csv.Columns)
    assert [path.name for path in listed.parent.glob("*.csv*")] == ["videos.csv"]


def test_a_list_that_changed_in_the_same_tick_of_the_clock_is_not_kept(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = listed.stat()
    now = [status.st_size, status.st_mtime_ns, 1 << 62]
    monkeypatch.setattr(kept_columns_module, "_stamps", lambda _: now)
    assert read_manifest(listed).kept is None
    assert not kept_path(listed).exists()


def test_class_names_that_no_longer_fit_are_found_in_the_csv(listed: Path) -> None:
    read_manifest(listed)
    listed.with_name("videos.classes.txt").write_text("run\nwalk\nsit\nstand\n")
    assert read_without_parsing(listed).class_names[-1] == "stand"
    listed.with_name("videos.classes.txt").write_text("run\nwalk\n")
    with pytest.raises(UserError, match=r"videos.csv:4: label 2 is none of the 2 named classes"):
        read_manifest(listed)


def flipped(kept: bytes, place: int) -> bytes:
    return kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :]


SPOILT = {
    "empty": lambda kept: kept[:0],
    "cut in its first line": lambda kept: kept[:30],
    "cut in its head": lambda kept: kept[:200],
    "cut by a byte": lambda kept: kept[:-1],
    "longer by a byte": lambda kept: kept + b"\0",
    "of another version": lambda kept: kept.replace(b"columns 1", b"columns 2", 1),
    "flipped in its first line": lambda kept: flipped(kept, 40),
    "flipped in its head": lambda kept: flipped(kept, 150),
    "foreign": lambda kept: b"path,label\na.mp4,0\n" + kept,
    "zeros": lambda kept: bytes(len(kept)),
    "with other facts": lambda kept: with_head(kept, b'{"rows": 3000}\n'),
    "no facts": lambda kept: with_head(kept, b"[]\n"),
    "not JSON": lambda kept: with_head(kept, b"{\n"),
}


def with_head(kept: bytes, line: bytes) -> bytes:
    """A head that is whole by its checksum."""
    rest = kept.split(b"\n", 2)[2]
    return b"mgm-dali columns 1 " + sha256(line).hexdigest().encode() + b"\n" + line + rest


@pytest.mark.parametrize("fault", SPOILT)
def test_a_kept_file_that_is_not_whole_is_ignored_and_written_anew(
    fault: str, listed: Path
) -> None:
    expected = rows_of(read_manifest(listed))
    whole = kept_path(listed).read_bytes()
    kept_path(listed).write_bytes(SPOILT[fault](whole))
    assert map_columns(listed) is None
    assert rows_of(read_manifest(listed)) == expected
    assert kept_path(listed).read_bytes() == whole


def test_the_kept_file_of_another_list_is_ignored(listed: Path, tmp_path: Path) -> None:
    other = tmp_path / "videos.csv"
    write_manifest(other, videos(tmp_path, 100), [])
    read_manifest(settled(other))
    kept_path(listed).write_bytes(kept_path(other).read_bytes())
    assert rows_of(read_manifest(listed)) == read_by_the_parser(listed)


def test_where_nothing_can_be_written_nothing_is_kept_and_the_list_is_read(
    listed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_path(listed).mkdir()
    read = Mock(wraps=manifest_csv.read_columns)
    monkeypatch.setattr(manifest_module, "read_columns", read)
    with caplog.at_level(logging.INFO):
        found = read_manifest(listed)
    read.assert_called_once()
    assert rows_of(found) == read_by_the_parser(listed)
    assert found.kept is None
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "videos.csv: its columns are not kept" in record.getMessage()
    assert not list(listed.parent.glob(".*"))


def test_a_folder_that_is_read_only_is_left_alone(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever is root may write
    assert read_manifest(listed).kept is None
    assert not kept_path(listed).exists()


def test_a_list_that_is_written_anew_leaves_no_columns_of_the_older_one(listed: Path) -> None:
    read_manifest(listed)
    write_manifest(listed, videos(listed.parent, 5), [])
    assert not kept_path(listed).exists()


def test_a_mapped_manifest_pickles_without_its_rows(listed: Path) -> None:
    manifest = read_manifest(listed)
    data = pickle.dumps(manifest)
    found = pickle.loads(data)
    assert len(data) < 500
    assert found.kept is not None and found.path == listed
    assert rows_of(found) == rows_of(manifest) and found.class_names == manifest.class_names
    feed = ClipFeed(manifest, RunConfig(data=DataConfig(train=listed)), "pretrain", Share(2))
    assert len(pickle.dumps(feed)) < 10_000


def test_what_is_made_of_a_mapped_manifest_is_mapped_no_more(listed: Path) -> None:
    manifest = read_manifest(listed)
    rows = np.array([7, 3, 2999])
    other = replace(manifest, labels=manifest.labels + 1)
    for made in (manifest.selected(rows), other):
        assert made.kept is None
        assert rows_of(pickle.loads(pickle.dumps(made))) == rows_of(made)
    assert other.labels[1] == manifest.labels[1] + 1
    assert manifest.selected(rows).checksum() != manifest.checksum()


def test_a_manifest_goes_on_when_its_list_is_written_anew(listed: Path) -> None:
    manifest, expected = read_manifest(listed), read_by_the_parser(listed)
    sent_before = pickle.dumps(manifest)
    write_manifest(listed, videos(listed.parent, 10), [])
    assert len(read_manifest(settled(listed))) == 10
    assert rows_of(manifest) == expected
    assert rows_of(pickle.loads(pickle.dumps(manifest))) == expected
    with pytest.raises(UserError, match=r"videos.csv.columns: is gone, or was written anew"):
        pickle.loads(sent_before)


def test_a_later_reading_takes_no_memory_for_the_rows(listed: Path) -> None:
    read_manifest(listed)
    tracemalloc.start()
    manifest = read_manifest(listed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest.path_bytes.nbytes + manifest.labels.nbytes > 80_000
    assert peak < 50_000


READ = """
import sys
from mgm_dali.video.manifest import read_manifest
manifest = read_manifest(sys.argv[1])
assert manifest.kept is not None
print(len(manifest), manifest.checksum(), manifest.csv_checksum(), manifest[123456].path.name)
"""


def test_processes_that_start_at_once_find_the_same(tmp_path: Path) -> None:
    path = tmp_path / "videos.csv"
    rows = (f"{'x' * 20}{row}.mp4,{row % 9},9,25,320,240,h264,2\n" for row in range(200_000))
    path.write_text(f"{HEADER}\n" + "".join(rows))
    settled(path)
    command = [sys.executable, "-c", READ, str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    checksum = sha256(path.read_bytes()).hexdigest()
    assert len(set(said)) == 1
    assert said[0].startswith(b"200000 ") and checksum.encode() in said[0]
    assert said[0].endswith(b"x123456.mp4\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos.csv", "videos.csv.columns"]


def test_who_waits_for_another_reader_does_not_read(listed: Path) -> None:
    def never() -> manifest_csv.Columns:
        raise AssertionError

    def read() -> manifest_csv.Columns:
        return manifest_csv.read_columns(listed, ())

    with pytest.MonkeyPatch.context() as patch:
        # The lock is taken when the other reader is done.
        patch.setattr("fcntl.flock", lambda *_: patch.undo() or kept_columns(listed, read))
        assert isinstance(kept_columns(listed, never), KeptColumns)
