"""What is seen of runs from outside: which folders are runs, and what each of them does."""

import errno
import fcntl
import json
import os
import time
from pathlib import Path

import pytest
from made_runs import DEEP, METRICS_LINE, hold_lock, made_run, printed, row_of, status_of

from mgm_dali.runs import held_locks, rows
from mgm_dali.runs.held_locks import HeldLock, is_locked
from mgm_dali.runs.rows import find_runs


@pytest.fixture
def other_process():
    """Has another process hold the lock of a run."""
    started = []

    def hold(run):
        started.append(hold_lock(run))
        return started[-1]

    yield hold
    for process in started:
        process.communicate(timeout=60)


@pytest.mark.parametrize("state", ["training", "stopped", "failed", "finished"])
def test_a_run_is_running_as_long_as_a_process_holds_its_lock(tmp_path, other_process, state):
    run = made_run(tmp_path / "run", status_of(state))
    process = other_process(run)
    assert row_of(run).state == "running"
    process.communicate(timeout=60)
    assert row_of(run).state == {"training": "died"}.get(state, state)


def test_a_killed_run_has_died(tmp_path, other_process, capsys):
    run = made_run(tmp_path / "run", status_of(pid=4321), checkpoints=[10, 20])
    process = other_process(run)
    process.kill()
    process.wait(timeout=60)
    assert row_of(run).state == "died"
    said = printed(tmp_path, capsys)
    assert f"process 4321 on {os.uname().nodename} ended without a word" in said
    assert "goes on behind step 20" in said


