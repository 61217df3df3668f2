"""Uniform numbers from integers alone, bit-equal on every device.

A clip's mask must not depend on the device, the batch or the moment, so it cannot come from a
generator with a state. Number k of stream s of a clip is a hash of (seed, s, k): SplitMix64's
finaliser (Steele, Lea and Flood, OOPSLA 2014), in wrapping int64 arithmetic.
"""

import torch
from torch import Tensor

__all__ = ["BITS", "scale_bits", "uniform_bits", "uniform_integers", "uniforms"]

BITS = 24


def uniforms(seed: Tensor, stream: int, count: int) -> Tensor:
    """`[B, count]` float32 in [0, 1), multiples of 2^-24, from `seed [B]` int64.

    Different streams of one clip are independent of each other.
    """
    return uniform_bits(seed, stream, count).to(torch.float32) * 2.0**-BITS


def uniform_bits(seed: Tensor, stream: int, count: int) -> Tensor:
    """The same as whole numbers: `[B, count]` int64 from 0 to 2^24 - 1."""
    counter = torch.arange(count, device=seed.device)
    # The seed is mixed before the counter comes in, else neighbouring seeds would share numbers.
    state = _mix(seed[:, None] * 2 + 1 + _signed(0xD1342543DE82EF95 * stream))
    # It is state + GOLDEN * (counter + 1), as a compiler cannot that multiplies the counter first:
    # it does so in its own head, and overflows.
    bits = _mix((state * GOLDEN_INVERSE + (counter + 1)) * GOLDEN)
    return _shift_right(bits, 64 - BITS)


def uniform_integers(seed: Tensor, stream: int, low: int, high: int, count: int) -> Tensor:
    """`[B, count]` int64, uniform over low..high, both included."""
    return scale_bits(uniform_bits(seed, stream, count), low, high)


def scale_bits(bits: Tensor, low: int, high: int) -> Tensor:
    """Numbers of `uniform_bits` as whole numbers over low..high, both included."""
    return low + (bits * (high - low + 1) >> BITS)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: int64's own shift would copy the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    """The int64 with the same low 64 bits."""
    constant %= 1 << 64
    return constant - (1 << 64) if constant >= 1 << 63 else constant


GOLDEN = _signed(0x9E3779B97F4A7C15)
GOLDEN_INVERSE = _signed(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
