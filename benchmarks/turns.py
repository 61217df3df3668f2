"""Rounds of whole loaders and trainings: each turn is a new process, measured once it is busy.

round 1   A B C ...
round 2   A B C ...
"""

from collections.abc import Callable, Mapping, Sequence

from peers import PeerError
from rounds import Contender, Timings

__all__ = ["CLIPS", "CPU", "WALL", "run_turns"]

CLIPS = "clips"
"""The one job of these timings."""
CPU, WALL = "CPU time", "wall time"
"""Kinds of time: seconds a clip, of all processes of a contender."""
CLIP_FRAMES = 16


def run_turns(
    contenders: Sequence[Contender],
    num_rounds: int,
    measure: Callable[[Contender], Mapping[str, float]],
    extras: Mapping[str, str],
    progress: Callable[[int, int], None],
) -> dict[str, Timings]:
    """Every contender once a round; `CPU`, `WALL` and `extras` by their kind.

    `measure` gives what a worker answered; `extras` names more of it, which is kept as it is. One
    that fails is not tried again, and what was measured of it is dropped.
    """
    failures: dict[str, dict[str, str]] = {}
    timings = {kind: Timings(failures=failures) for kind in (CPU, WALL, *extras)}
    turns = [contender for _ in range(num_rounds) for contender in contenders]
    for done, contender in enumerate(turns, 1):
        label = contender.label
        if label in failures:
            continue
        try:
            answer = measure(contender)
        except PeerError as error:
            failures[label] = {CLIPS: str(error)}
            for timing in timings.values():
                timing.seconds.pop(label, None)
            continue
        num_clips = answer["frames"] / CLIP_FRAMES
        found = {kind: answer[name] for kind, name in extras.items()}
        found[CPU] = answer["cpu_seconds"] / num_clips
        found[WALL] = answer["wall_seconds"] / num_clips
        for kind, value in found.items():
            timings[kind].seconds.setdefault(label, {}).setdefault(CLIPS, []).append(value)
        progress(done, len(turns))
    return timings
