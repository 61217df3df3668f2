"""One video to H.264 made for training: small, quick to seek in, with vectors that mean motion.

    source frames    decode -> scale to WxH, 8-bit 4:2:0 -> constant rate -> libx264 -> mp4
    output frames    I P P P P P P P P P P P P P P P I P P ...     a key frame every `gop`

Every P-frame refers to the frame before it and to no other, so a vector is the motion of one frame
interval. Pixels are as coded, as everywhere in this project: rotation, pixel aspect ratio and
colour tags are neither heeded nor carried over, and the colour matrix stays what it was.
"""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from mgm_dali.errors import UserError
from mgm_dali.video.filters import filter_chain, forget_colour_tags
from mgm_dali.video.frame_index import frame_index
from mgm_dali.video.opening import DECODING_ERRORS, VideoError, open_video
from mgm_dali.video.reader import decode_all_frames

__all__ = ["TranscodeSettings", "encoder_identity", "prepared_size", "transcode"]

MACROBLOCK_PIXELS = 16
LONGEST_SIDE_PIXELS = 16384
"""More than this libx264 does not take."""
FPS_RANGE = (0.001, 1000.0)
MAX_RATE_DENOMINATOR = 10**6
"""Keeps rates in 32 bits; a million frames drift by less than a tenth of one."""
SAME_RATE_FRAMES = Fraction(1, 4)
"""How far a video's end may lie from where its nominal rate puts it."""

# psy=0: noise that only pleases the eye costs 10 % more bytes and makes vectors less true.
# Without the deblocking filter and CABAC a clip would be decoded in 0.7 of the time, but the file
# would be 1.1 times as large, and twice as many vectors would be wrong by more than 2 pixels.
_PRESET = "medium"
_X264_PARAMS = "bframes=0:ref=1:weightp=0:scenecut=0:open-gop=0:psy=0:keyint={gop}:min-keyint={gop}"
# The matrices say "convert none" for YUV, and for RGB what `rgb.py` will turn it back with.
_SCALE_OPTIONS = (
    "flags=bicubic+accurate_rnd+bitexact:"
    "in_color_matrix=bt601:out_color_matrix=bt601:out_range=limited"
)
_LIBRARIES = ("libavcodec", "libavfilter", "libavformat", "libswscale")


@dataclass(frozen=True)
class TranscodeSettings:
    """One choice for all videos of a prepared data set. Raises `UserError` if it makes no sense."""

    short_side: int = 256
    """Pixels; a multiple of 16. A smaller video is not enlarged."""
    gop: int = 16
    """Frames from one key frame to the next. 12 to 32 is sensible: to read a frame all frames since
    its key frame are decoded, and a key frame has no motion and many bytes."""
    crf: int = 20
    """libx264's constant rate factor, 1 (best) to 51. At 20, clips of Kinetics keep their size in
    bytes, and their luma comes back at 39 to 42 dB."""
    fps: float | None = None
    """Frames a second; None keeps the average rate of each video. With 7.5, clips that took every
    fourth of 30 frames a second take every frame, and a vector spans all the time between two."""

    def __post_init__(self) -> None:
        if self.short_side < MACROBLOCK_PIXELS or self.short_side % MACROBLOCK_PIXELS:
            raise UserError(f"--short-side {self.short_side}: expected a multiple of 16, as 256")
        if not 1 <= self.gop <= 1000:
            raise UserError(f"--gop {self.gop}: expected 1 to 1000 frames; 12 to 32 is sensible")
        if not 1 <= self.crf <= 51:
            raise UserError(f"--crf {self.crf}: expected 1 (best) to 51")
        if self.fps is not None and not FPS_RANGE[0] <= self.fps <= FPS_RANGE[1]:
            raise UserError(f"--fps {self.fps}: expected {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g}")


