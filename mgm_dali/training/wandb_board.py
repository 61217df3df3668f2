"""The run as Weights & Biases shows it, for those who ask for it.

Its calls may wait for a process or a network that does not answer. They are made by a thread of
their own, so that training never waits for them.
"""

import logging
import os
import re
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import RunConfig
from mgm_dali.files import write_whole

__all__ = ["WandbBoard", "why_no_wandb"]

_LOGGER = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Entries for a thread that does not get on; a resumed run hands over many at once."""
END_SECONDS = 30.0
"""Longest that the end of a run waits for what is still to be sent."""
SETTINGS = {
    "WANDB_CONSOLE": "off",  # the progress bar is no log
    "WANDB_INIT_TIMEOUT": "60",
    "WANDB_LOGIN_TIMEOUT": "30",
    "WANDB_FINISH_TIMEOUT": f"{END_SECONDS:.0f}",  # the default is to wait for ever
}
"""What the user's own environment may say otherwise."""


class WandbBoard:
    """A run of the project `training.wandb_project`.

    Its name is that of the run folder; its id is kept in RUN/wandb_id.txt, so that a resumed run
    continues it. Steps that it has already (those behind the checkpoint) are left out, as W&B would
    drop them with a warning each. After its first failure nothing more is sent.
    """

    name = "Weights & Biases"

    def __init__(self, folder: Path, first_step: int, config: RunConfig) -> None:
        """Begins in the background; what goes wrong there is said in the log."""
        arguments = {
            "project": config.training.wandb_project,
            "name": folder.resolve().name,
            "id": _run_id(folder / "wandb_id.txt", resumed=first_step > 0),
            "resume": "allow",
            "dir": str(folder.resolve()),
            "config": config.model_dump(mode="json"),
        }
        self._queue: Queue[tuple[str, Any, int]] = Queue(MAX_WAITING)
        self._lost = 0
        self._thread = threading.Thread(target=self._work, args=(arguments,), daemon=True)
        self._thread.start()

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Numbers by their tag."""
        self._send("log", values, step)

    def picture(self, tag: str, image: NDArray[np.uint8], step: int) -> None:
        """uint8 `[H, W, 3]`."""
        self._send("picture", (tag, image), step)

    def text(self, tag: str, value: str, step: int) -> None:
        """Lines, among the run's configuration."""
        self._send("config", {tag: value}, step)

    def close(self, *, failed: bool) -> None:
        """Waits a while for what is still to be sent, and says if that was not long enough."""
        if self._thread.is_alive():
            with suppress(Full):
                self._queue.put(("finish", int(failed), 0), timeout=END_SECONDS)
                self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            _LOGGER.warning(
                "%s: has not taken everything within %.0f s; `wandb sync` sends what lies in "
                "RUN/wandb",
                self.name,
                END_SECONDS,
            )
        if self._lost:
            _LOGGER.warning("%s: %d entries were not sent", self.name, self._lost)

    def _send(self, kind: str, value: Any, step: int) -> None:
        if not self._thread.is_alive():
            return  # it has said why
        try:
            self._queue.put_nowait((kind, value, step))
        except Full:
            if not self._lost:
                _LOGGER.warning("%s: takes nothing more; the run goes on without", self.name)
            self._lost += 1

    def _work(self, arguments: dict[str, Any]) -> None:
        """The thread: all that is sent, in its order."""
        try:
            _send_all(self._queue, arguments)
        except Exception as error:  # of a network, a login, a full disk ...
            reason = " ".join(str(error).split()) or type(error).__name__
            _LOGGER.warning("%s: %s; the run goes on without", self.name, reason)


def why_no_wandb(config: RunConfig) -> str | None:
    """What a user must mend before a run with these values can begin; None if it can."""
    if config.training.wandb_project is None:
        return None
    try:
        import wandb

        reason = None if hasattr(wandb, "init") else "a folder `wandb` is in its place"
    except Exception as error:  # an installation may be broken in any way
        reason = " ".join(str(error).split())
    if reason is None:
        return None
    return (
        f"training.wandb_project: wandb cannot be imported ({reason}); `pip install wandb`, or "
        "leave the key out"
    )


def _send_all(queue: "Queue[tuple[str, Any, int]]", arguments: dict[str, Any]) -> None:
    """Begins a run, sends it all that comes through the queue, and finishes it."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import wandb

    run = wandb.init(**arguments)
    first_step = run.step
    while True:
        kind, value, step = queue.get()
        if kind == "finish":
            run.finish(exit_code=value)
            return
        if kind == "config":
            run.config.update(value, allow_val_change=True)
        elif step >= first_step:
            values = {value[0]: wandb.Image(value[1])} if kind == "picture" else value
            run.log(values, step=step)


def _run_id(path: Path, *, resumed: bool) -> str:
    """The id that the run has had, or a new one for a run that begins."""
    if resumed and path.exists():
        kept = path.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kept):
            return kept
        _LOGGER.warning("%s: holds no id; Weights & Biases gets a run of its own", path)
    run_id = uuid.uuid4().hex[:8]  # of the system's randomness: no generator of the run's is used
    write_whole(path, run_id + "\n")
    return run_id
