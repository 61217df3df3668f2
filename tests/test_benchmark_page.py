"""The page of the benchmarks: every number and failure stands on it, and all else stays."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import command
import machine
import page
import page_chart
import ratios
from contenders import Goal, Verdict
from rounds import Ratio, Timings

from mgm_dali.errors import UserError

ROOT = Path(__file__).parents[1]
ABOVE, BELOW = "Text before.\n\n", "\n\n## Text behind\n"


def row(what="ours", peer="theirs", ratio=2.0, goal=None):
    return ratios.ratio_row(what, peer, Ratio(ratio, 0.9 * ratio, 1.1 * ratio), goal)


def write_numbers(folder, name, rows=(), **others):
    """As `command.run` does."""
    found = {**machine.describe(), **ratios.summary("time", others=rows), **others}
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    return found


@pytest.fixture
def written(tmp_path):
    """Writes a page of these scripts and gives its text."""
    path = tmp_path / "performance.md"
    path.write_text(f"{ABOVE}{page.BEGIN}\nold numbers\n{page.END}{BELOW}", encoding="utf-8")

    def write(*names):
        page.write_page(path, tmp_path / "numbers", names)
        return path.read_text(encoding="utf-8")

    return write


def cells_of(text):
    """The rows of all tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_ratio_stands_on_the_page_and_is_judged_by_its_goal(tmp_path, written):
    rows = {
        "motion": [row("a", "x", 1.5, goal=1.5), row("b", "y", 0.5, goal=0.6)],
        "end_to_end": [row("c", "z", 123.4)],
    }
    for name, listed in rows.items():
        write_numbers(tmp_path / "numbers", name, listed)
    text = written("motion", "end_to_end")
    found = [cells for cells in cells_of(text) if cells[0] != "what"]
    assert found == [
        ["a", "x", "1.5", "1.35 to 1.65", "1.5, met"],
        ["b", "y", "0.5", "0.45 to 0.55", "0.6, **not met**"],
        ["c", "z", "123", "111 to 136", ""],
    ]
    assert text.index("### motion") < text.index("### end to end")


def test_one_round_is_not_shown_as_several(tmp_path, written):
    once = ratios.ratio_row("ours", "theirs", Ratio(2.0, 2.0, 2.0), None)
    write_numbers(tmp_path / "numbers", "motion", [once])
    assert ["ours", "theirs", "2", "", ""] in cells_of(written("motion"))


def test_a_script_that_has_not_run_is_said_to_be_missing(tmp_path, written):
    write_numbers(tmp_path / "numbers", "motion", [row()])
    text = written("motion", "mask_merit")
    assert "Missing: there is no `mask_merit.json`" in text and "make bench-mask-merit" in text
    assert "motion.json` yet" not in text


def test_a_page_without_any_numbers_has_no_chart(tmp_path, written):
    write_numbers(tmp_path / "numbers", "motion", [row()])
    assert "performance.png" in written("motion") and (tmp_path / "performance.png").exists()
    (tmp_path / "numbers/motion.json").unlink()
    assert "performance.png" not in written("motion")
    assert not (tmp_path / "performance.png").exists(), "an old one would show other numbers"


def test_a_peer_that_failed_is_listed_with_its_reason(tmp_path, written):
    reason = "decord: not measured: pip install decord==0.6.0: ERROR: no such version"
    write_numbers(tmp_path / "numbers", "loader", not_measured=[reason])
    assert f"- {reason}" in written("loader")


def test_each_table_tells_machine_date_commit_and_command(tmp_path, written):
    head = {"cpu": "Some CPU", "date": "2031-02-03T04:05:06+00:00", "commit": "abc123+"}
    head |= {"command": ["benchmarks/loader.py", "--videos", "/home/me/clips", "--rounds", "2"]}
    head |= {"gpus": ["Some GPU"], "omp_wait_policy": "PASSIVE"}
    write_numbers(tmp_path / "numbers", "loader", [row()], **head)
    text = written("loader")
    for value in ("Some CPU", "Some GPU", "2031-02-03T04:05:06", "`abc123`, with changes"):
        assert value in text
    assert "OMP_WAIT_POLICY=PASSIVE python benchmarks/loader.py --videos clips --rounds 2" in text
    assert "/home/me" not in text, "no folder of the machine"


def test_what_people_wrote_stays_and_a_second_call_changes_nothing(tmp_path, written):
    write_numbers(tmp_path / "numbers", "motion", [row("a | b")])
    text = written("motion")
    assert text.startswith(ABOVE) and text.endswith(BELOW) and "old numbers" not in text
    assert "a \\| b" in text
    assert written("motion") == text


