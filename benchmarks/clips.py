"""What is measured on: the videos that the user names, or some that are made for it."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from rounds import Job

from mgm_dali.demo_scenes import DEMO_CLASSES, NUM_FRAMES, draw_video
from mgm_dali.errors import UserError
from mgm_dali.video.indexing import VIDEO_SUFFIXES
from mgm_dali.video.manifest import Video
from mgm_dali.video.reader import VideoError, probe

__all__ = ["clip_jobs", "make_videos", "open_videos", "whole_jobs"]

CLIP_FRAMES = 16
STRIDE_FRAMES = 4
MADE_CLASSES = ("right", "clockwise", "approach")
MADE_FRAMES = 300
MADE_WIDTH, MADE_HEIGHT = 340, 256


def make_videos(folder: Path, num_videos: int = len(MADE_CLASSES)) -> list[Path]:
    """Videos of 300 frames with x264's default settings, as Kinetics is often kept."""
    paths = []
    for seed in range(num_videos):
        name = MADE_CLASSES[seed % len(MADE_CLASSES)]
        assert name in DEMO_CLASSES
        # A multiple of 16 that holds the picture; what is above and below it is cut.
        scene = draw_video(name, 352, np.random.default_rng(seed))
        top = (352 - MADE_HEIGHT) // 2
        scene = scene[:, top : top + MADE_HEIGHT, :MADE_WIDTH]
        paths.append(folder / f"made_{seed}_{name}.mp4")
        _encode(paths[-1], scene)
    return paths


def open_videos(sources: Sequence[Path], most: int) -> tuple[list[Video], list[str]]:
    """The videos in these files and folders, and why others were left out, a line each.

    Of more than `most` files some are taken, evenly spaced. Raises `UserError` if a source does not
    exist or none of them holds a readable video.
    """
    videos: list[Video] = []
    left_out: list[str] = []
    paths = [path for source in sources for path in _files_of(source)]
    if len(paths) > most:
        left_out.append(f"{most} of {len(paths)} files are taken, evenly spaced")
        paths = [paths[number * len(paths) // most] for number in range(most)]
    for path in paths:
        try:
            videos.append(Video(path=path.absolute(), label=None, **vars(probe(path))))
        except VideoError as error:
            left_out.append(f"left out: {error}")
    if not videos:
        raise UserError("; ".join([f"{sources[0]}: no readable video there", *left_out[:1]]))
    return videos, left_out


def whole_jobs(videos: Sequence[Video]) -> list[Job]:
    """One job a video."""
    return [
        Job(f"{number} {video.path.name}", video.path, video.num_frames)
        for number, video in enumerate(videos)
    ]


def clip_jobs(
    videos: Sequence[Video], clips_per_video: int, seed: int
) -> tuple[list[Job], list[str]]:
    """Clips at random places, the same for the same seed, and a line for every video too short."""
    span = (CLIP_FRAMES - 1) * STRIDE_FRAMES + 1
    jobs: list[Job] = []
    too_short: list[str] = []
    for number, video in enumerate(videos):
        if video.num_frames < span:
            too_short.append(f"no clip of {video.path.name}: {video.num_frames} frames, not {span}")
            continue
        places = np.random.default_rng((seed, number)).permutation(video.num_frames - span + 1)
        for place in places[:clips_per_video].tolist():
            frames = list(range(place, place + span, STRIDE_FRAMES))
            name = f"{number} {video.path.name} from {place}"
            jobs.append(Job(name, video.path, CLIP_FRAMES, {"frames": frames}))
    return jobs, too_short


def _files_of(source: Path) -> list[Path]:
    if source.is_dir():
        files = sorted(source.rglob("*"))
        return [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not source.exists():
        raise UserError(f"{source}: no such video or folder of videos")
    return [source]


def _encode(path: Path, scene: np.ndarray) -> None:
    """Plays a scene forth and back until the video is long enough, so that nothing jumps."""
    forth_and_back = [*range(NUM_FRAMES), *range(NUM_FRAMES - 2, 0, -1)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 30, {"g": "250"})
        stream.width, stream.height, stream.pix_fmt = MADE_WIDTH, MADE_HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1  # x264 would cut frames into one slice per core
        for number in range(MADE_FRAMES):
            picture = np.ascontiguousarray(scene[forth_and_back[number % len(forth_and_back)]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
