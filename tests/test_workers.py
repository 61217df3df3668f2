"""Worker processes: whatever an item does to its process, the others get their outcome."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mgm_dali.video.workers import Failure, run_in_workers

Outcomes = dict[int, "int | Failure"]


def square(item: int | str) -> int:
    """What workers do here: numbers are harmless, words are not."""
    if item == "hang":
        time.sleep(600)
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "leave":
        os._exit(3)
    if isinstance(item, str):
        raise RuntimeError(f"cannot do {item}")
    return item * item


def squares(items: list[int | str], num_workers: int) -> Outcomes:
    outcomes = run_in_workers(square, items, num_workers=num_workers, seconds_allowed=lambda _: 0.5)
    return dict(outcomes)


def modules_with(name: str) -> list[str]:
    importlib.import_module(name)
    return sorted(sys.modules)


def test_an_item_that_hangs_or_kills_its_process_costs_only_its_own_outcome() -> None:
    outcomes = squares([2, "hang", 3, "crash", 4, "leave", 5, "nonsense", 6], num_workers=2)
    assert [outcomes[place] for place in (0, 2, 4, 6, 8)] == [4, 9, 16, 25, 36]
    reasons = [outcomes[place].reason for place in (1, 3, 5, 7)]  # type: ignore[union-attr]
    assert reasons == [
        "not done after 0.5 s; it was given up",
        "the process that read it was killed by SIGSEGV",
        "the process that read it ended with status 3",
        "RuntimeError: cannot do nonsense",
    ]


def nothing(_: int) -> None:
    """A result like any other."""


def test_a_function_that_gives_none_is_not_waited_for() -> None:
    outcomes = run_in_workers(nothing, [0, 1], num_workers=1, seconds_allowed=lambda _: 20)
    assert list(outcomes) == [(0, None), (1, None)]


def test_no_items_need_no_processes() -> None:
    assert squares([], num_workers=2) == {}


def test_workers_load_neither_torch_nor_rich_nor_dali() -> None:
    ((_, modules),) = run_in_workers(
        modules_with, ["mgm_dali.motion.extract"], num_workers=1, seconds_allowed=lambda _: 60
    )
    assert isinstance(modules, list), modules
    assert not {"torch", "rich", "nvidia", "matplotlib"} & set(modules)


SCRIPT = """
import os, sys, time
from mgm_dali.video.workers import run_in_workers

def report_and_hang(_):
    print(os.getpid(), flush=True)
    time.sleep(600)

{guard}
    dict(run_in_workers(report_and_hang, [0], num_workers=1, seconds_allowed=lambda _: 600))
"""


def start_script(path: Path, guard: str) -> subprocess.Popen[str]:
    path.write_text(SCRIPT.format(guard=guard))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, str(path)], env=environment, stdout=pipe, stderr=pipe, text=True
    )


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    with start_script(tmp_path / "hang.py", "if __name__ == '__main__':") as script:
        assert script.stdout is not None
        worker = int(script.stdout.readline())
        script.kill()
        script.wait()
    deadline = time.monotonic() + 5
    while is_alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.02)


def test_a_script_that_starts_itself_over_and_over_is_told_why(tmp_path: Path) -> None:
    with start_script(tmp_path / "unguarded.py", "if True:") as script:
        _, said = script.communicate(timeout=60)
    assert script.returncode == 1
    assert "before it began to work" in said
    assert 'if __name__ == "__main__":' in said
