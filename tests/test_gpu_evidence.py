"""The evidence gathered on GPUs: a section may fail or hang, and nothing is lost or left out."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import gpu_evidence
from gpu import running
from gpu.defaults import IS_DEFAULT, paragraph
from gpu.record import Record
from gpu.running import Section, run_section
from gpu.sections import SECTIONS
from gpu.setting import ROOT, Setting
from gpu.tables import markdown, shown

from mgm_dali.errors import UserError

FAKES = """
import os, signal, subprocess, time
from gpu.setting import CannotRun

def works(setting, findings):
    findings.check("it holds", True, "as it should")
    findings.figure("numbers", {"what": "speed", "clips/s": 1234.5})

def fails(setting, findings):
    findings.figure("numbers", {"what": "before the fault", "clips/s": 5})
    raise ValueError("no such thing")

def hangs(setting, findings):
    child = subprocess.Popen(["sleep", "600"])
    findings.figure("numbers", {"what": "child", "pid": child.pid})
    findings.doing("waiting for ever")
    time.sleep(600)

def dies(setting, findings):
    findings.doing("the file x.mp4")
    os.kill(os.getpid(), signal.SIGSEGV)

def lacks(setting, findings):
    raise CannotRun("there is no such hardware")

def finds_a_fault(setting, findings):
    with findings.claim("frames are right") as found:
        found.append("40 frames")
        raise ValueError("frame 7 is another")
    with findings.row("rates", {"threads": 1}) as row:
        row["clips/s"] = 10.0
    with findings.row("rates", {"threads": 2}) as row:
        raise RuntimeError("out of memory")

def lingers(setting, findings):
    findings.check("it holds", True)
    findings.end("done")
    time.sleep(600)
