"""Files whose headers claim what is not there, written by hand or patched into good files.

The places of fields are those of the standards: ITU-T H.264 7.3, ITU-T H.262 6.2 (MPEG-2), RFC 6386
9.1 (VP8), VP9 6.2, ITU-T T.81 B.2.2 (JPEG), ISO/IEC 15948 11.2 (PNG), ISO/IEC 14496-12 (mp4).
"""

import re
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
from videos import CLIPS, Clip

__all__ = ["FALSE_TABLES", "HUGE_PICTURES", "NONSENSE_CLOCKS"]


class Bits:
    """Writes bits, most significant first."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, *fields: tuple[int, int]) -> "Bits":
        """(number of bits, value) each."""
        self.text += "".join(f"{value:0{width}b}" for width, value in fields)
        return self

    def exp_golomb(self, *values: int) -> "Bits":
        """H.264's ue(v)."""
        for value in values:
            code = f"{value + 1:b}"
            self.text += "0" * (len(code) - 1) + code
        return self

    def data(self) -> bytes:
        """With the stop bit, padded to whole bytes."""
        bits = self.text + "1"
        bits += "0" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")


def small_video(encoder: str, container: str, pixel_format: str = "yuv420p") -> bytearray:
    """160x112 pixels, whose headers can be patched."""
    clip = Clip(encoder=encoder, container=container, pixel_format=pixel_format)
    return bytearray(clip.path().read_bytes())


def h264_unit(kind: int, payload: Bits) -> bytes:
    """With the bytes that keep start codes out of it."""
    return bytes([kind]) + re.sub(b"\0\0([\0-\3])", b"\0\0\3\\1", payload.data())


