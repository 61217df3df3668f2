"""What is measured on: the videos that the user names, or some that are made for it."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rounds import Job

from mgm_dali.demo_scenes import DEMO_CLASSES, NUM_FRAMES, draw_video
from mgm_dali.errors import UserError
from mgm_dali.video.indexing import VIDEO_SUFFIXES
from mgm_dali.video.manifest import Manifest, Video, read_manifest, write_manifest
from mgm_dali.video.reader import VideoError, probe

__all__ = [
    "Form",
    "add_video_options",
    "chosen_videos",
    "clip_jobs",
    "make_video",
    "make_videos",
    "new_files",
    "open_videos",
    "whole_jobs",
]

CLIP_FRAMES = 16
STRIDE_FRAMES = 4
MADE_CLASSES = ("right", "clockwise", "approach")
MADE_WIDTH, MADE_HEIGHT = 340, 256
FPS = 30
BUSY_LOAD = 0.5


@dataclass(frozen=True)
class Form:
    """How long and how large a made video is, and how often it has a key frame."""

    seconds: int = 10
    lines: int = MADE_HEIGHT
    gop: int = 250
    """Frames from one key frame to the next; 250 is x264's default."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, 4 to 3."""
        return self.lines * 4 // 3 // 2 * 2, self.lines


def make_videos(folder: Path, num_videos: int = len(MADE_CLASSES)) -> list[Path]:
    """Videos of 300 frames with x264's default settings, as Kinetics is often kept."""
    return [make_video(folder, seed, Form()) for seed in range(num_videos)]


def make_video(folder: Path, seed: int, form: Form) -> Path:
    """One video; what it shows follows from the seed alone.

    Large ones have the same picture several times beside itself, so that every pixel is as hard to
    decode; long ones play it forth and back.
    """
    name = MADE_CLASSES[seed % len(MADE_CLASSES)]
    assert name in DEMO_CLASSES
    # A multiple of 16 that holds the picture; what is above and below it is cut.
    scene = draw_video(name, 352, np.random.default_rng(seed))
    top = (352 - MADE_HEIGHT) // 2
    scene = scene[:, top : top + MADE_HEIGHT, :MADE_WIDTH]
    path = folder / f"made_{seed}_{name}_{form.seconds}s_{form.lines}_gop{form.gop}.mp4"
    _encode(path, scene, form)
    return path


def add_video_options(parser: argparse.ArgumentParser, num_made: int, most: int) -> None:
    """What `chosen_videos` takes: so many are made where none are named, of more some are taken."""
    made = f"files and folders; none: {num_made} are made"
    parser.add_argument("--videos", type=Path, nargs="+", default=[], help=made)
    parser.add_argument("--most-videos", type=int, default=most, help="of more, some are taken")


def chosen_videos(
    console: Console, options: argparse.Namespace, folder: Path, num_made: int
) -> list[Video]:
    """Those of `--videos`, or so many that are made; says which, and whether others work here."""
    videos, notes = open_videos(
        options.videos or make_videos(folder, num_made), options.most_videos
    )
    if not options.videos:
        notes = [f"no --videos: {num_made} are made, 340x256, 300 frames, x264's default settings"]
    load, cores = os.getloadavg()[0], os.cpu_count()
    if load > BUSY_LOAD:
        busy = f"the machine is busy (load average {load:.1f} on {cores} cores)"
        notes.append(f"{busy}: CPU time says more than clips a second")
    for line in notes:
        console.print(line, markup=False)
    return videos


def new_files(videos: Sequence[Video], folder: Path, num_rows: int) -> Manifest:
    """A manifest in which each row is a new link to one of the videos.

    So no file is met twice, as in an epoch of a large data set: nothing is remembered of any.
    """
    links = folder / "links"
    links.mkdir(parents=True)
    rows = []
    for number in range(num_rows):
        video = videos[number % len(videos)]
        link = links / f"{number}{video.path.suffix}"
        link.symlink_to(video.path)
        rows.append(Video(**{**vars(video), "path": link}))
    write_manifest(folder / "links.csv", rows, [])
    return read_manifest(folder / "links.csv")


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


def _encode(path: Path, scene: np.ndarray, form: Form) -> None:
    """Plays a scene forth and back until the video is long enough, so that nothing jumps."""
    forth_and_back = [*range(NUM_FRAMES), *range(NUM_FRAMES - 2, 0, -1)]
    width, height = form.size
    times = -(-height // scene.shape[1]), -(-width // scene.shape[2]), 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", FPS, {"g": str(form.gop)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # x264 would cut frames into one slice per core
        for number in range(form.seconds * FPS):
            picture = np.tile(scene[forth_and_back[number % len(forth_and_back)]], times)
            picture = np.ascontiguousarray(picture[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