"""


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """Sections may be functions of `fakes`, as well as the true ones."""
    (tmp_path / "fakes.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Setting(tmp_path / "work", seconds=60, cores=1, device="cpu", tiny=True)


def run_fake(name, setting, seconds=60.0, limit=None):
    section = Section(name, f"fakes:{name}", limit or seconds)
    setting.folder.mkdir(parents=True, exist_ok=True)
    return run_section(name, section, replace(setting, seconds=seconds))


@pytest.fixture
def gather(monkeypatch, setting, tmp_path):
    """`gather(names, *options)` runs the command on these fakes: exit status, record, output."""

    def call(names, *options):
        sections = {name: Section(f"about {name}", f"fakes:{name}", 60) for name in names}
        monkeypatch.setattr(gpu_evidence, "SECTIONS", sections)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        output = tmp_path / "evidence.json"
        common = ["--rehearse", "--output", str(output), "--work", str(setting.folder)]
        monkeypatch.setattr(sys, "argv", ["gpu_evidence.py", *common, *options])
        status = gpu_evidence.main()
        return status, json.loads(output.read_bytes())["sections"]

    return call


def test_a_failing_section_is_recorded_and_the_rest_goes_on(gather):
    status, sections = gather(["works", "fails", "dies", "lacks", "finds_a_fault"])
    assert status == 1
    states = {name: outcome["state"] for name, outcome in sections.items()}
    assert states == {
        "works": "done",
        "fails": "failed",
        "dies": "died",
        "lacks": "cannot run",
        "finds_a_fault": "done",
    }
    assert sections["fails"]["reason"] == "ValueError: no such thing"
    assert sections["fails"]["figures"]["numbers"][0]["clips/s"] == 5, "what was found before"
    assert "raise ValueError" in sections["fails"]["log_tail"]
    assert "SIGSEGV" in sections["dies"]["reason"] and "x.mp4" in sections["dies"]["reason"]
    assert sections["lacks"]["reason"] == "there is no such hardware"
    (check,) = sections["finds_a_fault"]["checks"]
    assert not check["passed"] and "frame 7 is another" in check["found"]
    slow, broken = sections["finds_a_fault"]["figures"]["rates"]
    assert slow == {"threads": 1, "clips/s": 10.0}
    assert broken == {"threads": 2, "not measured": "RuntimeError: out of memory"}


def test_the_status_is_0_where_nothing_failed_though_hardware_is_missing(gather):
    assert gather(["works", "lacks"])[0] == 0


def test_a_hanging_section_is_ended_with_all_that_it_has_started(setting):
    start = time.monotonic()
    outcome = run_fake("hangs", setting, seconds=4.0)
    assert time.monotonic() - start < 30
    assert outcome["state"] == "hung" and "waiting for ever" in outcome["reason"]
    assert "in hangs" in outcome["log_tail"], "where it was"
    pid = outcome["figures"]["numbers"][0]["pid"]
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "its child is still there"
        time.sleep(0.05)


def test_a_section_that_had_less_than_its_time_is_cut_off_and_not_at_fault(setting, tmp_path):
    outcome = run_fake("hangs", setting, seconds=2.0, limit=60.0)
    assert outcome["state"] == "cut off" and outcome["figures"]["numbers"]
    record = Record(tmp_path / "evidence.json", {})
    record.put("hangs", outcome)
    assert not record.failures()


def test_a_section_that_has_said_its_last_word_is_not_waited_for(setting, monkeypatch):
    monkeypatch.setattr(running, "SECONDS_TO_LEAVE", 0.5)
    outcome = run_fake("lingers", setting)
    assert outcome["state"] == "done" and outcome["seconds"] < 20
    assert "did not leave" in outcome["notes"][0]


def test_what_runs_is_ended_when_the_call_is_asked_to_stop(setting):
    setting.folder.mkdir()
    section, asked = Section("hangs", "fakes:hangs", 60), iter([False, False])
    outcome = run_section("hangs", section, setting, lambda: next(asked, True))
    assert outcome["state"] == "cut off" and outcome["seconds"] < 30


def test_the_file_is_whole_after_every_section(gather, monkeypatch):
    seen = []
    original = Record.put

    def put(record, name, outcome):
        original(record, name, outcome)
        content = json.loads(record.path.read_bytes())
        assert content["sections"][name] == outcome
        assert record.path.with_suffix(".md").read_text() == markdown(content)
        seen.append(list(content["sections"]))

    monkeypatch.setattr(Record, "put", put)
    gather(["works", "fails", "lacks"])
    assert seen == [["works"], ["works", "fails"], ["works", "fails", "lacks"]]


def test_a_second_call_runs_what_is_not_done_and_what_is_asked_for(gather):
    _, first = gather(["works", "fails", "lacks"], "--only", "works", "fails")
    assert first["lacks"] == {
        "title": "about lacks",
        "state": "not run",
        "reason": "not asked for",
    }
    ran = []
    original = gpu_evidence.run_section
    try:
        gpu_evidence.run_section = lambda name, *rest: ran.append(name) or original(name, *rest)
        gather(["works", "fails", "lacks"])
        assert ran == ["fails", "lacks"], "what is done is kept"
        gather(["works", "fails", "lacks"], "--only", "works")
        assert ran == ["fails", "lacks", "works"]
    finally:
        gpu_evidence.run_section = original


def test_without_time_a_section_is_said_not_to_have_run(gather):
    status, sections = gather(["works", "fails"], "--seconds", "5")
    assert status == 0 and {each["state"] for each in sections.values()} == {"not run"}
    assert all("the 5 s of the call" in each["reason"] for each in sections.values())


def test_a_record_of_another_commit_or_of_somebody_else_is_not_gone_on_with(tmp_path):
    path = tmp_path / "evidence.json"
    Record(path, {"commit": "a"}).write()
    with pytest.raises(UserError, match="its commit is a, here it is b; name another file"):
        Record(path, {"commit": "b"})
    path.write_text('{"losses": [1, 2]}')
    with pytest.raises(UserError, match="is no record of this script"):
        Record(path, {"commit": "a"})


def test_without_a_gpu_there_is_nothing_to_run_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_evidence, "_sees_gpu", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_evidence.py", "--output", str(tmp_path / "e.json")])
    assert gpu_evidence.main() == 2 and not (tmp_path / "e.json").exists()
    assert "--rehearse" in capsys.readouterr().out


def test_the_shell_script_lists_every_section():
    environment = {**os.environ, "PYTHON": sys.executable}
    command = [ROOT / "scripts/gpu_evidence.sh", "--list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(SECTIONS)
    without = {**environment, "PYTHON": "no-such-python"}
    done = subprocess.run(command, env=without, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "set PYTHON=" in done.stderr


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_is_a_function_that_is_there(name):
    module, _, function = SECTIONS[name].function.partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_the_tables_show_every_check_and_every_figure(gather, tmp_path):
    gather(["works", "fails", "finds_a_fault", "lacks", "dies"])
    record = json.loads((tmp_path / "evidence.json").read_bytes())
    lines = (tmp_path / "evidence.md").read_text().splitlines()
    for outcome in record["sections"].values():
        assert any(outcome["title"] in line and outcome["state"] in line for line in lines)
        for check in outcome["checks"]:
            verdict = "holds" if check["passed"] else "**FAILS**"
            assert f"| {check['what']} | {verdict} | {shown(check['found'])} |" in lines
        for title, rows in outcome["figures"].items():
            assert f"{title}:" in lines
            for row in rows:
                cells = [shown(value) for value in row.values()]
                assert any(set(cells) <= set(line.strip("| ").split(" | ")) for line in lines), row
    assert "### What the figures say of the defaults" in lines
    assert any("A rehearsal on a CPU" in line for line in lines)


def test_numbers_are_shown_to_three_digits_and_no_text_breaks_a_table():
    values = {1234.56: "1235", 0.123456: "0.123", 12.0: "12", 7: "7", True: "yes", None: "-"}
    assert {value: shown(value) for value in values} == values
    assert shown("a | b\nc") == "a \\| b c"


def loader_row(decode="nvdec", rate=100.0, **more):
    row = {"videos": "prepared", "decode": decode, "motion": "store", "repeats": 1, "workers": 2}
    row |= {"NVDEC threads": 8, "prefetch": 2, "clips/s": rate, "CPU ms/clip": 5.0}
    return row | {"low": 0.98 * rate, "high": 1.02 * rate, IS_DEFAULT: False} | more


def said_of(*rows):
    return paragraph({"loading": {"figures": {"loader": list(rows)}}})


def test_the_paragraph_changes_a_default_only_for_what_is_clearly_better():
    default = loader_row(**{IS_DEFAULT: True})
    text = said_of(
        *(default, loader_row(rate=150.0, **{"NVDEC threads": 16})),
        *(loader_row(rate=103.0, prefetch=4), loader_row(rate=90.0, workers=1)),
        *(loader_row("cpu", 60.0, workers=15), loader_row("cpu", 900.0, repeats=4)),
    )
    decode, threads, prefetch, workers = text.split(". ")
    assert "at its best 150 clips/s" in decode and "with 15 workers, 60 clips/s" in decode
    assert decode.endswith("keep it")
    assert "8 now, 100 clips/s" in threads and "best of 8, 16 is 16" in threads
    assert threads.endswith("**change it**")
    assert "best of 2, 4 is 4" in prefetch and "no clear difference" in prefetch
    assert workers.endswith("the best of 1, 2: keep it.")
    faster = said_of(default, loader_row("cpu", 200.0, workers=15))
    assert "**change it**: cpu is faster" in faster
    assert "nothing can be said" in said_of({"decode": "nvdec", "not measured": "no NVDEC"})


@pytest.mark.slow
def test_all_of_it_can_be_rehearsed_on_a_cpu(tmp_path):
    output = tmp_path / "evidence.json"
    command = [ROOT / "scripts/gpu_evidence.sh", "--rehearse", "--output", output]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout
    sections = json.loads(output.read_bytes())["sections"]
    assert {name: outcome["state"] for name, outcome in sections.items()} == dict.fromkeys(
        SECTIONS, "done"
    )
