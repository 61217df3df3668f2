"""A small labelled set of real video files in which the class is the motion.

    root/right/h264_00000.mp4
    root/left/h264_00001.mp4 ...
    root/right/hevc_00000.mp4, root/left/vp9_00001.webm, root/right/broken_00000.mp4 ...

Every file is a pure function of (seed, number, side): made again, in any order and by any number
of processes, it has the same bytes.
"""

import io
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from mgm_dali.demo_scenes import DEMO_CLASSES, draw_video
from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.video.workers import leave_with_parent

__all__ = ["DEMO_CLASSES", "ENCODINGS", "make_demo_videos"]

FRAMES_PER_SECOND = 24
FILES_PER_TASK = 16
RECIPE = ".recipe.json"
"""Says what the folder was filled with; hidden, so that nobody takes it for data."""


class Encoding(NamedTuple):
    """How a file is coded; every option that changes its bytes or its vectors is pinned."""

    encoder: str
    container: str
    options: dict[str, str]


ENCODINGS: dict[str, Encoding] = {
    # One past reference and no B-frames: a vector always points one frame back, which is the
    # motion per frame that the masks want.
    "h264": Encoding(
        "libx264",
        "mp4",
        {"preset": "veryfast", "crf": "20", "bf": "0", "refs": "1", "g": "32", "sc_threshold": "0"},
    ),
    # x265's slower presets give other bytes on every run, even in one thread.
    "hevc": Encoding(
        "libx265",
        "mp4",
        {"preset": "ultrafast", "x265-params": "pools=none:frame-threads=1:log-level=none"},
    ),
    "vp9": Encoding("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "5", "g": "32"}),
}
"""Decoders give no vectors for HEVC and VP9; a few such files show what is done with them."""


def make_demo_videos(
    root: str | Path,
    num_videos: int,
    seed: int,
    *,
    side_pixels: int = 64,
    num_workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fills `root/<class>/` with `num_videos` H.264 files, and puts five odd ones beside them.

    File `number` belongs to class `number % len(DEMO_CLASSES)`. The odd ones are named for what
    they are: two HEVC, two VP9, and one `broken` file, cut short, that cannot be opened. Files that
    are there already are kept, so a run that was stopped goes on where it was.

    `progress(done, total)` is called now and then. `num_workers=0` makes the files in this process.
    Raises `UserError` for a side that codecs dislike and for a folder of another recipe.
    """
    root = Path(root)
    if side_pixels < 32 or side_pixels % 16:
        raise UserError(
            f"side_pixels: found {side_pixels} for the demo videos; expected a multiple of 16 from "
            "32 on, such as 64"
        )
    _keep_recipe(root, {"num_videos": num_videos, "seed": seed, "side_pixels": side_pixels})
    for class_name in DEMO_CLASSES:
        (root / class_name).mkdir(exist_ok=True)
    files = list(_plan(root, num_videos, seed, side_pixels))
    tasks = [
        files[first : first + FILES_PER_TASK] for first in range(0, len(files), FILES_PER_TASK)
    ]
    done = 0
    for num_made in _run(tasks, num_workers):
        done += num_made
        if progress is not None:
            progress(done, len(files))


@dataclass(frozen=True)
class _File:
    """One file of the set; a small value, so that it can travel to a worker."""

    root: Path
    number: int
    seed: int
    side_pixels: int
    encoding: str = "h264"
    broken: bool = False

    @property
    def class_name(self) -> str:
        return list(DEMO_CLASSES)[self.number % len(DEMO_CLASSES)]

    @property
    def path(self) -> Path:
        kind = "broken" if self.broken else self.encoding
        name = f"{kind}_{self.number:05d}.{ENCODINGS[self.encoding].container}"
        return self.root / self.class_name / name


def _plan(root: Path, num_videos: int, seed: int, side_pixels: int) -> Iterator[_File]:
    for number in range(num_videos):
        yield _File(root, number, seed, side_pixels)
    for number, encoding in enumerate(("hevc", "vp9", "hevc", "vp9")):
        yield _File(root, number, seed, side_pixels, encoding)
    yield _File(root, 0, seed, side_pixels, broken=True)


def _make(file: _File) -> None:
    """Writes one file whole or not at all, unless it is there already."""
    if file.path.exists():
        return
    kind = (list(ENCODINGS).index(file.encoding), int(file.broken))
    rng = np.random.default_rng((file.seed, file.number, *kind))
    frames = draw_video(file.class_name, file.side_pixels, rng)
    coded = _encode(frames, ENCODINGS[file.encoding])
    if file.broken:
        coded = coded[: len(coded) // 2]  # an MP4 ends with its index: without it none can open it
    write_whole(file.path, coded)


def _encode(frames: NDArray[np.uint8], encoding: Encoding) -> bytes:
    """Frames `[T, S, S, 3]` RGB as the bytes of one file, the same on every run."""
    coded = io.BytesIO()
    # `bitexact`: a WebM file gets a random identity without it.
    bitexact = {"fflags": "+bitexact"}
    with av.open(coded, "w", format=encoding.container, container_options=bitexact) as container:
        stream = container.add_stream(encoding.encoder, FRAMES_PER_SECOND, encoding.options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # x264 would cut frames into one slice per core
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return coded.getvalue()


def _keep_recipe(root: Path, recipe: dict[str, int]) -> None:
    """Two sets in one folder would be neither; the same recipe again goes on with the first."""
    path = root / RECIPE
    if path.exists():
        found = path.read_text(encoding="utf-8")
        if found != json.dumps(recipe):
            raise UserError(
                f"{root}: holds demo videos of another recipe: found {found}, wanted "
                f"{json.dumps(recipe)}; remove the folder or name another"
            )
        return
    root.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(recipe))


def _run(tasks: list[list[_File]], num_workers: int) -> Iterator[int]:
    """Yields the number of files of each task that is finished."""
    if num_workers == 0:
        yield from map(_make_all, tasks)
        return
    # Spawned, not forked: the caller may hold threads of torch or DALI.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, leave_with_parent)
    try:
        for finished in as_completed([pool.submit(_make_all, task) for task in tasks]):
            yield finished.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nobody waits for the other files


def _make_all(files: list[_File]) -> int:
    for file in files:
        _make(file)
    return len(files)
