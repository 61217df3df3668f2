"""What runs, benchmarks and tests on a GPU report, as rows of the evidence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("scripts", "benchmarks")]

import model
from gpu import benchmark_runs, pretraining, programs, suite
from gpu.defaults import IS_DEFAULT, paragraph
from gpu.findings import Findings
from gpu.setting import Setting
from gpu.tables import shown


def test_a_runs_speed_is_that_of_its_reports(tmp_path):
    reports = [(5.0, 0.9), (50.0, 0.2), (60.0, 0.1), (40.0, 0.3)]
    lines = [
        {"step": 2 * report + step + 1, "loss": 1 / (report + 1), "clips_per_second": speed}
        | {"data_wait_share": wait, "skipped_clips": 0, "skipped_steps": 0}
        for report, (speed, wait) in enumerate(reports)
        for step in range(2)
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = pretraining.columns_of(path, left_out=1)
    assert (row["clips/s"], row["low"], row["high"]) == (50.0, 40.0, 60.0)
    assert row["data_wait_share"] == 0.2 and row["steps"] == 8
    assert (row["first loss"], row["last loss"]) == (1.0, 0.25)
    with pytest.raises(RuntimeError, match="too few"):
        pretraining.columns_of(path, left_out=4)


def test_benchmarks_files_become_rows():
    times = {"VideoMAE's own": {"clip": [0.2, 0.4, 0.3]}, "ours": {"clip": [0.1, 0.15, 0.2]}}
    numbers = {
        "measured": {
            "B": {"wall": {"seconds": times}, "failures": {"transformers": "not installed"}}
        },
        "memory_megabytes": {"B": {"ours": {"held": 5.0, "of_step": 7.0}, "x": "killed"}},
    }
    official, ours, failed = benchmark_runs.step_rows(numbers)
    assert official["median ms"] == 300 and official["times VideoMAE's own"] == 1
    assert ours["times VideoMAE's own"] == 2 and ours["MB of_step"] == 7.0
    assert failed == {"setup": "B", "network": "transformers", "not measured": "not installed"}
    of_cuda = {"device": "a GPU", "milliseconds": {"ours: tube": [3.0, 1.0, 2.0]}}
    (row,) = benchmark_runs.mask_rows({"devices": {"cuda": of_cuda}})
    assert [row] == list(benchmark_runs.mask_rows({"cuda": of_cuda})), "wherever they stand"
    assert row == {"device": "a GPU", "masks": "ours: tube", "median ms": 2.0, "least ms": 1.0}


def test_the_share_of_the_peak_is_told_where_it_is_known():
    times = {"the device's peak": {"clip": [0.01]}, "ours": {"clip": [0.02]}}
    peak, ours = benchmark_runs.step_rows({"measured": {"B": {"wall": {"seconds": times}}}})
    assert (peak["share of the peak"], ours["share of the peak"]) == (1.0, 0.5)


def test_ratios_and_what_a_benchmark_could_not_measure_are_kept(tmp_path):
    numbers = {"about": "theirs / ours", "not_measured": ["x: killed"]}
    numbers["ratios"] = [{"what": "B: ours", "peer": "x", "ratio": 1.5, "goal": None}]
    benchmark_runs._keep(Findings(tmp_path / "found.json"), "steps", [{"a": 1}], numbers)
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert found["figures"]["steps: theirs / ours"] == numbers["ratios"]
    assert found["notes"] == ["not measured: x: killed"]


def test_a_benchmarks_file_of_another_form_is_shown_whole(tmp_path):
    strange = {"results": {"tube": {"ms": 1.5}, "all": [1, 2]}}
    assert not list(benchmark_runs.mask_rows(strange))
    benchmark_runs._keep(Findings(tmp_path / "found.json"), "masks", [], strange)
    rows = json.loads((tmp_path / "found.json").read_bytes())["figures"]["masks"]
    assert {row["number"]: row["found"] for row in rows} == {
        "results tube ms": 1.5,
        "results all": "[1, 2]",
    }


@pytest.mark.parametrize("call", benchmark_runs.STEPS + benchmark_runs.COMPILED_STEPS)
def test_the_benchmark_of_steps_knows_the_options_it_is_called_with(call, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["model.py", "--sizes", "vit_large", *call.options])
    options = model._options()
    assert options.rounds == 15 and len(options.ratios) == 1 and options.no_memory
    assert options.no_compile == (call not in benchmark_runs.COMPILED_STEPS)


def test_figures_of_one_call_are_kept_though_others_break(tmp_path, monkeypatch):
    first, broken = benchmark_runs.Call("first", []), benchmark_runs.Call("broken", [], 60.0)
    calls = [broken, first, broken]

    def run_program(_name, arguments, seconds):
        if seconds:
            raise programs.ProgramError("CUDA error: of another process")
        Path(arguments[-1]).write_text('{"measured": {}, "about": "x", "ratios": [{"ratio": 2}]}')

    monkeypatch.setattr(benchmark_runs, "run_program", run_program)
    found = Findings(tmp_path / "found.json")
    setting = Setting(tmp_path, seconds=60, cores=1)
    benchmark_runs._steps("vit_base", calls, setting, found)
    content = json.loads((tmp_path / "found.json").read_bytes())
    assert content["figures"]["pretraining steps, first: x"] == [{"ratio": 2}]
    assert [check["passed"] for check in content["checks"]] == [False, True, False]
    assert "of another process" in content["checks"][0]["found"]


def test_what_became_of_each_test_is_read(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'not the same'\n"
        "@pytest.mark.skip(reason='no weights')\n"
        "def test_left_out(): pass\n"
    )
    report = tmp_path / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        [*command, "-v", "--junitxml", str(report)], capture_output=True, text=True, timeout=120
    )
    outcomes = {name: (outcome, said) for name, outcome, said in suite.outcomes(report)}
    assert outcomes["test_some::test_good"] == ("passed", "")
    assert outcomes["test_some::test_bad"][0] == "failure"
    assert "not the same" in outcomes["test_some::test_bad"][1]
    assert outcomes["test_some::test_left_out"] == ("skipped", "no weights")
    printed = {name: outcome for name, outcome, _ in suite.outcomes_of_log(done.stdout)}
    assert printed == {name: outcome for name, (outcome, _) in outcomes.items()}


def test_outcomes_are_read_of_what_several_processes_print_too():
    text = (
        "[gw2] [ 12%] PASSED tests/test_gpu.py::test_a[stride 1-B-frames] \n"
        "tests/test_gpu.py::test_still_running \n"
        "[gw0] [ 25%] FAILED tests/test_gpu.py::test_b \n"
        "FAILED tests/test_gpu.py::test_b - assert 1 == 2\n"
    )
    assert list(suite.outcomes_of_log(text)) == [
        ("test_gpu::test_a[stride 1-B-frames]", "passed", ""),
        ("test_gpu::test_b", "failure", ""),
    ]


def test_an_old_or_broken_report_of_tests_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "pytest.xml").write_text('<testsuite><testcase name="old"/></testsuite>')

    def interrupted(_command, log, *_):
        log.write_text("tests/test_uniforms.py::test_new PASSED [ 50%]\n")
        (tmp_path / "pytest.xml").write_text("<testsuite><testc")

    for run in (lambda _command, log, *_: log.write_text("") and 0, interrupted):
        monkeypatch.setattr(suite, "_run", run)
        findings = Findings(tmp_path / "found.json")
        suite.suite(Setting(tmp_path, seconds=60, cores=1, device="cpu", tiny=True), findings)
        content = json.loads((tmp_path / "found.json").read_bytes())
        assert "has not written its report" in content["notes"][0]
        (check,) = content["checks"]
        assert check["passed"] == (run is interrupted)
    assert content["figures"]["tests"] == [{"outcome": "passed", "number": 1}]
    assert "as far as their time reached" in check["what"]


def test_a_program_that_fails_or_does_not_end_is_told_with_its_last_words(capsys):
    code = "print('so far so good', flush=True); raise SystemExit(3)"
    with pytest.raises(RuntimeError, match="it ended with status 3: so far so good"):
        programs.run_program("it", ["-c", code], 60)
    code = "import time; print('waiting', flush=True); time.sleep(60)"
    with pytest.raises(RuntimeError, match="it was killed after 1 s: waiting"):
        programs.run_program("it", ["-c", code], 1.0)
    programs.run_program("it", ["-c", "print('done')"])
    assert capsys.readouterr().out.split("\n")[-2] == "done"


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
