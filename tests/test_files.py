"""Files are written whole, and nothing else is taken for one; tables read back as written."""

import csv
import io
import os
import socket

import pytest

from mgm_dali.files import csv_text, require_file, require_writable, write_whole

HOSTILE = ["a,b", 'say "so"', "two\nlines", "return\rof the carriage", "both\r\n", "", " ", "=1+1"]


def test_any_cell_survives_a_csv():
    rows = [[cell, "plain"] for cell in HOSTILE]
    text = csv_text(("cell", "other"), rows)
    found = list(csv.reader(io.StringIO(text, newline="")))
    assert found == [["cell", "other"], *rows]


def test_lines_end_as_on_unix_and_nothing_is_an_empty_cell():
    assert csv_text(("a", "b"), [(None, 1)]) == "a,b\n,1\n"


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


NO_FILES = {"folder": os.mkdir, "pipe": os.mkfifo, "socket": make_socket}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
@pytest.mark.parametrize("action", [require_file, require_writable, lambda p: write_whole(p, "")])
def test_what_is_no_file_is_neither_read_nor_replaced(action, make, tmp_path):
    path = tmp_path / "it"
    make(path)
    before = path.stat()
    with pytest.raises(OSError, match=f"(Is a directory|not a regular file): '{path}'"):
        action(path)
    assert os.path.samestat(path.stat(), before)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_can_be_written_where_one_is_and_where_none_is(tmp_path):
    for path in (tmp_path / "new" / "folder" / "file", tmp_path / "old"):
        require_writable(path)
        write_whole(path, "text")
        require_writable(path)
        assert path.read_text() == "text" and list(path.parent.glob(".*")) == []


def test_a_folder_that_cannot_be_had_is_found_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        require_writable(tmp_path / "file" / "output.csv")


def test_a_name_that_cannot_be_written_is_told_by_itself(tmp_path):
    name = "n" * 250  # with what is added while it is not whole, it is too long
    with pytest.raises(OSError, match=f"File name too long: '{tmp_path}/{name}'"):
        require_writable(tmp_path / name)
