"""`mgm-dali runs`: the list of runs, for people and for programs."""

import json
import os
import sys
from pathlib import Path

import pytest
from made_runs import made_run, printed, row_of, status_of

from mgm_dali.errors import UserError
from mgm_dali.in_words import span
from mgm_dali.runs.rows import find_runs, read_runs
from mgm_dali.runs.status import RunStatus
from mgm_dali.runs_command import list_runs

HERE = os.uname().nodename


def test_the_list_begins_with_the_run_that_lived_last(tmp_path):
    for name, updated in (("a", 2e9), ("b", 4e9), ("c", 3e9)):
        made_run(tmp_path / name, status_of("finished", updated=updated))
    rows = read_runs(find_runs(tmp_path)[0])
    assert [Path(row.run).name for row in rows] == ["b", "c", "a"]


def test_one_damaged_run_hides_no_other(tmp_path):
    made_run(tmp_path / "good", status_of("finished"))
    bad = made_run(tmp_path / "bad", status_of("finished"))
    (bad / "checkpoints" / "step-\N{SUPERSCRIPT TWO}").mkdir(parents=True)
    (made_run(tmp_path / "worse") / "status.json").write_text("{")
    states = {Path(row.run).name: row.state for row in read_runs(find_runs(tmp_path)[0])}
    assert states["good"] == "finished" and states["worse"] == "damaged"
    assert states["bad"] in ("finished", "damaged")


def test_the_table_says_what_a_run_does_and_why_it_does_not(tmp_path, capsys):
    numbers = {"loss": 0.12345, "clips_per_second": 98.76, "data_wait_share": 0.031}
    made_run(tmp_path / "x", status_of("stopped", reason="SIGTERM", **numbers), checkpoints=[20])
    header, line, reason = printed(tmp_path, capsys).splitlines()
    assert header.split()[:4] == ["run", "stage", "state", "step"]
    said = [str(tmp_path / "x"), "pretrain", "stopped", "20/100", "0.1235", "98.8", "3%", "20"]
    assert line.split()[:8] == said
    assert reason == f"{tmp_path / 'x'}: stopped: SIGTERM"


NAMES = ["two\nlines", "[red]x[/red]", "[/]", "\x1b]0;title\x07\x1b[2J", "caf\udce9", "\u202egnp"]


@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_and_reasons_are_shown_as_they_are_and_command_nothing(
    tmp_path, monkeypatch, capsys, name, terminal
):
    monkeypatch.chdir(tmp_path)
    status = status_of("failed", reason=f"reason {name}", host=name)
    made_run(Path("runs") / name, RunStatus(**{**vars(status), "stage": name}))
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    said = printed(Path("runs"), capsys)
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    assert f"runs/{shown} " in said and f"reason {shown}" in said
    assert len(said.splitlines()) == 3
    assert not any(bad in said for bad in ("\x1b]", "\x1b[2J", "\udce9", "\u202e"))
    assert json.loads(printed(Path("runs"), capsys, as_json=True))[0]["run"] == f"runs/{name}"


@pytest.mark.parametrize("number", [1.7e308, -1.7e308, 1e-308])
def test_numbers_beyond_all_measure_are_listed_too(tmp_path, capsys, number):
    values = dict.fromkeys(("loss", "clips_per_second", "eta_seconds", "updated"), number)
    steps = {"step": 10**4000, "steps": 10**4000, "data_wait_share": number}
    for state, host in (("finished", HERE), ("training", HERE), ("training", "gpu-1")):
        run = tmp_path / f"{state}-{host}"
        made_run(run, RunStatus(stage="p", state=state, host=host, **values, **steps))
        assert row_of(run).step == 10**4000
    assert len(json.loads(printed(tmp_path, capsys, as_json=True))) == 3
    shown = printed(tmp_path, capsys)
    assert all(f"{run} " in shown for run in tmp_path.iterdir())


def test_json_has_the_fields_of_a_row_and_no_number_that_is_none(tmp_path, capsys):
    def refuse(name):
        raise AssertionError(name)

    made_run(tmp_path / "a", status_of(loss=0.5, host="gpu-1"))
    made_run(tmp_path / "b", metrics='{"step": 7, "loss": Infinity}\n')
    read = json.loads(printed(tmp_path, capsys, as_json=True), parse_constant=refuse)
    rows = read_runs(find_runs(tmp_path)[0])
    expected = {row.run: vars(row) for row in rows}
    expected[str(tmp_path / "b")]["loss"] = None
    assert {row["run"]: row for row in read} == expected


def test_a_folder_without_runs_says_what_a_run_is(tmp_path, capsys):
    assert "no runs below" in printed(tmp_path, capsys)
    assert json.loads(printed(tmp_path, capsys, as_json=True)) == []
    with pytest.raises(UserError, match="none: no such folder"):
        list_runs(tmp_path / "none")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (5400, "1.5 h"),
        (1e5, "1.2 d"),
        (1e99, "10000.0 d"),
    ],
)
def test_a_length_of_time_is_said_in_one_unit(seconds, said):
    assert span(seconds) == said


def test_the_command_lists_the_folder_called_runs(tmp_path, monkeypatch, capsys):
    from mgm_dali.cli import main

    monkeypatch.chdir(tmp_path)
    made_run(Path("runs/one"), status_of("finished"))
    monkeypatch.setattr(sys, "argv", ["mgm-dali", "runs"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert "runs/one pretrain finished 20/100" in capsys.readouterr().out
