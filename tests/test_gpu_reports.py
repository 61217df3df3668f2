"""What runs, benchmarks and tests on a GPU report, as rows of the evidence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from gpu import benchmark_runs, pretraining, programs, suite
from gpu.findings import Findings


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


def test_options_that_a_benchmark_does_not_have_are_left_out():
    wanted = ["--sizes", "vit_base", "vit_large", "--rare", "7", "--batch", "32"]
    kept = benchmark_runs._known(wanted, "usage: [--sizes ...] [--batch N]")
    assert kept == ["--sizes", "vit_base", "vit_large", "--batch", "32"]


def test_what_became_of_each_test_is_read(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'not the same'\n"
        "@pytest.mark.skip(reason='no weights')\n"
        "def test_left_out(): pass\n"
    )
    report = tmp_path / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    subprocess.run([*command, "--junitxml", str(report)], capture_output=True, timeout=120)
    outcomes = {name: (outcome, said) for name, outcome, said in suite.outcomes(report)}
    assert outcomes["test_some::test_good"] == ("passed", "")
    assert outcomes["test_some::test_bad"][0] == "failure"
    assert "not the same" in outcomes["test_some::test_bad"][1]
    assert outcomes["test_some::test_left_out"] == ("skipped", "no weights")


def test_a_program_that_fails_or_does_not_end_is_told_with_its_last_words(capsys):
    code = "print('so far so good', flush=True); raise SystemExit(3)"
    with pytest.raises(RuntimeError, match="it ended with status 3: so far so good"):
        programs.run_program("it", ["-c", code], 60)
    code = "import time; print('waiting', flush=True); time.sleep(60)"
    with pytest.raises(RuntimeError, match="it was killed after 1 s: waiting"):
        programs.run_program("it", ["-c", code], 1.0)
    programs.run_program("it", ["-c", "print('done')"])
    assert capsys.readouterr().out.split("\n")[-2] == "done"
