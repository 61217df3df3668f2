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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from torch.distributed.distributed_c10d import Store

from mgm_dali.config import RunConfig
from mgm_dali.errors import Stopped, UserError
from mgm_dali.training.stopping import end_process
from mgm_dali.training.world import STOPPED_BY_ANOTHER, World

__all__ = ["watched"]

EVERY_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""A process that has not said a word for so long is dead, frozen or out of reach."""
SUSPENDED_SECONDS = 10.0
"""A thread that wakes every second and has slept for so long was suspended with its process."""
LAST_WORDS_SECONDS = 5.0
"""What the main thread has to end by itself, once it is known that there is no going on."""

_UNREACHABLE = (
    f"where the ranks met could not be reached for {SILENT_SECONDS:.0f} s: the machine of rank 0 "
    "or the network is gone"
)


@dataclass
class _Sign:
    """What a rank says of itself."""

    beats: int = 0
    """Counts what the thread has said: it lives."""
    moves: int = 0
    """Counts what the main thread has said: it moves."""
    doing: str = "setting up"
    state: str = "training"
    """`left` when its work is done, `failed` when it stopped with an error."""


class Heartbeat:
    """The thread of one process; `doing` is what the main thread has to say."""

    def __init__(self, world: World, store: Store, config: RunConfig) -> None:
        # A client of its own, where there is a way to: the main thread may be waiting in the other.
        self._store: Store = store.clone() if hasattr(store, "clone") else store
        # The store may keep what was said before this run, or before an elastic launcher's restart.
        self._number = world.of_first(int.from_bytes(os.urandom(6), "big"))
        self._world, self._run_folder = world, config.output_dir
        self._hang_seconds = config.training.hang_seconds
        self._own = _Sign()
        self._seen: dict[int, tuple[_Sign, float]] = {}
        """Of each rank, the newest sign, and when its beat was new."""
        self._moved = time.monotonic()
        self._end = threading.Event()
        self._say()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="heartbeat watcher", daemon=True)
        self._round_done = time.monotonic()
        """When the thread has last heard of the others."""

    def start(self) -> None:
        self._thread.start()
        self._watcher.start()

    def doing(self, what: str) -> None:
        """The main thread goes on to something else: a few words for whoever waits for it."""
        self._own.moves += 1
        self._own.doing = what

    def leave(self, error: BaseException | None = None) -> None:
        """The last word of this rank, which ends with an error or without."""
        self._own.state = "failed" if error else "left"
        self._end.set()
        # In a thread: where a cable is cut, a word to the store is waited for until TCP gives up.
        farewell = threading.Thread(target=self._say_farewell, args=(error,), daemon=True)
        farewell.start()
        farewell.join(LAST_WORDS_SECONDS)

    def _say_farewell(self, error: BaseException | None) -> None:
        self._thread.join()
        with contextlib.suppress(RuntimeError):  # the first rank may be gone, which is no harm now
            self._say()
            if error and self._world.is_first:
                self._store.set(self._key("error"), str(error))
                self._store.set(self._key("verdict"), _has_stopped(0))

    def is_told_by_another(self, error: UserError) -> bool:
        """Whether another rank prints this error: hundreds need not say the same."""
        if self._world.is_first:
            return False
        if str(error) == STOPPED_BY_ANOTHER:
            return True
        key = self._key("error")
        try:
            self._store.wait([key], timedelta(seconds=LAST_WORDS_SECONDS))
            return self._store.get(key) == str(error).encode()
        except RuntimeError:
            return False

    def _key(self, name: object) -> str:
        return f"heartbeat/{self._number}/{name}"

    def _run(self) -> None:
        while not self._end.wait(EVERY_SECONDS):
            try:
                self._say()
                if self._world.is_first and (verdict := self._judge(time.monotonic())):
                    self._store.set(self._key("verdict"), verdict)
                if self._store.check([self._key("verdict")]):
                    self._stop(self._store.get(self._key("verdict")).decode())
                if not self._world.is_first and (verdict := self._look_at_first(time.monotonic())):
                    self._stop(verdict)
            except RuntimeError:  # the store went with the process that kept it
                self._stop(_has_stopped(0))
            self._round_done = time.monotonic()

    def _watch(self) -> None:
        """Ends the process if the other thread gets no answer."""
        last = time.monotonic()
        while not self._end.wait(EVERY_SECONDS):
            now = time.monotonic()
            if now - last > SUSPENDED_SECONDS:
                self._round_done = now
            last = now
            if now - self._round_done > SILENT_SECONDS:
                self._stop(_UNREACHABLE)

    def _look_at_first(self, now: float) -> str | None:
        """Who watches the one that watches?"""
        self._see(0, self._store.get(self._key(0)), now)
        sign, since = self._seen[0]
        if sign.state == "training" and now - since > SILENT_SECONDS:
            return _is_silent(0, sign, now - since)
        return None

    def _see(self, rank: int, text: bytes, now: float) -> None:
        sign = _Sign(**json.loads(text))
        before, since = self._seen.get(rank, (None, now))
        if now - self._round_done > SUSPENDED_SECONDS:
            since = self._moved = now  # not they were silent: we were not there
        if before is None or sign.moves != before.moves:
            self._moved = now
        if before is None or sign.beats != before.beats:
            since = now
        self._seen[rank] = sign, since

    def _say(self) -> None:
        self._own.beats += 1
        self._store.set(self._key(self._world.rank), json.dumps(vars(self._own)))

    def _judge(self, now: float) -> str | None:
        """Why there is no going on, from all ranks' signs."""
        keys = [self._key(rank) for rank in range(self._world.size)]
        for rank, text in enumerate(self._store.multi_get(keys)):
            self._see(rank, text, now)
        present = {rank: seen for rank, seen in self._seen.items() if seen[0].state != "left"}
        for rank, (sign, since) in present.items():
            if sign.state == "failed":
                return _has_stopped(rank)
            if now - since > SILENT_SECONDS:
                return _is_silent(rank, sign, now - since)
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
def watched(world: World, config: RunConfig) -> Iterator[Callable[[str], None]]:
    """Has the ranks watch one another for as long as the block runs.

    Gives a function to be called with what the main thread does next; in a world of one nobody
    hears it. What gloo or NCCL raise when a rank is gone becomes a `UserError`. A `UserError` that
    the first rank has too is told by that one alone: the others exit with its status and without a
    word.
    """
    if world.store is None:
        yield lambda _what: None
        return
    heartbeat = Heartbeat(world, world.store, config)
    world.require(None)  # all have said their first word
    heartbeat.start()
    try:
        yield heartbeat.doing
        world.require(None)  # nobody leaves, and takes the store along, before all are done
    except Stopped:
        with contextlib.suppress(RuntimeError):
            world.require(None)
        heartbeat.leave()
        raise
    except BaseException as error:
        heartbeat.leave(error)
        if isinstance(error, RuntimeError) and _peer_is_gone(error):
            reason = re.search(r"Connection \w+ by peer|Timed out|NCCL[^\n]*", str(error))
            raise UserError(
                "another rank has stopped or was killed, and its own message or the launcher's "
                f"says why ({reason[0] if reason else error}); the checkpoints are intact, the "
                "same command goes on"
            ) from None
        if isinstance(error, UserError) and heartbeat.is_told_by_another(error):
            raise SystemExit(1) from None
        raise
    heartbeat.leave()


def _peer_is_gone(error: RuntimeError) -> bool:
    text = str(error)
    return "gloo/transport" in text or ("NCCL" in text and ("remote" in text or "abort" in text))


def _is_silent(rank: int, sign: _Sign, seconds: float) -> str:
    return (
        f"rank {rank} has been silent for {seconds:.0f} s, last {sign.doing}: it was killed or "
        "frozen, or its machine is gone"
    )


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
