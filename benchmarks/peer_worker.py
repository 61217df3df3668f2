"""What is timed: one function for each contender, run in that contender's own interpreter.

    stdin    {"task": "decord", "arguments": {"path": ..., "frames": [...]}}      one JSON a line
    stdout   {"cpu_seconds": 0.12, "wall_seconds": 0.13, "frames": 16}  or  {"error": "..."}

A task imports and prepares, and returns the function that is timed; that one returns how many
frames it gave, so that contenders can be seen to have done the same work. Every contender gets the
path of a file, as its users would give it, and one core.

Only the standard library is needed to start: each environment holds the library of its task alone.
"""

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

Timed = Callable[[], int]


def pyav_decode(path: str) -> Timed:
    """Every frame decoded on one thread and thrown away: no vectors, no RGB."""
    import av

    def run() -> int:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return sum(1 for _ in container.decode(stream))

    return run


def read_motion(path: str, frames: list[int] | None = None) -> Timed:
    """Ours: the motion field of all frames or of some."""
    from mgm_dali import motion

    return lambda: len(motion.read_motion(path, frames).valid)


def iter_vectors(path: str) -> Timed:
    """Ours: the codec's vectors of all frames as they are, not painted into a field."""
    from mgm_dali.motion import codec

    return lambda: sum(1 for _ in codec.iter_vectors(path))


def read_clip(path: str, frames: list[int]) -> Timed:
    """Ours: frames in RGB and their motion."""
    from mgm_dali import motion

    return lambda: len(motion.read_clip(path, frames)[0])


def read_frames(path: str, frames: list[int]) -> Timed:
    """Ours: frames in RGB alone."""
    from mgm_dali.video import reader

    return lambda: len(reader.read_frames(path, frames))


def read_store(path: str, frames: list[int], store: str) -> Timed:
    """Ours: motion from an open store; the file's fingerprint is taken every time."""
    from mgm_dali.motion.store import MotionStore

    opened = MotionStore(store)
    return lambda: len(opened.read_motion(path, frames).valid)


def extract(manifest: str, store: str) -> Timed:
    """Ours: a store filled by one worker process, as `mgm-dali extract` does it."""
    from mgm_dali.motion.extract import extract
    from mgm_dali.motion.recipe import Recipe
    from mgm_dali.video.manifest import read_manifest

    videos = read_manifest(manifest)

    def run() -> int:
        report = extract(videos, Path(store), Recipe(without_vectors="ignore"), num_workers=1)
        if report.failed:
            path, reason = report.failed[0]
            raise ValueError(f"{path}: {reason}")
        return sum(video.num_frames for video in videos)

    return run


def mv_extractor(path: str, with_frames: bool) -> Timed:
    """mv-extractor: all frames with their vectors, or (its other mode) the vectors alone."""
    from mvextractor.videocap import VideoCap

    def run() -> int:
        capture = VideoCap()
        if not capture.open(path):
            raise ValueError("VideoCap.open() refused the file")
        capture.set_decode_frames(with_frames)
        num_frames = 0
        while capture.read()[0]:
            num_frames += 1
        capture.release()
        return num_frames

    return run


def decord(path: str, frames: list[int]) -> Timed:
    """decord: frames in RGB, from a fresh reader."""
    from decord import VideoReader, cpu

    return lambda: len(VideoReader(path, ctx=cpu(0), num_threads=1).get_batch(frames).asnumpy())


def torchcodec(path: str, frames: list[int], seek_mode: str) -> Timed:
    """torchcodec: frames in RGB, from a fresh decoder."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)

    def run() -> int:
        decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode=seek_mode)
        return len(decoder.get_frames_at(frames).data)

    return run


@cache
def _raft_small() -> Any:
    import torch

    from mgm_dali.torchvision_ops import import_torchvision

    import_torchvision()
    from torchvision.models.optical_flow import raft_small

    torch.set_num_threads(1)
    return raft_small(weights=None).eval()  # its time does not depend on what it has learned


def raft(path: str, frames: list[int], num_pairs: int) -> Timed:
    """RAFT-Small, 12 updates, random weights: the flow from frames to those before them.

    The first few of the frames alone, as it is slow and its time the same for all. They are read
    beforehand: only the network is timed.
    """
    import torch
    from torch.nn.functional import pad

    from mgm_dali.video import reader

    model = _raft_small()

    def images(numbers: list[int]) -> torch.Tensor:
        pixels = torch.from_numpy(reader.read_frames(path, numbers)).permute(0, 3, 1, 2)
        scaled = pixels.float() / 127.5 - 1
        return pad(scaled, (0, -pixels.shape[3] % 8, 0, -pixels.shape[2] % 8), mode="replicate")

    numbers = frames[:num_pairs]
    now, before = images(numbers), images([max(number - 1, 0) for number in numbers])

    def run() -> int:
        with torch.inference_mode():
            return len(model(now, before, num_flow_updates=12)[-1])

    return run


TASKS: dict[str, Callable[..., Timed]] = {
    "pyav_decode": pyav_decode,
    "read_motion": read_motion,
    "iter_vectors": iter_vectors,
    "read_clip": read_clip,
    "read_frames": read_frames,
    "read_store": read_store,
    "extract": extract,
    "mv_extractor": mv_extractor,
    "decord": decord,
    "torchcodec": torchcodec,
    "raft": raft,
}


def measure(task: str, arguments: dict[str, Any]) -> dict[str, float]:
    """CPU seconds of this process, all of its threads, and of child processes that have ended."""
    run = TASKS[task](**arguments)
    gc.collect()
    wall_start, cpu_start = time.perf_counter(), _cpu_seconds()
    frames = run()
    cpu_seconds, wall_seconds = _cpu_seconds() - cpu_start, time.perf_counter() - wall_start
    return {"cpu_seconds": cpu_seconds, "wall_seconds": wall_seconds, "frames": frames}


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _reason(error: BaseException) -> str:
    """An ImportError of a compiled library has its reason at the end of the chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def answer_orders(measure: Callable[[str, dict[str, Any]], dict[str, float]]) -> None:
    """Answers until stdin ends; `measure` is given the task and its arguments."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not pass for an answer
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = measure(order["task"], order["arguments"])
        except Exception as error:
            answer = {"error": _reason(error)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    # Libraries asked for as many threads as there are cores find one.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    answer_orders(measure)
