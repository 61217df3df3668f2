"""Videos of given images, and what became of them when they were transcoded."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mgm_dali.video.reader import VideoFacts, probe, read_frames
from mgm_dali.video.transcoding import TranscodeSettings, transcode

__all__ = [
    "MATRICES",
    "Images",
    "coloured",
    "encode_images",
    "frames_of",
    "grey",
    "levels_of",
    "peak_signal_to_noise",
    "transcoded",
]

Images = list[NDArray[np.uint8]]
"""Each `[H, W, 3]`, RGB."""

MATRICES = {"no matrix": 2, "bt709": 1, "bt470bg": 5}
"""Tags of the colour matrix, by libavutil's numbers."""


def encode_images(path: Path, images: Images, pts: list[int] | None = None, **more: Any) -> Path:
    """Frames at these times (in 1/100 s; by default 25 a second), made for one test.

    `more`: `encoder`, `pixel_format`, `rotation_degrees`, `pixel_aspect`, `sound`, `matrix`.
    """
    with av.open(str(path), "w") as container:
        encoder = more.get("encoder", "libx264")
        options = {"crf": "10", "g": "12", "x265-params": "log-level=none"}
        stream = container.add_stream(encoder, rate=100, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = more.get("pixel_format", "yuv420p")
        stream.codec_context.sample_aspect_ratio = more.get("pixel_aspect", Fraction(1))
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = more.get("matrix", MATRICES["no matrix"])
        if "rotation_degrees" in more:
            stream.set_display_rotation(more["rotation_degrees"])
        if more.get("sound"):
            sound = container.add_stream("aac", rate=8000)
            assert isinstance(sound, av.AudioStream)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = pts[number] if pts else 4 * number, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(levels: list[int]) -> Images:
    """Plain frames, told apart by their brightness."""
    return [np.full((64, 64, 3), level, dtype=np.uint8) for level in levels]


def coloured(num_frames: int) -> Images:
    """Smooth gradients of saturated colours that drift."""
    y, x = np.indices((96, 128))
    return [
        np.stack(
            [127 + 100 * np.sin((x + 3 * shift) / 19), 127 + 100 * np.cos(y / 17), 2 * y + 30], -1
        ).astype(np.uint8)
        for shift in range(num_frames)
    ]


def transcoded(source: Path, folder: Path, **settings: Any) -> tuple[Path, VideoFacts]:
    """The transcoded file and its facts."""
    output = folder / "prepared.mp4"
    facts = probe(source)
    written = transcode(source, output, TranscodeSettings(**settings), num_frames=facts.num_frames)
    made = probe(output)
    assert written == made.num_frames
    return output, made


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def levels_of(path: Path) -> list[float]:
    images = read_frames(path, range(probe(path).num_frames))
    return [float(value) for value in images.mean((1, 2, 3))]


def peak_signal_to_noise(source: Path, output: Path) -> float:
    """Of the RGB that training reads, over all frames, in dB."""
    numbers = range(probe(output).num_frames)
    difference = read_frames(source, numbers).astype(float) - read_frames(output, numbers)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))
