"""Weights & Biases: it gets what TensorBoard gets, and whatever it does, the run goes on.

The package is no requirement: a fake of it notes what is asked of it.
"""

import json
import os
import random
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shown_metrics import numbers, shown, steps_of, warned

from mgm_dali.config import RunConfig
from mgm_dali.training import wandb_board
from mgm_dali.training.metrics import MetricsFile
from mgm_dali.training.wandb_board import why_no_wandb


class FakeWandb(types.ModuleType):
    """Notes what is asked of it, and fails or waits in one of its calls if it is told to."""

    def __init__(self, fails: str = "", step: int = 0) -> None:
        super().__init__("wandb")
        self.fails, self.step = fails, step
        self.began: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.texts: dict[str, str] = {}
        self.ended: list[int] = []
        self.go_on = threading.Event()
        self.config = self

    def init(self, **arguments: Any) -> "FakeWandb":
        self._fail("init")
        self.began = arguments
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self._fail("log")
        if self.fails == "hangs":
            self.go_on.wait(60)
        self.logged.append((step, values))

    def update(self, values: dict[str, str], allow_val_change: bool) -> None:
        assert allow_val_change
        self.texts.update(values)

    def Image(self, pixels: Any) -> tuple[str, Any]:
        return ("image", pixels.shape)

    def finish(self, exit_code: int) -> None:
        self._fail("finish")
        self.ended.append(exit_code)

    def _fail(self, call: str) -> None:
        if self.fails == call:
            raise RuntimeError(f"network\nis down in {call}")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a fake in the place of the package."""
    for name in wandb_board.SETTINGS:
        monkeypatch.setenv(name, "as before")  # so that it is taken back
        monkeypatch.delenv(name)

    def install(**how: Any) -> FakeWandb:
        fake = FakeWandb(**how)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return install


def watched(run: Path, first_step: int = 0) -> MetricsFile:
    tree = {"output_dir": run, "training": {"wandb_project": "masks"}}
    run.mkdir(exist_ok=True)
    return MetricsFile(run, first_step, active=True, config=RunConfig.model_validate(tree))


def test_wandb_gets_the_same_numbers_pictures_and_configuration(tmp_path, wandb):
    fake = wandb()
    with watched(tmp_path / "run-7") as metrics:
        metrics.text("opening", "device  CPU")
        metrics.write(numbers(1))
        metrics.write(numbers(2))
        metrics.picture("clip", np.zeros((4, 6, 3), np.uint8), 2)
    project, name = fake.began["project"], fake.began["name"]
    assert (project, name, fake.began["resume"]) == ("masks", "run-7", "allow")
    assert fake.began["dir"] == str(tmp_path / "run-7")
    assert fake.began["config"]["training"]["wandb_project"] == "masks"
    json.dumps(fake.began["config"])
    assert fake.logged == [
        (1, {"train/loss": 1.0, "train/lr": 0.25, "val/loss": 2.0}),
        (2, {"train/loss": 0.5, "train/lr": 0.25, "val/loss": 4.0}),
        (2, {"train/clip": ("image", (4, 6, 3))}),
    ]
    assert fake.texts == {"opening": "device  CPU"} and fake.ended == [0]


def test_wandb_learns_that_a_run_has_failed(tmp_path, wandb):
    fake = wandb()
    with pytest.raises(KeyboardInterrupt), watched(tmp_path):
        raise KeyboardInterrupt
    assert fake.ended == [1]


def test_a_resumed_run_continues_its_wandb_run_and_a_new_one_begins_its_own(tmp_path, wandb):
    ids = []
    for first_step in (0, 4, 0):
        fake = wandb()
        with watched(tmp_path, first_step):
            pass
        ids.append(fake.began["id"])
        assert (tmp_path / "wandb_id.txt").read_text() == f"{ids[-1]}\n"
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("kept", [b"", b"a/b?c", b"\xff\xff", b"x" * 1000])
def test_an_id_that_is_none_is_replaced_and_said(tmp_path, wandb, caplog, kept):
    (tmp_path / "wandb_id.txt").write_bytes(kept)
    fake = wandb()
    with watched(tmp_path, first_step=4):
        pass
    assert len(fake.began["id"]) == 8
    assert warned(caplog, "wandb_id.txt: holds no id") == 1


def test_steps_that_wandb_has_are_not_sent_again(tmp_path, wandb):
    fake = wandb(step=7)
    with watched(tmp_path, first_step=4) as metrics:
        for step in range(5, 10):
            metrics.write(numbers(step))
    assert [step for step, _ in fake.logged] == [7, 8, 9]


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_failure_of_wandb_is_said_once_and_costs_nothing_else(tmp_path, wandb, caplog, call):
    wandb(fails=call)
    with watched(tmp_path) as metrics:
        for step in range(1, 4):
            metrics.write(numbers(step))
    assert steps_of(tmp_path) == [step for step, _ in shown(tmp_path, "train/loss")] == [1, 2, 3]
    assert warned(caplog, f"Weights & Biases: network is down in {call}; the run goes on") == 1
    assert warned(caplog, "Weights & Biases") == 1


def test_nobody_waits_for_a_wandb_that_hangs(tmp_path, wandb, caplog, monkeypatch):
    monkeypatch.setattr(wandb_board, "MAX_WAITING", 5)
    monkeypatch.setattr(wandb_board, "END_SECONDS", 0.05)
    fake = wandb(fails="hangs")
    with watched(tmp_path) as metrics:
        for step in range(1, 31):
            metrics.write(numbers(step))
    fake.go_on.set()
    assert steps_of(tmp_path) == list(range(1, 31)), "the test ends: nothing waited for 60 s"
    assert warned(caplog, "takes nothing more") == 1
    assert warned(caplog, "has not taken everything") == 1
    assert warned(caplog, "entries were not sent") == 1


def test_the_users_own_settings_of_wandb_stay(tmp_path, wandb, monkeypatch):
    wandb()
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "7")
    with watched(tmp_path):
        pass
    assert os.environ["WANDB_FINISH_TIMEOUT"] == "7" and os.environ["WANDB_CONSOLE"] == "off"


def test_showing_a_run_uses_no_random_numbers(tmp_path, wandb):
    wandb()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with watched(tmp_path) as metrics:
        metrics.write(numbers(1))
        metrics.picture("clip", np.zeros((4, 4, 3), np.uint8), 1)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


def test_wandb_is_asked_for_only_by_those_who_name_a_project(tmp_path, wandb, monkeypatch):
    fake = wandb()
    with MetricsFile(tmp_path, 0, active=True, config=RunConfig()) as metrics:
        metrics.write(numbers(1))
    assert not fake.began and not (tmp_path / "wandb_id.txt").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert why_no_wandb(RunConfig()) is None


@pytest.mark.parametrize("module", [None, types.ModuleType("wandb")], ids=["none", "a folder"])
def test_a_missing_wandb_is_told_before_the_run_with_its_repair(monkeypatch, module):
    config = RunConfig.model_validate({"training": {"wandb_project": "masks"}})
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    assert why_no_wandb(config) is None
    monkeypatch.setitem(sys.modules, "wandb", module)
    reason = why_no_wandb(config)
    assert reason is not None and "\n" not in reason
    assert reason.startswith("training.wandb_project: ") and "pip install wandb" in reason
