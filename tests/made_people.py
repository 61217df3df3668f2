"""A small set after AVA: a bright and a dark square move in each video, one above the other.

Which box is asked for decides what is right: no answer for the whole clip is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from small_videos import manifest_of
from training_runs import config_for

from mgm_dali.config import RunConfig

__all__ = ["ACTIONS", "PeopleSet", "detection_config", "with_file", "write_people"]

ACTIONS = ("bright", "dark", "above")
SIDE, WIDTH, HEIGHT, FPS, NUM_FRAMES = 24, 128, 96, 10, 40
SIZES = (WIDTH, HEIGHT, WIDTH, HEIGHT)
SECONDS = (1, 2, 3)


@dataclass(frozen=True)
class PeopleSet:
    """The files of one part of the set."""

    manifest: Path
    actions: Path
    people: Path


def write_people(folder: Path, num_videos: int, seed: int, lonely: int = 0) -> PeopleSet:
    """Videos v0.mp4 ... with a moment each second; numbers of actions are 1, 4 and 7.

    In so many videos nobody has looked at the lower square.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines, videos = [], []
    for number in range(num_videos):
        videos.append(folder / f"v{number}.mp4")
        found = _write_video(videos[-1], rng)
        lines += [line for line in found if number >= lonely or line.endswith(",0\n")]
    manifest_of(folder / "videos.csv", videos)
    (folder / "people.csv").write_text("".join(lines))
    items = [
        f'item {{\n  name: "{name}"\n  id: {1 + 3 * place}\n}}\n'
        for place, name in enumerate(ACTIONS)
    ]
    (folder / "actions.pbtxt").write_text("".join(items))
    return PeopleSet(folder / "videos.csv", folder / "actions.pbtxt", folder / "people.csv")


def with_file(part: PeopleSet, name: str, data: bytes, folder: Path) -> PeopleSet:
    """A copy of a part in which one file is another."""
    folder.mkdir()
    for path in part.manifest.parent.iterdir():
        (folder / path.name).write_bytes(data if path.name == name else path.read_bytes())
    return PeopleSet(*(folder / p.name for p in (part.manifest, part.actions, part.people)))


def _write_video(path: Path, rng: np.random.Generator) -> list[str]:
    """Bright and dark squares in an upper and a lower lane; the lines of their boxes."""
    bright_above, steps = rng.random() < 0.5, rng.choice([-1.0, 1.0], 2)
    starts = np.where(steps > 0, rng.uniform(0, 20, 2), WIDTH - SIDE - rng.uniform(0, 20, 2))
    tops = (12, HEIGHT - SIDE - 12)
    noise = rng.integers(90, 150, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    lines = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "g": "10"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in range(NUM_FRAMES):
            image = noise.copy()
            for lane, top in enumerate(tops):
                left = round(starts[lane] + 2 * steps[lane] * frame)
                left = min(max(left, 0), WIDTH - SIDE)
                is_bright = bright_above == (lane == 0)
                image[top : top + SIDE, left : left + SIDE] = 240 if is_bright else 15
                second, rest = divmod(frame, FPS)
                if rest or second not in SECONDS:
                    continue
                box = np.array([left, top, left + SIDE, top + SIDE]) / (
                    WIDTH,
                    HEIGHT,
                    WIDTH,
                    HEIGHT,
                )
                corners = ",".join(f"{value:.5f}" for value in box)
                does = [1 if is_bright else 4] + [7] * (lane == 0)
                lines += [f"{path.stem},{second:04d},{corners},{a},{lane}\n" for a in does]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return lines


def detection_config(
    train: PeopleSet, val: PeopleSet, output: Path, *, detection: Any = None, **training: Any
) -> RunConfig:
    """A short run on two parts of the set."""
    config = config_for(train.manifest, output, **training)
    values = config.model_dump()
    values["data"] |= {"val": val.manifest}
    values["augment"] |= {"crop": "whole"}
    values["clip"] |= {"stride_frames": 1}
    values["evaluation"] |= {"num_segments": 1, "num_crops": 1}
    values["detection"] |= {"actions": train.actions, "train": train.people, "val": val.people}
    values["detection"] |= {"box_cells": 3} | (detection or {})
    return RunConfig.model_validate(values)
