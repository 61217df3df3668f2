"""One motion field as bytes: every frame compressed by itself, so that a clip costs only its own.

    sizes | valid bits | end of each frame | checksum | frame 0 | frame 1 | ...
                                                        |
                                                        its vectors and known bits

The checksum covers all before it and the key of the video, so that no record passes for another;
every frame carries zstd's own checksum. T frames, h w cells of 8x8 pixels.
"""

import struct
from hashlib import blake2b

import numpy as np
import zstandard
from numpy.typing import NDArray

from mgm_dali.motion.field import MotionField
from mgm_dali.video.reader import FrameNumbers

__all__ = ["Record", "RecordError", "encode_field"]

COMPRESSION_LEVEL = 3
"""Measured: higher levels, shuffling of bytes and other codecs save little or lose. Frames that are
compressed together, 16 at a time, save 4 % and take three times as long to read a clip from."""

_SIZES = struct.Struct("<III")
_CHECKSUM_BYTES = 8
_VECTOR = np.dtype("<i2")
_END = np.dtype("<u8")


class RecordError(ValueError):
    """The bytes are not what was written."""


def encode_field(key: bytes, field: MotionField) -> bytes:
    """The record of a field; `key` (at most 64 bytes) is needed to read it again."""
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=True)
    vectors = field.vectors.astype(_VECTOR, copy=False)
    frames = [
        compressor.compress(of_frame.tobytes() + np.packbits(known).tobytes())
        for of_frame, known in zip(vectors, field.known, strict=True)
    ]
    ends = np.cumsum([len(frame) for frame in frames], dtype=_END)
    head = _SIZES.pack(*field.known.shape) + np.packbits(field.valid).tobytes() + ends.tobytes()
    return b"".join((head, _checksum(key, head), *frames))


class Record:
    """An encoded field. The bytes must stay where they are as long as it is in use.

    Raises `RecordError` if they are not a record of this key.
    """

    def __init__(self, key: bytes, data: memoryview) -> None:
        if len(data) < _SIZES.size:
            raise RecordError("it is cut short")
        self.num_frames, self.rows, self.columns = _SIZES.unpack_from(data)
        ends_start = _SIZES.size + -(-self.num_frames // 8)
        head_end = ends_start + self.num_frames * _END.itemsize
        frames_start = head_end + _CHECKSUM_BYTES
        if len(data) < frames_start:
            raise RecordError("it is cut short")
        if data[head_end:frames_start] != _checksum(key, data[:head_end]):
            raise RecordError("its checksum is wrong")
        bits = np.frombuffer(data[_SIZES.size : ends_start], np.uint8)
        self.valid: NDArray[np.bool_] = np.unpackbits(bits, count=self.num_frames).astype(bool)
        self._ends = [0, *np.frombuffer(data[ends_start:head_end], _END).tolist()]
        self._frames = data[frames_start:]
        if len(self._frames) != self._ends[-1]:
            raise RecordError("it is cut short")

    def read(self, frames: FrameNumbers) -> MotionField:
        """Decompresses these frames, in the order asked.

        Each must be in `range(num_frames)`. Raises `RecordError` if one is broken.
        """
        numbers = np.asarray(frames, dtype=np.int64)
        num_cells = self.rows * self.columns
        vector_bytes = num_cells * 2 * _VECTOR.itemsize
        raw = np.frombuffer(self._decompress(numbers, vector_bytes + -(-num_cells // 8)), np.uint8)
        of_frames = raw.reshape(len(numbers), vector_bytes + -(-num_cells // 8))
        vectors = of_frames[:, :vector_bytes].copy().view(_VECTOR).astype(np.int16, copy=False)
        known = np.unpackbits(of_frames[:, vector_bytes:], axis=1, count=num_cells)
        shape = (len(numbers), self.rows, self.columns)
        return MotionField(
            vectors.reshape(*shape, 2),
            self.valid[numbers],
            known.view(np.bool_).reshape(shape),
        )

    def _decompress(self, numbers: NDArray[np.int64], frame_bytes: int) -> bytes:
        decompressor = zstandard.ZstdDecompressor()
        frames = []
        for number in numbers.tolist():
            compressed = self._frames[self._ends[number] : self._ends[number + 1]]
            try:
                frame = decompressor.decompress(compressed)
            except (zstandard.ZstdError, MemoryError) as error:
                raise RecordError(f"frame {number} is broken: {error}") from None
            if len(frame) != frame_bytes:
                raise RecordError(f"frame {number} is broken: {len(frame)} bytes")
            frames.append(frame)
        return b"".join(frames)


def _checksum(key: bytes, head: bytes | memoryview) -> bytes:
    return blake2b(head, digest_size=_CHECKSUM_BYTES, key=key).digest()
