"""Copies of videos with other time stamps, without their first packets, or with packets spoiled."""

from collections.abc import Callable, Container
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

__all__ = ["STAMPS", "rewrite", "spoil"]

FRAME = Fraction(1, 25)
"""Seconds; the clips that are copied have 25 frames a second."""

STAMPS: dict[str, Callable[[Fraction], Fraction]] = {
    "starts late": lambda seconds: seconds + Fraction(13, 10),
    "starts before 0": lambda seconds: seconds - 5 * FRAME,
    "30 frames a second": lambda seconds: seconds * 25 / 30,
    # every third frame is shown 2.5 times as long as the others
    "variable rate": lambda seconds: seconds + (seconds // FRAME + 2) // 3 * FRAME * 3 / 2,
}
"""What becomes of a time in seconds."""


def rewrite(
    source: Path,
    target: Path,
    stamp: Callable[[Fraction], Fraction] = lambda seconds: seconds,
    *,
    first: int = 0,
) -> Path:
    """Copies the packets from number `first` on.

    Times below 0 are kept: an MP4 says by an edit list that they are not shown.
    """
    keep_negative = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as good, av.open(str(target), "w", options=keep_negative) as copy:
        read = good.streams.video[0]
        written = copy.add_stream_from_template(read)
        packets = [packet for packet in good.demux(read) if packet.size]
        for packet in packets[first:]:
            assert packet.pts is not None and packet.dts is not None and read.time_base
            packet.pts = round(stamp(packet.pts * read.time_base) / read.time_base)
            packet.dts = round(stamp(packet.dts * read.time_base) / read.time_base)
            packet.stream = written
            copy.mux(packet)
    return target


def spoil(source: Path, target: Path, spoiled: Container[int]) -> Path:
    """Copies an MP4 of which packets of these numbers become noise; its index stays as it is."""
    rng = np.random.default_rng(0)
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as video:
        packets = [packet for packet in video.demux(video=0) if packet.size]
    for number, packet in enumerate(packets):
        if number in spoiled:
            assert packet.pos is not None
            end = packet.pos + packet.size
            data[packet.pos : end] = rng.integers(0, 256, packet.size, dtype=np.uint8).tobytes()
    target.write_bytes(data)
    return target
