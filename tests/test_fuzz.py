"""Good files with flipped bits and lost ends: each reader gives what it promises, or one reason.

Every file is read in a process of its own making: a crash, a hang, an error of another kind and a
result of the wrong shape are failures here.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from every_reader import Reading, read_in_every_way
from videos import CLIPS

from mgm_dali.video.workers import Failure, run_in_workers

MAX_MEGABYTES = 1000
"""A flipped bit may make a picture large, up to what is allowed; good files take 90."""

SECONDS = 30
"""For one file, on a busy machine; most take a twentieth of a second."""

HEAD_BYTES, TAIL_BYTES = 1024, 2048
"""Where containers keep what they know of the whole: at the front, and behind the pictures."""


def broken(whole: bytes, rng: np.random.Generator, how: int) -> bytes:
    """Flips up to 20 bits anywhere, in the head or in the tail; cuts every second file."""
    data = np.frombuffer(whole, np.uint8).copy()
    places = [
        slice(None),
        slice(0, HEAD_BYTES),
        slice(max(len(data) - TAIL_BYTES, 0), None),
    ]
    part = data[places[how % 3]]
    flipped = rng.integers(0, len(part), rng.integers(1, 20))
    part[flipped] ^= (1 << rng.integers(0, 8, len(flipped))).astype(np.uint8)
    return data[: rng.integers(1, len(data)) if how // 3 % 2 else None].tobytes()


def write_broken(folder: Path, numbers: range) -> Iterator[Path]:
    """Files of all kinds in turn, each broken in its own way that its number alone decides."""
    kinds = list(CLIPS)
    for number in numbers:
        how, kind = divmod(number, len(kinds))
        clip = CLIPS[kinds[kind]]
        path = folder / f"{number} {kinds[kind]}.{clip.container}"
        path.write_bytes(broken(clip.path().read_bytes(), np.random.default_rng(number), how))
        yield path


def read_all(paths: list[Path]) -> list[Reading]:
    """What became of each, within the time and the memory allowed."""
    readings = {}
    outcomes = run_in_workers(
        read_in_every_way, paths, num_workers=2, seconds_allowed=lambda _: SECONDS
    )
    for place, reading in outcomes:
        assert not isinstance(reading, Failure), f"{paths[place]}: {reading}"
        assert reading.peak_megabytes < MAX_MEGABYTES, paths[place]
        readings[place] = reading
    return [readings[place] for place in range(len(paths))]


def assert_reasonable(readings: list[Reading], folder: Path) -> None:
    """Some were read, others refused, and whoever reports a reason names the path beside it."""
    refused = sum(reading.facts is None for reading in readings)
    assert 0.2 < refused / len(readings) < 0.6, "neither harmless nor hopeless"
    assert not any(str(folder) in reading.outcome for reading in readings)


def test_broken_files_are_read_or_rejected_with_a_reason_and_the_same_twice(tmp_path: Path) -> None:
    """The same: no pixel and no vector comes from memory that was never written."""
    (tmp_path / "again").mkdir()
    first = read_all(list(write_broken(tmp_path, range(100))))
    assert_reasonable(first, tmp_path)
    again = read_all(list(write_broken(tmp_path / "again", range(60))))
    for one, other in zip(first, again, strict=False):
        assert (one.outcome, one.digest) == (other.outcome, other.digest)


@pytest.mark.slow
def test_many_more_broken_files_are_read_or_rejected_with_a_reason(tmp_path: Path) -> None:
    assert_reasonable(read_all(list(write_broken(tmp_path, range(100, 600)))), tmp_path)
