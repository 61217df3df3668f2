"""Which video is shown at which step, on which rank: a pure function of (seed, world size).

Training reads one endless row of samples, the shuffled epochs one behind the other. A global
batch is the next stretch of that row, and each rank takes its part of the stretch:

    sample   0  1  2  3 | 4  5  6  7 | 8  9 10 11 |      4 videos, world size 2, batch size 2
    video    2  0  3  1   1  3  0  2   0  2  1  3
    epoch    0  0  0  0   1  1  1  1   2  2  2  2
    rank     0  0  1  1   0  0  1  1   0  0  1  1
    step     0            1            2

So every video is seen exactly once an epoch for any world size, nothing is dropped at the end of
an epoch (a batch may straddle two), the same global batch holds the same clips however it is cut
up, and to resume it is enough to know the step.
"""

from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["epoch_permutation", "first_sample", "row_at", "shuffled_video", "view_of_video"]

TABLE_ROWS = 1 << 20
"""The most of which an epoch's order is a table: one of ten million rows would take every worker
process a second and 80 MB, for each epoch it is in. Beyond, each place is computed by itself."""
ROUNDS = 4


def first_sample(forward_step: int, batch_size: int, rank: int, world_size: int) -> int:
    """The sample that opens this rank's batch at the given forward pass (counted from 0)."""
    return (forward_step * world_size + rank) * batch_size


def shuffled_video(sample: int, num_videos: int, seed: int) -> tuple[int, int]:
    """(epoch, manifest row) of a training sample."""
    epoch, place = divmod(sample, num_videos)
    if num_videos > TABLE_ROWS:
        return epoch, row_at(place, num_videos, seed, epoch)
    return epoch, int(epoch_permutation(seed, epoch, num_videos)[place])


def view_of_video(sample: int, num_views: int) -> tuple[int, int]:
    """(manifest row, view) of an evaluation sample: the views of a video follow one another."""
    return divmod(sample, num_views)


@lru_cache(maxsize=2)  # a batch seldom touches more than two epochs
def epoch_permutation(seed: int, epoch: int, num_videos: int) -> NDArray[np.int64]:
    """The order of one epoch: int64 [num_videos], every row once."""
    generator = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
    return generator.permutation(num_videos)


def row_at(place: int, num_videos: int, seed: int, epoch: int) -> int:
    """The row at a place of an epoch's order, every row once, without a table of all.

    A Feistel network (Luby and Rackoff 1988) shuffles the numbers below a power of 4; one that is
    no row is shuffled on until it is (Black and Rogaway 2002).
    """
    bits = -(-(num_videos - 1).bit_length() // 2)
    while True:
        left, right = divmod(place, 1 << bits)
        for number in range(ROUNDS):
            text = f"{seed} {epoch} {number} {right}".encode()
            drawn = int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
            left, right = right, left ^ drawn % (1 << bits)
        place = left << bits | right
        if place < num_videos:
            return place
