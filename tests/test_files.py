"""Tables as text: what is read back is what was written."""

import csv
import io

from mgm_dali.files import csv_text

HOSTILE = ["a,b", 'say "so"', "two\nlines", "return\rof the carriage", "both\r\n", "", " ", "=1+1"]


def test_any_cell_survives_a_csv():
    rows = [[cell, "plain"] for cell in HOSTILE]
    text = csv_text(("cell", "other"), rows)
    found = list(csv.reader(io.StringIO(text, newline="")))
    assert found == [["cell", "other"], *rows]


def test_lines_end_as_on_unix_and_nothing_is_an_empty_cell():
    assert csv_text(("a", "b"), [(None, 1)]) == "a,b\n,1\n"
