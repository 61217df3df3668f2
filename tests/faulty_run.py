"""The command line with a fault in it: `faulty_run.py FAULT RANK STEP COMMAND ...`.

Behind STEP steps, the process of RANK does to itself what a cluster may do to it. Inside a save it
is killed before the named function is called for that step's checkpoint.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

from mgm_dali.cli import main
from mgm_dali.runs import checkpoint_files
from mgm_dali.training import checkpoint, loop

__all__ = ["FAULTS", "SAVING"]

FAULTS: dict[str, Callable[[], None]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "frozen": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hanging": lambda: time.sleep(600),
    "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "launcher terminated": lambda: os.kill(os.getppid(), signal.SIGTERM),
    "launcher killed": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "raising": lambda: (_ for _ in ()).throw(ValueError("a fault of this rank alone")),
}
SAVING = {
    "killed before the weights": (checkpoint, "save_weights"),
    "killed before the moments": (checkpoint, "save_file"),
    "killed before the checksums": (checkpoint_files, "checksums"),
    "killed before the name": (checkpoint_files, "_sync"),
    "killed before the old ones go": (checkpoint, "prune"),
}


def _break(fault: str, rank: int, step: int) -> None:
    """Puts the fault in."""
    mine = int(os.environ.get("RANK", "0")) == rank
    original = loop.seed_step
    done = 0

    def seed_step(seed: int, number: int, of_rank: int) -> None:
        nonlocal done
        done = number
        if mine and number == step and fault in FAULTS:
            FAULTS[fault]()
        original(seed, number, of_rank)

    loop.seed_step = seed_step  # type: ignore[attr-defined]
    if fault in SAVING:
        module, name = SAVING[fault]
        function = getattr(module, name)

        def killed(*arguments: object, **named: object) -> object:
            if mine and done + 1 >= step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        setattr(module, name, killed)


if __name__ == "__main__":
    _break(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    sys.argv[1:] = sys.argv[4:]
    main()
