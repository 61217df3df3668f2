"""Whether all ranks live and move: a thread in each process, so that none waits for ever.

A rank that dies or hangs leaves the others inside a collective operation, where no exception
reaches them for half an hour, or at all. So each rank keeps telling, by a word in the store through
which they met, that it lives and how far it is. The first rank reads all of them. When one has
gone silent, has stopped with an error, or nobody moves any more, it says so to all, and each
process ends with that message: first its main thread may, then the process is ended.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from torch.distributed.distributed_c10d import Store

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.training.stopping import end_process
from mgm_dali.training.world import World

__all__ = ["Pulse", "watched"]

EVERY_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""A process that has not said a word for so long is dead, frozen or out of reach."""
LAST_WORDS_SECONDS = 5.0
"""What the main thread has to end by itself, once it is known that there is no going on."""

_VERDICT = "pulse/verdict"


@dataclass
class _Sign:
    """What a rank says of itself."""

    words: int = 0
    """Counts what the thread has said: it lives."""
    moves: int = 0
    """Counts what the main thread has said: it moves."""
    doing: str = "setting up"
    state: str = "training"
    """`left` when its work is done, `failed` when it stopped with an error."""


class Pulse:
    """The thread of one process; `moves` is what the main thread has to say."""

    def __init__(self, world: World, store: Store, config: RunConfig) -> None:
        # A client of its own, where there is a way to: the main thread may be waiting in the other.
        self._store: Store = store.clone() if hasattr(store, "clone") else store
        self._world, self._run_folder = world, config.output_dir
        self._hang_seconds = config.training.hang_seconds
        self._own = _Sign()
        self._seen: dict[int, tuple[_Sign, float]] = {}
        """Of each rank, the newest sign and when its words were new."""
        self._moved = time.monotonic()
        self._end = threading.Event()
        self._say()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def moves(self, doing: str) -> None:
        """The main thread goes on to something else: a few words for whoever waits for it."""
        self._own.moves += 1
        self._own.doing = doing

    def leave(self, *, failed: bool) -> None:
        """The last word of this rank."""
        self._own.state = "failed" if failed else "left"
        self._end.set()
        self._thread.join()
        with contextlib.suppress(RuntimeError):  # the first rank may be gone, which is no harm now
            self._say()
            if failed and self._world.is_first:
                self._store.set(_VERDICT, _has_stopped(0))

    def _run(self) -> None:
        while not self._end.wait(EVERY_SECONDS):
            try:
                self._say()
                if self._world.is_first and (verdict := self._judge()):
                    self._store.set(_VERDICT, verdict)
                if self._store.check([_VERDICT]):
                    self._stop(self._store.get(_VERDICT).decode())
            except RuntimeError:  # the store went with the process that kept it
                self._stop(_has_stopped(0))

    def _say(self) -> None:
        self._own.words += 1
        self._store.set(f"pulse/{self._world.rank}", json.dumps(vars(self._own)))

    def _judge(self) -> str | None:
        """Why there is no going on, from all ranks' signs."""
        now = time.monotonic()
        keys = [f"pulse/{rank}" for rank in range(self._world.size)]
        for rank, text in enumerate(self._store.multi_get(keys)):
            sign = _Sign(**json.loads(text))
            before, since = self._seen.get(rank, (None, now))
            if before is None or sign.moves != before.moves:
                self._moved = now
            if before is None or sign.words != before.words:
                since = now
            self._seen[rank] = sign, since
        present = {rank: seen for rank, seen in self._seen.items() if seen[0].state != "left"}
        for rank, (sign, since) in present.items():
            if sign.state == "failed":
                return _has_stopped(rank)
            if now - since > SILENT_SECONDS:
                return (
                    f"rank {rank} has been silent for {now - since:.0f} s, last {sign.doing}: it "
                    "was killed, or its machine is gone"
                )
        if now - self._moved > self._hang_seconds:
            doing = "; ".join(_by_what_they_do(present))
            return f"no rank has moved for {now - self._moved:.0f} s: {doing}"
        return None

    def _stop(self, verdict: str) -> NoReturn:
        """Ends this process, unless its main thread does by itself."""
        self._end.wait(LAST_WORDS_SECONDS)
        if not self._end.is_set():
            end_process(self._world.rank, self._run_folder, verdict, 1)
        raise SystemExit  # this thread alone


@contextmanager
def watched(world: World, config: RunConfig) -> Iterator[Pulse | None]:
    """Has the ranks watch one another for as long as the block runs; None in a world of one.

    An error by which gloo or NCCL report that a rank is gone becomes a `UserError`.
    """
    if world.store is None:
        yield None
        return
    pulse = Pulse(world, world.store, config)
    world.require(None)  # all have said their first word
    pulse.start()
    failed = True
    try:
        yield pulse
        failed = False
    except RuntimeError as error:
        if not _peer_is_gone(error):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"another rank has stopped, and its own message says why ({reason}); the checkpoints "
            "are intact, the same command goes on"
        ) from error
    finally:
        pulse.leave(failed=failed)


def _peer_is_gone(error: RuntimeError) -> bool:
    text = str(error)
    return any(words in text for words in ("gloo/transport", "NCCL", "Connection reset by peer"))


def _has_stopped(rank: int) -> str:
    return f"rank {rank} has stopped; its own message says why"


def _by_what_they_do(present: dict[int, tuple[_Sign, float]]) -> Iterator[str]:
    """Those that do the same together: whoever does something else keeps the others waiting."""
    groups: dict[str, list[int]] = {}
    for rank, (sign, _) in present.items():
        groups.setdefault(sign.doing, []).append(rank)
    for doing, ranks in sorted(groups.items(), key=lambda item: len(item[1])):
        named = ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
        yield f"rank(s) {named} {doing}"
