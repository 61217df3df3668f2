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

def breaks_the_device(setting, findings):
    with findings.claim("frames are right"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    with findings.claim("a claim that would fail too"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

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
    found = setting.folder / "found.json"
    return run_section(section, replace(setting, seconds=seconds), found)


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


def test_an_error_of_the_device_ends_its_section(setting):
    outcome = run_fake("breaks_the_device", setting)
    assert outcome["state"] == "failed" and "illegal memory access" in outcome["reason"]
    assert [check["what"] for check in outcome["checks"]] == ["frames are right"]


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
    found = setting.folder / "found.json"
    outcome = run_section(section, setting, found, lambda: next(asked, True))
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


@pytest.fixture
def ran(monkeypatch):
    """Names of the sections that were begun."""
    names = []
    original = gpu_evidence.run_section

    def run(section, *rest):
        names.append(section.function.partition(":")[2])
        return original(section, *rest)

    monkeypatch.setattr(gpu_evidence, "run_section", run)
    return names


def test_a_second_call_runs_what_has_not_run_and_what_is_asked_for(gather, ran):
    names = ["fails", "works", "lacks"]
    _, first = gather(names, "--only", "works", "fails")
    assert first["lacks"] == {
        "title": "about lacks",
        "state": "not run",
        "reason": "not asked for",
    }
    ran.clear()
    gather(names)
    assert ran == ["lacks"], "what is done is kept, and what fails would only fail again"
    gather(names, "--only", "works", "fails")
    assert ran == ["lacks", "fails", "works"]


def test_what_was_cut_off_runs_again_behind_what_has_not_run(gather, ran, tmp_path):
    record = Record(tmp_path / "evidence.json", {"rehearsal": True, "commit": "a"})
    record.put("works", {"title": "", "state": "cut off", "reason": "", "checks": []})
    _, sections = gather(["works", "lacks"], "--commit", "a")
    assert ran == ["lacks", "works"] and sections["works"]["state"] == "done"


def test_of_two_calls_the_outcome_that_tells_more_is_kept(tmp_path):
    record = Record(tmp_path / "evidence.json", {})

    def outcome(state, rows, passed=True):
        checks = [{"what": "it holds", "passed": passed, "found": ""}]
        figures = {"rates": [{"clips/s": 1.0}] * rows}
        head = {"title": "", "state": state, "reason": "some reason"}
        return {**head, "checks": checks, "figures": figures, "notes": []}

    record.put("a", outcome("cut off", 3))
    record.put("a", outcome("hung", 1, passed=False))
    kept = record.content["sections"]["a"]
    assert kept["state"] == "cut off" and len(kept["figures"]["rates"]) == 3
    assert kept["notes"] == ["another call: hung some reason; failed there: it holds"]
    record.put("a", outcome("done", 2))
    record.put("a", outcome("failed", 9))
    assert record.state("a") == "done"
    record.put("a", outcome("done", 2, passed=False))
    assert record.failures() == ["a: it holds: "], "of equals the last"


def test_without_time_a_section_is_said_not_to_have_run(gather):
    status, sections = gather(["works", "fails"], "--seconds", "5")
    assert status == 0 and {each["state"] for each in sections.values()} == {"not run"}
    assert all("of the call's 5 s" in each["reason"] for each in sections.values())


def test_a_section_is_begun_only_with_a_good_part_of_its_limit_unless_it_is_named(gather, ran):
    _, sections = gather(["works"], "--seconds", "25")
    assert not ran and sections["works"]["state"] == "not run", "its limit is 60 s"
    gather(["works"], "--seconds", "25", "--only", "works")
    assert ran == ["works"]


def test_what_a_killed_call_has_found_is_kept_by_the_next(gather, ran, tmp_path, setting):
    output = tmp_path / "evidence.json"
    Record(output, {"rehearsal": True, "commit": "a"}).write()
    program = (
        "import sys; from pathlib import Path; from gpu.running import *; from gpu.record import *;"
        "from gpu.setting import Setting; record = Record(Path(sys.argv[1]), {});"
        "setting = Setting(Path(sys.argv[2]), 60, 1, 'cpu', True);"
        "run_section(Section('', 'fakes:hangs', 60), setting, record.path_of('hangs'))"
    )
    setting.folder.mkdir()
    arguments = [sys.executable, "-c", program, str(output), str(setting.folder)]
    paths = [str(tmp_path), str(ROOT / "scripts"), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    left = tmp_path / "evidence.hangs.json"
    with subprocess.Popen(arguments, env=environment) as call:
        deadline = time.monotonic() + 60
        while "waiting for ever" not in (left.read_text() if left.exists() else ""):
            assert time.monotonic() < deadline and call.poll() is None
            time.sleep(0.05)
        call.kill()
    _, sections = gather(["works", "hangs"], "--only", "works", "--commit", "a")
    found = sections["hangs"]
    assert ran == ["works"] and found["state"] == "cut off" and not left.exists()
    assert found["reason"] == "the call was killed, at: waiting for ever"
    psutil.Process(found["figures"]["numbers"][0]["pid"]).kill()


def test_a_record_of_another_commit_or_of_somebody_else_is_not_gone_on_with(tmp_path):
    path = tmp_path / "evidence.json"
    Record(path, {"commit": "a"}).write()
    with pytest.raises(UserError, match="its commit is a, here it is b; name another file"):
        Record(path, {"commit": "b"})
    path.write_text('{"losses": [1, 2]}')
    with pytest.raises(UserError, match="is no record of this script"):
        Record(path, {"commit": "a"})


def test_without_a_gpu_there_is_nothing_to_run_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_evidence, "_why_no_gpu", lambda: "torch sees none")
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


@pytest.mark.slow
def test_all_of_it_can_be_rehearsed_on_a_cpu(tmp_path):
    output = tmp_path / "evidence.json"
    command = [ROOT / "scripts/gpu_evidence.sh", "--rehearse", "--output", output]
    joined = ("MASTER", "RANK", "WORLD", "LOCAL")  # by other tests of this process
    alone = {name: value for name, value in os.environ.items() if not name.startswith(joined)}
    alone["PYTHON"] = sys.executable
    done = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout
    sections = json.loads(output.read_bytes())["sections"].items()
    assert {name for name, outcome in sections if outcome["state"] == "done"} == SECTIONS.keys()
