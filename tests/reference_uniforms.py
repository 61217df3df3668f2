"""SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) in Python's whole numbers."""


def mix(x):
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) % 2**64
    return x ^ x >> 31


def bits(seed, stream, number):
    """Number so-and-so of a stream: SplitMix64, its upper 24 bits."""
    state = mix((2 * seed + 1 + 0xD1342543DE82EF95 * stream) % 2**64)
    return mix((state + 0x9E3779B97F4A7C15 * (number + 1)) % 2**64) >> 40


def between(low, high, number):
    """A number of 24 bits as one from low to high."""
    return low + number * (high - low + 1) // 2**24
