"""Runs that are killed, frozen or preempted: nothing is lost, nobody waits for ever."""

import os
import signal
import time
from pathlib import Path

import pytest
from faulty_run import SAVING
from training_runs import LAUNCHERS, SETTINGS, config_for, launched, losses_of

from mgm_dali.config import load_config
from mgm_dali.errors import Stopped
from mgm_dali.runs.checkpoint_files import complete_steps
from mgm_dali.runs.status import read_status
from mgm_dali.training import loop, stopping
from mgm_dali.training.finetune import finetune
from mgm_dali.training.pretrain import pretrain

SCRIPT = Path(__file__).with_name("faulty_run.py")
COMMANDS = {"pretrain": pretrain, "finetune": finetune}
PREEMPTED = 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def settings(moving_shapes):
    """Eight steps, a checkpoint behind every second."""
    return (
        *SETTINGS,
        *(f"data.train={moving_shapes}", "training.max_steps=8"),
        "training.checkpoint_every_steps=2",
    )


def alone(command, run, settings):
    """The run in this process, which is a world of one."""
    run.parent.mkdir(exist_ok=True)
    (run.parent / "empty.yaml").write_text("")
    overrides = [*settings, f"output_dir={run}", "training.batch_size=4"]
    COMMANDS[command](load_config(run.parent / "empty.yaml", overrides))


def faulty(fault, command, run, settings, *, ranks=1, at=(0, 5)):
    """The run in processes of its own; its status and output.

    `at`: the rank that does itself a `fault`, and the steps before.
    """
    run.parent.mkdir(exist_ok=True)
    (run.parent / "empty.yaml").write_text("")
    launcher = LAUNCHERS["torchrun"] if ranks == 2 else []
    return launched(
        [
            *(*launcher, SCRIPT, fault, *at, command, run.parent / "empty.yaml", *settings),
            *(f"output_dir={run}", f"training.batch_size={4 // ranks}"),
        ]
    )


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """Losses of runs that nothing interrupted, in a world of one."""
    folder = tmp_path_factory.mktemp("whole")
    for command in COMMANDS:
        alone(command, folder / command, settings)
    return {command: losses_of(folder / command) for command in COMMANDS}


@pytest.fixture(scope="module")
def whole_of_two(settings, tmp_path_factory):
    """The same with two ranks."""
    run = tmp_path_factory.mktemp("two") / "run"
    status, output = faulty("none", "pretrain", run, settings, ranks=2)
    assert status == 0, output
    return losses_of(run)