def h264_sps(side: int) -> bytes:
    """Baseline: profile, constraints, level; numbers; one reference; size; frames only; ends."""
    bits = Bits().put((8, 66), (8, 0xC0), (8, 62)).exp_golomb(0, 0, 2, 1).put((1, 0))
    bits.exp_golomb(side // 16 - 1, side // 16 - 1).put((2, 3), (1, 0), (1, 0))
    return h264_unit(0x67, bits)


def write_h264(path: Path, side: int) -> None:
    """Parameter sets, and key pictures whose macroblocks are all flat."""
    pps = Bits().exp_golomb(0, 0).put((2, 0)).exp_golomb(0, 0, 0).put((3, 0))
    pps.exp_golomb(0, 0, 0).put((3, 0))
    slice_header = Bits().exp_golomb(0, 7, 0).put((4, 0)).exp_golomb(0).put((2, 0)).exp_golomb(0)
    # Intra 16x16 with vertical, or DC where nothing is above; chroma DC; no change; no coefficient.
    flat = "00100" + "1" + "1" + "1"
    for _ in range(min((side // 16) ** 2, 100)):
        slice_header.text += flat
    picture = h264_unit(0x65, slice_header)
    units = (h264_sps(side), h264_unit(0x68, pps), picture, picture)
    path.write_bytes(b"".join(b"\0\0\0\1" + unit for unit in units))


def write_h264_in_mp4(path: Path, side: int) -> None:
    """The boxes stand behind the pictures, so that nothing else moves if one grows."""
    data = small_video("libx264", "mp4")
    at = data.index(b"avcC") + 10
    (old_size,) = struct.unpack(">H", data[at : at + 2])
    sps = h264_sps(side)
    data[at : at + 2 + old_size] = struct.pack(">H", len(sps)) + sps
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1", b"avcC"):
        start = data.index(name, data.index(b"moov")) - 4
        (size,) = struct.unpack(">I", data[start : start + 4])
        data[start : start + 4] = struct.pack(">I", size + len(sps) - old_size)
    path.write_bytes(data)


def write_mjpeg(path: Path, side: int) -> None:
    """Every frame header (SOF0) says so; the AVI's own does not."""
    data = small_video("mjpeg", "avi", "yuvj420p")
    for found in re.finditer(rb"\xff\xc0\x00\x11\x08", bytes(data)):
        data[found.end() : found.end() + 4] = struct.pack(">HH", side, side)
    path.write_bytes(data)


def write_png(path: Path, side: int) -> None:
    """Every header chunk (IHDR) says so, with the checksum that it needs."""
    data = small_video("png", "mov", "rgb24")
    for found in re.finditer(b"IHDR", bytes(data)):
        start = found.start()
        data[start + 4 : start + 12] = struct.pack(">II", side, side)
        data[start + 17 : start + 21] = struct.pack(">I", zlib.crc32(data[start : start + 17]))
    path.write_bytes(data)


def write_vp8(path: Path, side: int) -> None:
    """Every key frame says so behind its start code, in 14 bits; the IVF's own header does not."""
    data = small_video("libvpx", "ivf")
    for found in re.finditer(rb"\x9d\x01\x2a", bytes(data)):
        data[found.end() : found.end() + 4] = struct.pack("<HH", *[min(side, 0x3FFF)] * 2)
    path.write_bytes(data)


def write_vp9(path: Path, side: int) -> None:
    """Every key frame says so behind its sync code: 4 bits of colour, then both sides less 1."""
    data = small_video("libvpx-vp9", "ivf")
    for found in re.finditer(rb"\x49\x83\x42", bytes(data)):
        place = slice(found.end(), found.end() + 5)
        bits = f"{int.from_bytes(data[place], 'big'):040b}"
        bits = bits[:4] + f"{side - 1:016b}" * 2 + bits[36:]
        data[place] = int(bits, 2).to_bytes(5, "big")
    path.write_bytes(data)


def write_mpeg2(path: Path, side: int) -> None:
    """Sequence headers give 12 bits of each side, their extensions 2 more."""
    data = small_video("mpeg2video", "mpg")
    side = min(side, 0x3FFF)
    for found in re.finditer(b"\0\0\1\xb3", bytes(data)):
        both = (side & 0xFFF) << 12 | side & 0xFFF
        data[found.end() : found.end() + 3] = both.to_bytes(3, "big")
    for found in re.finditer(b"\0\0\1\xb5[\x10-\x1f]", bytes(data)):
        place = slice(found.end() - 1, found.end() + 3)
        bits = f"{int.from_bytes(data[place], 'big'):032b}"
        bits = bits[:15] + f"{side >> 12:02b}" * 2 + bits[19:]
        data[place] = int(bits, 2).to_bytes(4, "big")
    path.write_bytes(data)


HUGE_PICTURES: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "h264": ("h264", write_h264),
    "h264 in mp4": ("mp4", write_h264_in_mp4),
    "mjpeg": ("avi", write_mjpeg),
    "png": ("mov", write_png),
    "vp8": ("ivf", write_vp8),
    "vp9": ("ivf", write_vp9),
    "mpeg2": ("mpg", write_mpeg2),
}
"""Suffix, and what writes a video that claims square pictures of so many pixels a side."""


def patch_boxes(path: Path, *patches: tuple[bytes, int, int], source: bytes = b"") -> None:
    """Writes 32-bit numbers into boxes of a good mp4: (box, bytes behind its name, number)."""
    data = bytearray(source or CLIPS["h264"].path().read_bytes())
    for box, offset, number in patches:
        start = data.index(box) + len(box) + offset
        data[start : start + 4] = struct.pack(">I", number)
    path.write_bytes(data)


def write_false_fragment(path: Path, num_samples: int) -> None:
    """A fragment that says nothing of its samples but that there are so many."""
    remux(path, lambda pts: pts, {"movflags": "frag_keyframe+empty_moov"})
    patch_boxes(path, (b"trun", 0, 0), (b"trun", 4, num_samples), source=path.read_bytes())


MANY = 2**31 - 1
FALSE_TABLES: dict[str, Callable[[Path], None]] = {
    "sizes of samples": lambda path: patch_boxes(path, (b"stsz", 8, MANY)),
    "samples of one size": lambda path: patch_boxes(
        path,
        *((b"stsz", 4, 1), (b"stsz", 8, MANY)),
        *((b"stsc", 12, MANY), (b"stts", 8, MANY)),
    ),
    "durations": lambda path: patch_boxes(path, (b"stts", 8, MANY)),
    "kinds of durations": lambda path: patch_boxes(path, (b"stts", 4, MANY)),
    "key frames": lambda path: patch_boxes(path, (b"stss", 4, MANY)),
    "chunks": lambda path: patch_boxes(path, (b"stco", 4, MANY)),
    "edits": lambda path: patch_boxes(path, (b"elst", 4, MANY)),
    "samples of a fragment": lambda path: write_false_fragment(path, MANY),
}
"""What writes an mp4 that claims 2^31 - 1 of these."""


def remux(path: Path, stamp: Callable[[int], int], options: dict[str, str] | None = None) -> None:
    """A good video with other time stamps: `stamp` turns each that it has."""
    source = CLIPS["h264"].path()
    with av.open(str(source)) as good, av.open(str(path), "w", options=options or {}) as bad:
        stream = bad.add_stream_from_template(good.streams.video[0])
        for packet in good.demux(video=0):
            if packet.size:
                assert packet.pts is not None and packet.dts is not None
                packet.stream = stream
                packet.pts, packet.dts = stamp(packet.pts), stamp(packet.dts)
                bad.mux(packet)


def write_slow_avi(path: Path) -> None:
    """A frame every 68 years, says the stream's header (strh)."""
    data = bytearray(CLIPS["h264 in avi"].path().read_bytes())
    scale_and_rate = data.index(b"strh") + 8 + 20
    data[scale_and_rate : scale_and_rate + 8] = struct.pack("<II", MANY, 1)
    path.write_bytes(data)


ALL = "24 frames of h264"
NONSENSE_CLOCKS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    **{
        f"{name} in {suffix}": (suffix, partial(remux, stamp=stamp), ALL)
        for suffix in ("mkv", "mp4", "nut", "ts", "flv")
        for name, stamp in {
            "near 2^62": lambda pts: pts + 2**62,
            "near -2^62": lambda pts: pts - 2**62,
            "below 0": lambda pts: pts - 2**40,
            "all equal": lambda _: 0,
        }.items()
    },
    "years apart": ("mkv", partial(remux, stamp=lambda pts: pts << 32), "nonsense: 24 frames in"),
    "a frame every 68 years": ("avi", write_slow_avi, "nonsense: 24 frames in"),
    "no ticks a second": ("mp4", lambda path: patch_boxes(path, (b"mdhd", 12, 0)), "frames of"),
    "no ticks a second of the film": (
        "mp4",
        lambda path: patch_boxes(path, (b"mvhd", 12, 0)),
        ALL,
    ),
    "all lasting 0": ("mp4", lambda path: patch_boxes(path, (b"stts", 12, 0)), ALL),
    "all lasting 2^32": ("mp4", lambda path: patch_boxes(path, (b"stts", 12, 2**32 - 1)), ALL),
    "shown before they are decoded": (
        "mp4",
        lambda path: patch_boxes(path, (b"elst", 12, 2**31)),
        "its edit list discards every frame",
    ),
}
"""Suffix, what writes the file, and what is to be said of it."""
