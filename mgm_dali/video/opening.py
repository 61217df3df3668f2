"""Opens a video file as data and nothing else.

A data set is other people's files: a script that names other files, a device, a picture of a
billion pixels or a broken title must end in one clear `VideoError`, never in a crash or a hang.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from mgm_dali.errors import UserError

__all__ = ["DECODING_ERRORS", "MAX_PIXELS", "OpenVideo", "VideoError", "open_video"]

MAX_PIXELS = 4096 * 4096
"""Most pixels a frame may have: a larger one costs half a gigabyte before it can be refused."""

# Playlists and scripts (hls, concat, dash ...) are left out: they open other files.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,m4v,h264,hevc,vvc,av1,obu,ivf,"
    "h263,ogg,asf,mxf,rm,nut"
)
_DEMUXER_OPTIONS = {
    "format_whitelist": _FORMATS,
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}

DECODING_ERRORS = (av.FFmpegError, OSError, MemoryError, UnicodeError)
"""What libavformat and libavcodec are known to raise on a bad file."""


class VideoError(UserError):
    """One video cannot be used; `path` says which and `reason` why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[Path, str]]:
        return VideoError, (self.path, self.reason)


class OpenVideo:
    """An open file and its first video stream; use it through `open_video`."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self.path = path
        self.container = container
        self.stream = stream
        self.codec = stream.codec_context.codec.canonical_name
        """Codec by libavcodec's name, such as h264, whichever decoder implements it."""


@contextmanager
def open_video(
    path: str | Path, *, export_vectors: bool = False, loop_filter: bool = True
) -> Iterator[OpenVideo]:
    """Opens the first video stream of a regular file for decoding on one thread.

    `export_vectors` makes the decoder attach its motion vectors to each frame. `loop_filter=False`
    saves 6 to 18 % of the decoding time; vectors stay identical but pixels drift.

    Raises `VideoError` if the file cannot be opened, and for any decoding error inside the `with`.
    """
    path = Path(path)
    try:
        _require_regular_file(path)
        # The absolute path keeps a name such as "http:x.mp4" from being read as a protocol.
        with av.open(
            str(path.absolute()),
            mode="r",
            options=_DEMUXER_OPTIONS,
            metadata_errors="replace",
        ) as container:
            stream = _first_video_stream(path, container)
            _configure_decoder(stream, export_vectors, loop_filter)
            yield OpenVideo(path, container, stream)
    except DECODING_ERRORS as error:
        raise VideoError(path, _describe(error)) from error


def _require_regular_file(path: Path) -> None:
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise VideoError(path, "not a regular file")
    if facts.st_size == 0:
        raise VideoError(path, "the file is empty")


def _first_video_stream(path: Path, container: InputContainer) -> VideoStream:
    streams = container.streams.video
    if not streams:
        raise VideoError(path, "no video stream in this file")
    # PyAV's stubs promise a context, but a codec without a decoder leaves None.
    context: object = streams[0].codec_context
    if context is None:
        raise VideoError(path, "no decoder for its codec")
    width, height = streams[0].codec_context.width, streams[0].codec_context.height
    if width * height > MAX_PIXELS:
        raise VideoError(path, f"its pictures of {width}x{height} have over {MAX_PIXELS} pixels")
    return streams[0]


def _configure_decoder(stream: VideoStream, export_vectors: bool, loop_filter: bool) -> None:
    context = stream.codec_context
    # Frame threads race in libavcodec and export wrong motion vectors: scale by processes.
    context.thread_type = "NONE"
    context.thread_count = 1
    options = {"max_pixels": str(MAX_PIXELS)}
    if export_vectors:
        options["flags2"] = "+export_mvs"
    if not loop_filter:
        options["skip_loop_filter"] = "all"
    context.options = options


def _describe(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, av.ArgumentError):  # so libavformat refuses what is not in _FORMATS
        return "cannot be decoded: a script, a playlist, or another format that is not read here"
    if isinstance(error, av.FFmpegError):  # its text would name the path once more
        return f"cannot be decoded: {error.strerror}"
    return f"cannot be decoded: {type(error).__name__}: {error}"