def working_on(run):
    """Processes that still have to do with a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"output_dir={run}" in path.read_text().split("\0"):
                found.append(path.parent.name)
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", SAVING)
def test_a_run_killed_inside_a_save_goes_on_from_the_checkpoint_before(
    whole, settings, tmp_path, command, fault
):
    run = tmp_path / "run"
    status, _ = faulty(fault, command, run, settings, at=(0, 6))
    assert status == -signal.SIGKILL
    complete = complete_steps(run)
    assert complete == ([2, 4, 6] if fault == "killed before the old ones go" else [2, 4])
    alone(command, run, settings)
    assert losses_of(run) == whole[command]
    assert complete_steps(run) == [6, 8]
    assert not list((run / "checkpoints").glob("*.partial"))
    log = (run / "train.log").read_text()
    assert f"resumed behind step {complete[-1]} from" in log


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_killed_between_saves_takes_the_same_steps_again(whole, settings, tmp_path, command):
    status, _ = faulty("killed", command, tmp_path / "run", settings)
    assert status == -signal.SIGKILL
    alone(command, tmp_path / "run", settings)
    assert losses_of(tmp_path / "run") == whole[command]


def test_sigterm_saves_and_the_same_command_goes_on(moving_shapes, tmp_path, monkeypatch):
    pretrain(config_for(moving_shapes, tmp_path / "whole"))
    original = loop.seed_step

    def terminated(seed, step, rank):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        original(seed, step, rank)

    monkeypatch.setattr(loop, "seed_step", terminated)
    config = config_for(moving_shapes, tmp_path / "run")
    with pytest.raises(Stopped, match="stopped behind step 3: SIGTERM") as stopped:
        pretrain(config)
    assert stopped.value.status == PREEMPTED
    assert complete_steps(tmp_path / "run") == [2, 3]
    assert read_status(tmp_path / "run").state == "stopped"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.undo()
    pretrain(config)
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "whole")
    assert read_status(tmp_path / "run").state == "finished"


def test_a_run_whose_time_is_over_saves_and_exits_in_peace(moving_shapes, tmp_path, monkeypatch):
    now = time.monotonic()
    clock = iter([now, now, now + 3000])
    monkeypatch.setattr(stopping.time, "monotonic", lambda: next(clock, now + 9000))
    with pytest.raises(Stopped, match=r"behind step 1: training\.max_minutes are over") as stopped:
        pretrain(config_for(moving_shapes, tmp_path / "run", max_minutes=30))
    assert stopped.value.status == 0
    assert complete_steps(tmp_path / "run") == [1]


def test_a_process_that_cannot_save_in_time_ends_all_the_same(moving_shapes, tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(stopping, "end_process", lambda *arguments: ended.append(arguments))
    original = loop.save_checkpoint

    def slow(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        original(*arguments)

    monkeypatch.setattr(loop, "save_checkpoint", slow)
    with pytest.raises(Stopped):
        pretrain(config_for(moving_shapes, tmp_path / "run", grace_seconds=0.1))
    [(rank, folder, message, status)] = ended
    assert (rank, folder, status) == (0, tmp_path / "run", PREEMPTED)
    assert message == "not saved within training.grace_seconds = 0.1 after SIGTERM"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "raising"])
@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_rank_is_gone_the_others_end_and_both_go_on_exactly(
    whole_of_two, settings, tmp_path, fault, rank
):
    run = tmp_path / "run"
    began = time.monotonic()
    status, output = faulty(fault, "pretrain", run, settings, ranks=2, at=(rank, 5))
    assert status == 1 and time.monotonic() - began < 100
    assert "another rank has stopped or was killed" in output or "rank 0 has stopped" in output
    assert output.count("Traceback (most recent call last)") == 1 + (fault == "raising"), output
    assert not working_on(run)
    assert complete_steps(run) == [2, 4]
    status, output = faulty("none", "pretrain", run, settings, ranks=2)
    assert status == 0, output
    assert losses_of(run) == whole_of_two


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hanging", "frozen"])
def test_a_rank_that_does_not_move_ends_the_run_with_its_name(settings, tmp_path, fault):
    run = tmp_path / "run"
    hang = (*settings, "training.hang_seconds=20")
    status, output = faulty(fault, "pretrain", run, hang, ranks=2, at=(1, 5))
    assert status == 1
    assert "no rank has moved for 2" in output
    assert "rank(s) 1 (behind the others)" in output and "rank(s) 0 (waiting)" in output
    assert not working_on(run)
    assert complete_steps(run) == [2, 4]
    assert "rank(s) 1 (behind the others)" in read_status(run).reason


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["terminated", "launcher terminated", "launcher killed"])
def test_two_preempted_ranks_save_the_same_step_and_go_on_exactly(
    whole_of_two, settings, tmp_path, fault
):
    run = tmp_path / "run"
    faulty(fault, "pretrain", run, settings, ranks=2, at=(1, 5))
    for _ in range(60):  # a killed launcher does not wait for its ranks
        if not working_on(run):
            break
        time.sleep(1)
    assert not working_on(run)
    stopped = complete_steps(run)[-1]
    assert stopped in (6, 7, 8)
    assert "stopped behind step" in (run / "train.log").read_text()
    status, output = faulty("none", "pretrain", run, settings, ranks=2)
    assert status == 0, output
    assert losses_of(run) == whole_of_two


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_another_number_of_ranks_sees_the_same_clips_and_learns_the_same(settings, tmp_path, stage):
    staged = [*settings, f"training.zero_stage={stage}", "training.global_batch=4"]
    alone("pretrain", tmp_path / "whole" / "run", staged)
    run = tmp_path / "run" / "run"
    (run.parent).mkdir()
    faulty("killed", "pretrain", run, staged, ranks=2)
    alone("pretrain", run, staged)
    expected = losses_of(tmp_path / "whole" / "run")
    assert losses_of(run) == pytest.approx(expected, abs=1e-5)
    log = (run / "train.log").read_text()
    assert "which 2 rank(s) wrote" in log and "changed    training.batch_size: 2 -> 4" in log


@pytest.mark.slow
def test_what_one_rank_wrote_two_can_read(whole, settings, tmp_path):
    run = tmp_path / "run"
    faulty("killed", "pretrain", run, settings)
    status, output = faulty("none", "pretrain", run, settings, ranks=2)
    assert status == 0, output
    assert losses_of(run) == pytest.approx(whole["pretrain"], abs=1e-5)
