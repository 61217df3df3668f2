"""One bad input in a process of its own, which it may bring down: `python -m gpu.bad_input ...`.

DECODER, the bad file and a good one are its arguments. It prints what comes of the bad one, then
how the good one is decoded behind it: a line of JSON each. torch, which takes seconds to import, is
left out.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu.dali_decoder import compared, decode, reference_frames
from mgm_dali.video.reader import VideoError

__all__ = ["NUM_FRAMES", "outcomes"]

NUM_FRAMES = 40
NUMBERS = list(range(0, NUM_FRAMES, 3))


def outcomes(decoder: str, bad: Path, good: Path) -> Iterator[dict[str, Any]]:
    """Outcome, what is said, and seconds of the bad; whether the good is right behind it."""
    start = time.perf_counter()
    outcome, said = _outcome(bad, decoder)
    yield {"outcome": outcome, "said": said, "seconds": time.perf_counter() - start}
    reference = reference_frames(good)
    try:
        (found,) = decode([good], [NUMBERS], decoder)
    except RuntimeError as error:
        yield {"is_same": False, "said": str(error)}
    else:
        comparison = compared(found, reference, NUMBERS)
        yield {"is_same": comparison.is_same, "said": str(comparison)}


def _outcome(path: Path, decoder: str) -> tuple[str, str]:
    """What comes of a file, and what is said of it, or how far it is from what PyAV reads."""
    reference, unreadable = None, ""
    try:
        reference = reference_frames(path)
    except VideoError as error:
        unreadable = f"PyAV: {error.reason}"
    most = NUM_FRAMES if reference is None else len(reference)
    numbers = [number for number in NUMBERS if number < most]
    try:
        (found,) = decode([path], [numbers], decoder)
    except RuntimeError as error:
        return "refused", str(error)
    if reference is None:
        return f"gives {len(found)} frames", unreadable
    comparison = compared(found, reference, numbers)
    return ("right" if comparison.is_same else "WRONG FRAMES"), str(comparison)


if __name__ == "__main__":
    for line in outcomes(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