def test_to_look_at_a_run_takes_no_lock_that_a_starting_run_could_miss(tmp_path, monkeypatch):
    run = made_run(tmp_path / "run", status_of())
    with (run / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in ("flock", "lockf", "fcntl"):
            monkeypatch.setattr(fcntl, name, lambda *_: pytest.fail("touched a lock"))
        assert row_of(run).state == "running"
    assert row_of(run).state == "died"


@pytest.mark.parametrize("held_first", [True, False], ids=["ends", "starts"])
def test_a_run_that_ends_or_starts_while_we_look_is_not_called_dead(
    tmp_path, monkeypatch, held_first
):
    run = made_run(tmp_path / "run", status_of())
    (run / "lock").touch()
    file = (run / "lock").stat()
    held = frozenset({HeldLock(1, file.st_dev, file.st_ino)})
    answers = [held, frozenset()] if held_first else [frozenset(), held]
    monkeypatch.setattr(rows, "held_locks", lambda: answers.pop(0))
    assert row_of(run).state == "running"


@pytest.mark.parametrize(
    ("age_seconds", "state"), [(10, "running"), (-10_000, "running"), (7200, "silent")]
)
def test_a_run_on_another_host_is_judged_by_its_last_sign_of_life(
    tmp_path, capsys, age_seconds, state
):
    status = status_of(host="gpu-1", updated=time.time() - age_seconds, eta_seconds=90_000)
    made_run(tmp_path / "run", status)
    assert row_of(tmp_path / "run").state == state
    said = printed(tmp_path, capsys)
    if state == "running":
        assert "running on gpu-1" in said and "d left" in said
    else:
        assert "gpu-1 is silent for 2.0 h" in said and "2.0 h ago" in said


@pytest.mark.parametrize(("age_seconds", "state"), [(10, "running"), (7200, "silent")])
def test_where_the_system_lists_no_locks_the_age_decides_too(
    tmp_path, monkeypatch, age_seconds, state
):
    monkeypatch.setattr(held_locks, "PROC_LOCKS", tmp_path / "no-such-file")
    run = made_run(tmp_path / "run", status_of(updated=time.time() - age_seconds))
    assert row_of(run).state == state


def test_only_a_whole_file_held_for_writing_counts_as_locked(tmp_path, monkeypatch):
    listed = tmp_path / "locks"
    listed.write_text(
        "1: FLOCK  ADVISORY  WRITE 11 fe:00:101 0 EOF\n"
        "1: -> FLOCK  ADVISORY  WRITE 12 fe:00:102 0 EOF\n"
        "2: FLOCK  ADVISORY  READ  13 fe:00:103 0 EOF\n"
        "3: POSIX  ADVISORY  WRITE 14 fe:00:104 0 EOF\n"
        "4: FLOCK  ADVISORY  WRITE 15 <none>:0 0 EOF\n"
        "\n"
    )
    monkeypatch.setattr(held_locks, "PROC_LOCKS", listed)
    assert held_locks.held_locks() == {HeldLock(11, os.makedev(0xFE, 0), 101)}


def test_a_file_system_that_numbers_its_device_twice_is_known_by_the_process(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    file = path.stat()
    elsewhere = {HeldLock(11, file.st_dev + 1, file.st_ino)}
    assert is_locked(path, elsewhere, pid=11)
    assert not is_locked(path, elsewhere, pid=12)
    assert not is_locked(path, elsewhere)
    assert not is_locked(tmp_path / "none", elsewhere, pid=11)


def test_an_old_run_is_read_from_its_metrics(tmp_path, other_process):
    run = made_run(
        tmp_path / "run", metrics=METRICS_LINE.replace("7", "6") + METRICS_LINE, checkpoints=[5, 3]
    )
    row = row_of(run)
    assert (row.state, row.step, row.loss, row.newest_checkpoint) == ("ended", 7, 0.25, 5)
    assert row.last_sign == (run / "metrics.jsonl").stat().st_mtime
    other_process(run)
    assert row_of(run).state == "running"


@pytest.mark.parametrize("cut", ['{"step": 8, "lo', "{}\n", "\x00" * 100, '{"step": "8"}\n', "7\n"])
def test_a_half_written_last_line_leaves_the_one_before(tmp_path, cut):
    assert row_of(made_run(tmp_path / "run", metrics=METRICS_LINE + cut)).step == 7


def test_a_run_that_has_not_taken_a_step_is_no_damaged_one(tmp_path):
    row = row_of(made_run(tmp_path / "run", metrics=""))
    assert (row.state, row.step) == ("ended", None)


def test_of_large_metrics_the_end_alone_is_read(tmp_path):
    run = made_run(tmp_path / "run", metrics="")
    os.truncate(run / "metrics.jsonl", 1 << 36)  # more than fits in memory; takes no space
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n" + METRICS_LINE)
    assert row_of(run).step == 7


@pytest.mark.parametrize("metrics", ["\x00" * 100_000, DEEP, "{}\n" * 1000, "\n"])
def test_metrics_without_a_line_are_damage(tmp_path, metrics):
    row = row_of(made_run(tmp_path / "run", metrics=metrics))
    assert row.state == "damaged" and "no line of a run" in row.reason


def test_a_loss_that_is_no_number_is_shown_and_is_null_in_json(tmp_path, capsys):
    made_run(tmp_path / "run", metrics='{"step": 7, "loss": NaN}\n')
    assert " nan " in printed(tmp_path, capsys)
    (run,) = json.loads(printed(tmp_path, capsys, as_json=True))
    assert run["loss"] is None


def test_runs_are_found_at_any_depth_and_inside_of_each_other(tmp_path):
    runs = [tmp_path / name for name in ("a", "a/finetune", "b/c/d", "weights")]
    for run in runs:
        made_run(run, status_of())
    for run in ("a/checkpoints/x", "a/tensorboard/x", "a/weights/x", ".hidden/x"):
        made_run(tmp_path / run, status_of())
    (tmp_path / "no-run").mkdir()
    (tmp_path / "no-run" / "config.yaml").touch()
    assert find_runs(tmp_path) == (runs, [])
    assert find_runs(tmp_path / "a")[0] == runs[:2]


def test_links_lead_nowhere_but_to_runs_and_each_run_is_found_once(tmp_path):
    below, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    run, other = made_run(below / "z", status_of()), made_run(elsewhere / "other", status_of())
    for name, target in {
        "circle": below,
        "far": elsewhere,
        "itself": below / "itself",
        "latest": run,
        "nowhere": tmp_path / "none",
        "other": other,
        "other-again": other,
    }.items():
        (below / name).symlink_to(target)
    found, notes = find_runs(below)
    assert found == [below / "other", run]
    assert [note.split(":")[0] for note in notes] == [str(below / "circle"), str(below / "far")]


def test_a_folder_that_may_not_be_read_is_said_and_hides_no_other(tmp_path, monkeypatch):
    run = made_run(tmp_path / "run", status_of())
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found, notes = find_runs(tmp_path)
    assert found == [run]
    assert notes == [f"{tmp_path / 'shut'}: not looked into (Permission denied)"]
