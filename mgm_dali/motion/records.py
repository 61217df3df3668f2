"""One motion field as bytes: compressed in chunks, so that a clip costs only the frames it needs.

    sizes | valid bits | end of each chunk | checksum | chunk 0 | chunk 1 | ...
                                                        |
                              vectors and known bits of 16 frames, the last one of fewer

The checksum covers all before it and the key of the video, so that no record passes for another;
every chunk carries zstd's own checksum. T frames, h w cells of 8x8 pixels.
"""

import math
import struct
from hashlib import blake2b

import numpy as np
import zstandard
from numpy.typing import NDArray

from mgm_dali.motion.field import MotionField
from mgm_dali.video.reader import FrameNumbers

__all__ = ["Record", "RecordError", "encode_field"]

CHUNK_FRAMES = 16
COMPRESSION_LEVEL = 3
"""Measured: higher levels, shuffling of bytes and other codecs save little or lose."""

_SIZES = struct.Struct("<III")
_CHECKSUM_BYTES = 8
_VECTOR = np.dtype("<i2")
_END = np.dtype("<u8")


class RecordError(ValueError):
    """The bytes are not what was written."""


def encode_field(key: bytes, field: MotionField) -> bytes:
    """The record of a field; `key` (at most 64 bytes) is needed to read it again."""
    num_frames, rows, columns, _ = field.vectors.shape
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=True)
    vectors = field.vectors.astype(_VECTOR, copy=False)
    chunks = []
    for start in range(0, num_frames, CHUNK_FRAMES):
        part = slice(start, start + CHUNK_FRAMES)
        raw = vectors[part].tobytes() + np.packbits(field.known[part]).tobytes()
        chunks.append(compressor.compress(raw))
    ends = np.cumsum([len(chunk) for chunk in chunks], dtype=_END)
    head = _SIZES.pack(num_frames, rows, columns) + np.packbits(field.valid).tobytes()
    head += ends.tobytes()
    return b"".join((head, _checksum(key, head), *chunks))


class Record:
    """An encoded field. The bytes must stay where they are as long as it is in use.

    Raises `RecordError` if they are not a record of this key.
    """

    def __init__(self, key: bytes, data: memoryview) -> None:
        if len(data) < _SIZES.size:
            raise RecordError("it is cut short")
        self.num_frames, self.rows, self.columns = _SIZES.unpack_from(data)
        ends_start = _SIZES.size + -(-self.num_frames // 8)
        head_end = ends_start + -(-self.num_frames // CHUNK_FRAMES) * _END.itemsize
        chunks_start = head_end + _CHECKSUM_BYTES
        if len(data) < chunks_start:
            raise RecordError("it is cut short")
        if data[head_end:chunks_start] != _checksum(key, data[:head_end]):
            raise RecordError("its checksum is wrong")
        bits = np.frombuffer(data[_SIZES.size : ends_start], np.uint8)
        self.valid: NDArray[np.bool_] = np.unpackbits(bits, count=self.num_frames).astype(bool)
        self._ends: list[int] = np.frombuffer(data[ends_start:head_end], _END).tolist()
        self._chunks = data[chunks_start:]
        if len(self._chunks) != (self._ends[-1] if self._ends else 0):
            raise RecordError("it is cut short")

    def read(self, frames: FrameNumbers) -> MotionField:
        """Decompresses the chunks that hold these frames; gives them in the order asked.

        Every frame must be in `range(num_frames)`. Raises `RecordError` if a chunk is broken.
        """
        numbers = np.asarray(frames, dtype=np.int64)
        vectors = np.empty((len(numbers), self.rows, self.columns, 2), np.int16)
        known = np.empty((len(numbers), self.rows, self.columns), np.bool_)
        chunk_of = numbers // CHUNK_FRAMES
        for chunk in np.unique(chunk_of).tolist():
            wanted = chunk_of == chunk
            vectors_there, known_there = self._decompress(chunk)
            place = numbers[wanted] % CHUNK_FRAMES
            vectors[wanted], known[wanted] = vectors_there[place], known_there[place]
        return MotionField(vectors, self.valid[numbers], known)

    def _decompress(self, chunk: int) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """int16 `[up to 16, h, w, 2]`, and which cells are known."""
        start = self._ends[chunk - 1] if chunk else 0
        num_frames = min(CHUNK_FRAMES, self.num_frames - chunk * CHUNK_FRAMES)
        shape = (num_frames, self.rows, self.columns)
        num_cells = math.prod(shape)
        bits_start = num_cells * 2 * _VECTOR.itemsize
        try:
            raw = zstandard.ZstdDecompressor().decompress(self._chunks[start : self._ends[chunk]])
            if len(raw) != bits_start + -(-num_cells // 8):
                raise RecordError(f"chunk {chunk} has {len(raw)} bytes, too few or too many")
            vectors = np.frombuffer(raw, _VECTOR, num_cells * 2).reshape(*shape, 2)
            bits = np.unpackbits(np.frombuffer(raw, np.uint8, offset=bits_start), count=num_cells)
            return vectors, bits.astype(np.bool_).reshape(shape)
        except (zstandard.ZstdError, MemoryError) as error:
            raise RecordError(f"chunk {chunk} is broken: {error}") from None


def _checksum(key: bytes, head: bytes | memoryview) -> bytes:
    return blake2b(head, digest_size=_CHECKSUM_BYTES, key=key).digest()