def test_a_script_without_ratios_is_no_error(tmp_path, written):
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers/other.json").write_text(json.dumps(machine.describe()))
    assert "### other" in written("other")


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "cannot be read"), ("[]", "cannot be read"), ('{"ratios": [{}]}', "lacks date")],
)
def test_a_damaged_file_of_numbers_is_named(tmp_path, written, content, said):
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers/motion.json").write_text(content)
    with pytest.raises(UserError, match=rf"motion\.json: {said}"):
        written("motion")


def test_a_page_without_a_place_for_numbers_is_refused(tmp_path):
    path = tmp_path / "page.md"
    for content in ("nothing", page.BEGIN):
        path.write_text(content)
        with pytest.raises(UserError, match="lacks the lines"):
            page.write_page(path, tmp_path, ["motion"])
        assert path.read_text() == content


def test_the_page_of_this_project_has_a_place_for_numbers():
    before, after = page._around(ROOT / "docs/performance.md")
    assert before.startswith("# ") and page.BEGIN not in after


def test_bars_reach_from_the_line_at_1_to_the_ratio_and_ours_is_no_peer():
    rows = [row("a", "x", 4.0), row("b", "y", 0.25), row("c", "ours: another way", 9.0)]
    found = {"about": "time", "ratios": rows}
    figure = page_chart.draw_ratios({"motion": found, "empty": {"about": "", "ratios": []}})
    (axes,) = figure.axes
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert ends == [(1, 4), (1, 0.25)]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["a  against  x", "b  against  y"]
    low, high = axes.get_xlim()
    assert axes.get_xscale() == "log" and low < 0.225 and high > 4.4
    assert page_chart.draw_ratios({"motion": {"about": "time", "ratios": rows[2:]}}) is None


def verdict(goal, ratio=None):
    return Verdict(goal, ratio and Ratio(*ratio))


def test_a_ratio_is_turned_over_where_ours_stands_above_the_line():
    most = Goal("videos", "ours", "theirs", at_most=1.25)
    least = Goal("clips", "theirs", "ours", at_least=1.5)
    rows = ratios.verdict_rows([verdict(most, (2.0, 1.0, 4.0)), verdict(least, (3.0, 2.0, 5.0))])
    assert rows == [
        {"what": "videos: ours", "peer": "theirs", "ratio": 0.5, "low": 0.25, "high": 1.0}
        | {"goal": 0.8},
        {"what": "clips: ours", "peer": "theirs", "ratio": 3.0, "low": 2.0, "high": 5.0}
        | {"goal": 1.5},
    ]


def test_a_summary_keeps_goals_and_names_what_was_not_measured():
    met = Goal("clips", "theirs", "ours", at_least=1.5)
    lost = Goal("clips", "others'", "ours", at_least=1.5)
    same = row("clips: ours", "theirs")
    told = ratios.summary("time", [verdict(met, (2, 2, 2)), verdict(lost)], [same], ["x: broken"])
    assert [each["goal"] for each in told["ratios"]] == [1.5]
    assert told["not_measured"] == ["x: broken", "clips: others' / ours: not measured"]


def test_peers_are_set_over_ours_of_each_kind_of_time_where_both_were_measured():
    seconds = {"ours": {"job": [1.0, 1.0]}, "theirs": {"job": [3.0, 5.0]}}
    found = ratios.peer_rows({"CPU": Timings(seconds)}, ["theirs", "nobody"], ["ours"], "job")
    expected = ratios.ratio_row("CPU: ours", "theirs", Ratio(4.0, 3.0, 5.0))
    assert found == [expected]


def test_make_bench_runs_scripts_that_are_there_and_can_be_quick():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    names = re.search(r"^BENCHES = (.+)$", makefile, re.MULTILINE)[1].split()
    assert len(names) == len(set(names)) == 10
    for name in names:
        tree = ast.parse((ROOT / f"benchmarks/{name.replace('-', '_')}.py").read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        parses = [call for call in calls if getattr(call.func, "id", "") == "parse"]
        assert [len(call.args) for call in parses] == [3], f"{name}: parse(parser, counts, quick)"


@pytest.mark.parametrize(
    ("arguments", "rounds", "fast"),
    [([], 5, False), (["--quick"], 1, True), (["--qui", "--rounds", "3"], 3, True)],
)
def test_quick_sets_other_defaults_and_what_is_given_beside_it_wins(
    monkeypatch, arguments, rounds, fast
):
    parser = command.argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fast", action="store_true")
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    options = command.parse(parser, ("rounds",), {"rounds": 1, "fast": True})
    assert (options.rounds, options.fast) == (rounds, fast)
