"""The CSV of a manifest in pieces: what is read, and which line is faulty, is as by the parser."""

from pathlib import Path

import numpy as np
import pytest
from large_lists import HEADER, NAMES, read_by_the_parser, rows_of

from mgm_dali.errors import UserError
from mgm_dali.video import manifest_csv
from mgm_dali.video.manifest import read_manifest


@pytest.mark.parametrize("piece_chars", [1, 100, 1000, 1 << 20])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_the_size_of_the_pieces_and_the_ends_of_lines_change_nothing(
    piece_chars: int, line_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_csv, "PIECE_CHARS", piece_chars)
    rng = np.random.default_rng(piece_chars)
    path = tmp_path / "videos.csv"
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(HEADER + line_end)
        for row in range(300):
            name = f"{row}.mp4"
            if rng.random() < 0.3:
                name = '"' + (name + rng.choice(NAMES)).replace('"', '""') + '"'
            more = ",more" * int(rng.random() < 0.1)
            file.write(f"{name},{row % 9},{row + 1},25,320, 240,h264,2.5{more}{line_end}")
            if rng.random() < 0.1:
                file.write(line_end)
        file.write("last.mp4,,1,25,320,240,vp9,1e1")
    assert rows_of(read_manifest(path)) == read_by_the_parser(path)


@pytest.mark.parametrize("piece_chars", [1, 300, 1 << 20])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("b.mp4,0,many,25,320,240,h264,2", "num_frames is 'many'"),
        ("b.mp4,0,9", "has 3 fields"),
        (",0,9,25,320,240,h264,2", "the path is empty"),
        ("b.mp4,3,9,25,320,240,h264,2", "label 3 is none of the 3 named classes"),
        ('"b\n.mp4",0,0,25,320,240,h264,2', "num_frames is '0'"),
    ],
)
def test_the_first_fault_is_named_with_its_line_wherever_it_stands(
    fault: str, message: str, piece_chars: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_csv, "PIECE_CHARS", piece_chars)
    before = ['"two\nlines.mp4",0,9,25,320,240,h264,2', "", *["a.mp4,1,9,25,320,240,h264,2"] * 40]
    lines = "\n".join((HEADER, *before, fault, "c.mp4,x,9,25,320,240,h264,2", f'"{"x" * 200000}"'))
    path = tmp_path / "videos.csv"
    path.write_text(lines)
    (tmp_path / "videos.classes.txt").write_text("run\nwalk\nsit\n")
    number = 1 + 3 + 40 + 1 + fault.startswith('"')
    with pytest.raises(UserError, match=rf"videos.csv:{number}: {message}"):
        read_manifest(path)


def test_a_row_that_is_too_short_is_not_filled_up_from_the_next(tmp_path: Path) -> None:
    rows = "b.mp4,0,9,25,320,240,h264\n2,c.mp4,0,9,25,320,240,h264,2\n"
    path = tmp_path / "videos.csv"
    path.write_text(f"{HEADER}\n{rows}")
    with pytest.raises(UserError, match=r"videos.csv:2: has 7 fields"):
        read_manifest(path)


def test_a_name_that_is_too_long_for_the_parser_is_too_long_without_it(tmp_path: Path) -> None:
    row = "x" * 200_000 + ".mp4,0,9,25,320,240,h264,2"
    path = tmp_path / "videos.csv"
    path.write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(UserError, match="cannot be read as a manifest: field larger than"):
        read_manifest(path)
