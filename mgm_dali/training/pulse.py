"""Whether all ranks live and move: a thread in each process, so that none waits for ever.

A rank that dies or hangs leaves the others inside a collective operation, where no exception
reaches them for half an hour, or at all. So each rank keeps telling, by a word in the store through
which they met, that it lives and how far it is. The first rank reads all of them. When one has
gone silent, has stopped with an error, or nobody moves any more, it says so to all, and each
process ends with that message: first its main thread may, then the process is ended.
"""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from torch.distributed.distributed_c10d import Store

from mgm_dali.config import RunConfig
from mgm_dali.errors import Stopped, UserError
from mgm_dali.training.stopping import end_process
from mgm_dali.training.world import STOPPED_BY_ANOTHER, World

__all__ = ["Pulse", "watched"]

EVERY_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""A process that has not said a word for so long is dead, frozen or out of reach."""
LAST_WORDS_SECONDS = 5.0
"""What the main thread has to end by itself, once it is known that there is no going on."""

_UNREACHABLE = (
    f"where the ranks met could not be reached for {SILENT_SECONDS:.0f} s: the machine of rank 0 "
    "or the network is gone"
)


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
        # The store may keep what was said before this run, or before an elastic launcher's restart.
        self._number = world.of_first(int.from_bytes(os.urandom(6), "big"))
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

    def leave(self, error: BaseException | None = None) -> None:
        """The last word of this rank, which ends with an error or without."""
        self._own.state = "failed" if error else "left"
        self._end.set()
        self._thread.join()
        with contextlib.suppress(RuntimeError):  # the first rank may be gone, which is no harm now
            self._say()
            if error and self._world.is_first:
                self._store.set(self._key("words"), str(error))
                self._store.set(self._key("verdict"), _has_stopped(0))

    def is_told_by_another(self, error: UserError) -> bool:
        """Whether another rank prints this error: hundreds need not say the same."""
        if self._world.is_first:
            return False
        if str(error) == STOPPED_BY_ANOTHER:
            return True
        key = self._key("words")
        try:
            self._store.wait([key], timedelta(seconds=LAST_WORDS_SECONDS))
            return self._store.get(key) == str(error).encode()
        except RuntimeError:
            return False

    def _key(self, name: object) -> str:
        return f"pulse/{self._number}/{name}"

    def _run(self) -> None:
        while not self._end.wait(EVERY_SECONDS):
            # Where a cable is cut, a word to the store is waited for until TCP gives up.
            watcher = threading.Timer(SILENT_SECONDS, self._stop, (_UNREACHABLE,))
            watcher.daemon = True
            watcher.start()
            try:
                self._round()
            except RuntimeError:  # the store went with the process that kept it
                self._stop(_has_stopped(0))
            finally:
                watcher.cancel()

    def _round(self) -> None:
        self._say()
        if self._world.is_first and (verdict := self._judge()):
            self._store.set(self._key("verdict"), verdict)
        if self._store.check([self._key("verdict")]):
            self._stop(self._store.get(self._key("verdict")).decode())

    def _say(self) -> None:
        self._own.words += 1
        self._store.set(self._key(self._world.rank), json.dumps(vars(self._own)))

    def _judge(self) -> str | None:
        """Why there is no going on, from all ranks' signs."""
        now = time.monotonic()
        keys = [self._key(rank) for rank in range(self._world.size)]
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
            found = "; ".join(_least_far_first([(r, sign) for r, (sign, _) in present.items()]))
            return f"no rank has moved for {now - self._moved:.0f} s: {found}"
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

    What gloo or NCCL raise when a rank is gone becomes a `UserError`. A `UserError` that the first
    rank has too is told by that one alone: the others exit with its status and without a word.
    """
    if world.store is None:
        yield None
        return
    pulse = Pulse(world, world.store, config)
    world.require(None)  # all have said their first word
    pulse.start()
    try:
        yield pulse
        world.require(None)  # nobody leaves, and takes the store along, before all are done
    except Stopped:
        pulse.leave()
        raise
    except BaseException as error:
        pulse.leave(error)
        if isinstance(error, RuntimeError) and _peer_is_gone(error):
            reason = re.search(r"Connection \w+ by peer|Timed out|NCCL[^\n]*", str(error))
            raise UserError(
                "another rank has stopped or was killed, and its own message or the launcher's "
                f"says why ({reason[0] if reason else error}); the checkpoints are intact, the "
                "same command goes on"
            ) from None
        if isinstance(error, UserError) and pulse.is_told_by_another(error):
            raise SystemExit(1) from None
        raise
    pulse.leave()


def _peer_is_gone(error: RuntimeError) -> bool:
    text = str(error)
    return any(words in text for words in ("gloo/transport", "NCCL", "Connection reset by peer"))


def _has_stopped(rank: int) -> str:
    return f"rank {rank} has stopped; its own message says why"


def _least_far_first(signs: list[tuple[int, _Sign]]) -> Iterator[str]:
    """Who has come how far: all ranks move alike, so whoever has moved least keeps the others."""
    groups: dict[tuple[int, str], list[int]] = {}
    for rank, sign in signs:
        groups.setdefault((sign.moves, sign.doing), []).append(rank)
    for number, ((_, doing), ranks) in enumerate(sorted(groups.items())):
        named = ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
        role = "" if len(groups) == 1 else " (behind the others)" if number == 0 else " (waiting)"
        yield f"rank(s) {named}{role} {doing}"