def prepared_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) of the output, each a multiple of 16.

    The short side becomes `short_side`, or keeps its size if it is smaller; the long side follows.
    Both are rounded to the nearest multiple, ties down.
    """
    scale = min(1.0, short_side / min(width, height))
    return _rounded(width * scale), _rounded(height * scale)


def transcode(source: Path, output: Path, settings: TranscodeSettings, *, num_frames: int) -> int:
    """Writes `output`, an mp4 without sound, and gives the number of its frames.

    `num_frames` is how many frames the source is known to have. Frames are repeated or left out as
    FFmpeg's `fps` filter does by their time stamps; a source without such counts as evenly spaced.
    The same source gives the same bytes.

    Raises `VideoError` if the source has other frames, loses one, changes its size, does not tell
    its rate, or is shorter than a frame of the output; `OSError` if the output cannot be written.
    """
    clock = _read_clock(source, num_frames)
    rate = clock.rate if settings.fps is None else _bounded(Fraction(settings.fps))
    scaled = _scaled_frames(source, clock, settings.short_side, num_frames)
    frames = _at_constant_rate(scaled, rate)
    first = next(frames, None)
    if first is None:
        raise VideoError(source, f"too short for a single frame at {float(rate):g} a second")
    written = 0
    target = str(output.absolute())
    with av.open(target, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = _add_encoder(container, (first.width, first.height), rate, settings)
        for frame in chain([first], frames):
            frame.pict_type = PictureType.NONE  # or x264 would repeat the source's key frames
            container.mux(stream.encode(frame))
            written += 1
        container.mux(stream.encode(None))
    return written


def encoder_identity(settings: TranscodeSettings) -> dict[str, str]:
    """All that the pixels and vectors of an output depend on, beside its source.

    `libx264` and `options` are what x264 says of itself in every file it makes: its build and all
    that it was told. Raises `UserError` if PyAV was built without libx264.
    """
    file = io.BytesIO()
    try:
        with av.open(file, "w", format="mp4") as container:
            stream = _add_encoder(container, (64, 64), Fraction(25), settings)
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(stream.encode(None))
    except UnknownCodecError:
        raise UserError("this PyAV was built without libx264; pip's package `av` has it") from None
    _, _, text = file.getvalue().partition(b"x264 - ")
    build, *_, options = text.partition(b"\0")[0].decode("ascii", errors="replace").split(" - ")
    return {
        "libx264": build,
        "preset": _PRESET,
        "options": options.removeprefix("options: "),
        "scaling": _SCALE_OPTIONS,
        **{name: ".".join(map(str, av.library_versions[name])) for name in _LIBRARIES},
    }


@dataclass(frozen=True)
class _Clock:
    """When the frames of a source are shown."""

    rate: Fraction
    """Frames a second on average."""
    time_base: Fraction
    """Seconds of one unit of a time stamp."""
    first_pts: int | None
    """None if time stamps cannot be trusted: frames are counted."""

    def pts(self, number: int, frame: av.VideoFrame) -> int:
        """When a frame is shown, in units of `time_base` since the first one."""
        if self.first_pts is None or frame.pts is None:
            return number
        return frame.pts - self.first_pts


def _read_clock(source: Path, num_frames: int) -> _Clock:
    with open_video(source) as video:
        index = frame_index(video)
        nominal = video.stream.average_rate or video.stream.guessed_rate
        time_base = video.stream.time_base
    rate = nominal
    if not index.ordinal:
        if len(index.pts) != num_frames:
            raise _changed(source, len(index.pts), num_frames)
        span_seconds = int(index.pts[-1] - index.pts[0]) * (time_base or Fraction(0))
        intervals = len(index.pts) - 1
        # Time stamps may be coarse, so the nominal rate is the better one where it fits them.
        if span_seconds and not (
            nominal and abs(nominal * span_seconds - intervals) < SAME_RATE_FRAMES
        ):
            rate = intervals / span_seconds
    if not rate or not FPS_RANGE[0] <= rate <= FPS_RANGE[1]:
        found = f"{float(rate):g} frames a second" if rate else "no frame rate"
        raise VideoError(source, f"it tells {found}, so its frames cannot be spaced in time")
    rate = _bounded(rate)
    if index.ordinal or time_base is None:
        return _Clock(rate, 1 / rate, None)
    return _Clock(rate, time_base, int(index.pts[0]))


def _bounded(rate: Fraction) -> Fraction:
    return rate.limit_denominator(MAX_RATE_DENOMINATOR)


def _scaled_frames(
    source: Path, clock: _Clock, short_side: int, num_frames: int
) -> Iterator[av.VideoFrame]:
    """Every frame in the output's size and format, with the time at which it is shown."""
    layout: tuple[str, int] | None = None
    graph = av.filter.Graph()
    decoded = 0
    for number, frame in decode_all_frames(source):
        decoded += 1
        forget_colour_tags(frame)
        try:
            if layout != (frame.format.name, frame.color_range):
                layout = (frame.format.name, frame.color_range)
                width, height = prepared_size(frame.width, frame.height, short_side)
                scale = ("scale", f"{width}:{height}:{_SCALE_OPTIONS}")
                no_extras = ("sidedata", "mode=delete")  # captions and the like
                graph = filter_chain(frame, scale, ("format", "pix_fmts=yuv420p"), no_extras)
            graph.vpush(frame)
            scaled = graph.vpull()
        except DECODING_ERRORS as error:
            reason = f"its {frame.format.name} pictures cannot be scaled: {error}"
            raise VideoError(source, reason) from error
        if max(scaled.width, scaled.height) > LONGEST_SIDE_PIXELS:
            raise VideoError(source, f"{scaled.width}x{scaled.height} is too large for H.264")
        scaled.time_base, scaled.pts = clock.time_base, clock.pts(number, frame)
        scaled.duration = max(1, round(1 / (clock.rate * clock.time_base)))
        yield scaled
    if decoded != num_frames:
        raise _changed(source, decoded, num_frames)


def _at_constant_rate(frames: Iterable[av.VideoFrame], rate: Fraction) -> Iterator[av.VideoFrame]:
    """Frames numbered 0, 1, 2, ... in a time base of one frame."""
    graph: av.filter.Graph | None = None
    for frame in frames:
        graph = graph or filter_chain(frame, ("fps", f"fps={rate}"))
        graph.vpush(frame)
        yield from _ready(graph)
    if graph:
        graph.vpush(None)
        yield from _ready(graph)


def _ready(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):  # wants more; has given all
            return


def _add_encoder(
    container: OutputContainer, size: tuple[int, int], rate: Fraction, settings: TranscodeSettings
) -> VideoStream:
    options = {
        "preset": _PRESET,
        "crf": str(settings.crf),
        "x264-params": _X264_PARAMS.format(gop=settings.gop),
    }
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    # PyAV's own choice would make x264 cut every picture into slices, one for each core.
    stream.codec_context.thread_count = 1
    return stream


def _changed(source: Path, found: int, num_frames: int) -> VideoError:
    return VideoError(
        source,
        f"{found} frames can be read, the manifest promises {num_frames}: the file is damaged, or "
        "has changed since; in that case index it again",
    )


def _rounded(pixels: float) -> int:
    """The nearest multiple of 16 that is not 0, ties down."""
    return max(1, math.ceil(pixels / MACROBLOCK_PIXELS - 0.5)) * MACROBLOCK_PIXELS
