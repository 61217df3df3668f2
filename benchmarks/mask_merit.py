"""How much of what truly moves a mask hides, on made clips of which it is known.

    python benchmarks/mask_merit.py --json numbers.json

A clip's motion is read from real H.264, once for all masks. For each rule, with the camera's motion
subtracted or not, with the motion of single frames or of whole strides:

    hidden     share of the moving things' area that is hidden, in the mean of clips
    missed     share of the slices in which less than half of it is
    moved      patches that the middle of the hidden tokens moves from slice to slice

A mask that knows nothing hides as much of the things as of anything: the ratio. Intervals hold 95%
of the means of clips drawn anew from these (bootstrap).
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import add_number_options, parse, run
from intervals import interval, ratio_interval
from merit_scenes import CAMERAS, ENCODINGS, KINDS, SIDE_PIXELS, Scene, encode
from numpy.typing import NDArray
from ratios import Row, ratio_row, summary
from rich.console import Console
from rich.table import Table
from rounds import Ratio
from torch import Tensor

from mgm_dali.config import PATCH_PIXELS, MaskConfig
from mgm_dali.data_commands import progress_bar
from mgm_dali.masking import NEEDS_MOTION, PatchGrid, make_mask
from mgm_dali.motion import MotionField, read_motion
from mgm_dali.motion.accumulate import accumulate, window_frames
from mgm_dali.motion.camera import subtract_camera

GRID = PatchGrid(8, SIDE_PIXELS // PATCH_PIXELS, SIDE_PIXELS // PATCH_PIXELS)
RATIOS = (0.25, 0.5, 0.75)
RULES: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random"},
    "tube": {"strategy": "tube"},
    "block": {"strategy": "block"},
    "simulated_motion": {"strategy": "simulated_motion"},
    "simulated_motion_sparse": {"strategy": "simulated_motion_sparse"},
    "motion_guided, top_1": {"center": "top_1"},
    "motion_guided, top_k 4": {"center": "top_k", "top_k": 4},
    "motion_guided, top_k 16": {"center": "top_k", "top_k": 16},
    "motion_guided, top_k 64": {"center": "top_k", "top_k": 64},
    "motion_guided, vote": {"center": "vote"},
    "motion_guided_sparse": {"strategy": "motion_guided_sparse"},
    "flow_warp": {"strategy": "flow_warp"},
}
"""What is compared, as options of `mask`."""
MOTIONS = tuple(product(("frame", "window"), (False, True)))
"""`motion.accumulate` and `motion.subtract_camera`."""
GUIDED, TUBE = "motion_guided, top_1", "tube"
"""The mask as it is by default, and VideoMAE's."""
QUICK = {"seeds": 1}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """One encoded scene."""

    scene: Scene
    encoding: str
    motions: dict[tuple[str, bool], MotionField]
    """By the entries of `MOTIONS`."""
    area: Floats
    """`[t, h, w]`, the share of each token that moving things cover."""


@dataclass(frozen=True)
class Merit:
    """What a mask is worth, a number for each clip `[B]`."""

    hidden: Floats
    missed: Floats
    moved: Floats


def main() -> None:
    """Makes the clips, measures, prints tables, and writes all numbers to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4, help="scenes of each kind and camera")
    add_number_options(parser)
    run(parse(parser, ("seeds",), QUICK), _measure)


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    clips = make_clips(folder, options.seeds)
    rows = [
        {"rule": rule, "ratio": ratio, "accumulate": motion[0], "subtract_camera": motion[1]}
        | found
        for rule, ratio, motion in combinations()
        for found in _of_groups(clips, rule, ratio, motion)
    ]
    console.print(f"{len(clips)} clips: {', '.join(KINDS)}; {', '.join(ENCODINGS)}\n")
    for ratio in RATIOS:
        console.print(_table(rows, ratio, "hidden", 100), "")
    console.print(_table(rows, RATIOS[-1], "moved", 1))
    moved = {camera: float(thing_moves(_of(clips, camera)).mean()) for camera in CAMERAS}
    said = ", ".join(f"{value:.2f} ({camera})" for camera, value in moved.items())
    console.print(f"  the things themselves move {said} patches a slice", markup=False)
    about = "moving area that is hidden, ours / the other's (95% intervals over clips)"
    told = summary(about, others=_against_tubes(clips))
    return {"rows": rows, "things_move": moved, "num_clips": len(clips), **told}


def _against_tubes(clips: Sequence[Clip]) -> Iterator[Row]:
    """How many times as much of the moving things our mask hides."""
    area = np.stack([clip.area for clip in clips])
    for ratio, camera in product(RATIOS, CAMERAS):
        ours, tubes = (
            merit(masks_of(clips, MOTIONS[0], MaskConfig(**RULES[rule], ratio=ratio)), area).hidden
            for rule in (GUIDED, TUBE)
        )
        places = [place for place, clip in enumerate(clips) if clip.scene.camera == camera]
        above, below = ours[places], tubes[places]
        found = Ratio(float(above.mean() / below.mean()), *ratio_interval(above, below))
        yield ratio_row(f"{camera}, {ratio:g} hidden: ours: {GUIDED}", "VideoMAE's tubes", found)


def combinations() -> Iterator[tuple[str, float, tuple[str, bool]]]:
    """What is measured; a rule that looks at no motion once, not for every motion."""
    for (rule, options), ratio, motion in product(RULES.items(), RATIOS, MOTIONS):
        if MaskConfig(**options).strategy in NEEDS_MOTION or motion == MOTIONS[0]:
            yield rule, ratio, motion


def make_clips(folder: Path, num_seeds: int) -> list[Clip]:
    """Every kind under every camera in every encoding, so many times."""
    combined = product(KINDS, CAMERAS, range(num_seeds))
    scenes = [Scene(kind, camera, seed) for seed, (kind, camera, _) in enumerate(combined)]
    clips = []
    with progress_bar("clips") as advance:
        for scene in scenes:
            clips += [_clip(scene, encoding, folder / "clip.mp4") for encoding in ENCODINGS]
            advance(len(clips) // len(ENCODINGS), len(scenes))
    return clips


def _clip(scene: Scene, encoding: str, path: Path) -> Clip:
    encode(scene, encoding, path)
    frames = scene.sampled()
    read = window_frames(frames)
    field = read_motion(path, read)
    of_frames = np.searchsorted(read, frames)
    fields = {
        "frame": MotionField(
            field.vectors[of_frames], field.valid[of_frames], field.known[of_frames]
        ),
        "window": accumulate(field, read, frames),
    }
    motions = {
        (name, subtract): subtract_camera(fields[name]) if subtract else fields[name]
        for name, subtract in MOTIONS
    }
    inside = np.stack([scene.inside(number) for number in frames.tolist()])
    tubelets = inside.reshape(GRID.t, -1, GRID.h, PATCH_PIXELS, GRID.w, PATCH_PIXELS)
    return Clip(scene, encoding, motions, tubelets.mean((1, 3, 5)))


def masks_of(
    clips: Sequence[Clip], motion: tuple[str, bool], config: MaskConfig
) -> NDArray[np.bool_]:
    """`[B, t, h, w]`, True = hidden."""
    fields = [clip.motions[motion] for clip in clips]
    vectors = _stack([field.pixels() for field in fields])
    valid, known = (
        _stack([getattr(field, name) for field in fields]) for name in ("valid", "known")
    )
    seed = torch.arange(len(clips))
    mask = make_mask(vectors, valid, seed, GRID, config, known)
    return mask.view(len(clips), *GRID).numpy()


def merit(masks: NDArray[np.bool_], area: Floats) -> Merit:
    """Of masks and of the share of each token that things cover, both `[B, t, h, w]`."""
    covered = area.sum((2, 3))
    of_slices = (masks * area).sum((2, 3))
    missed = (of_slices < covered / 2).mean(1)
    return Merit(of_slices.sum(1) / covered.sum(1), missed, _moves(masks))


def thing_moves(clips: Sequence[Clip]) -> Floats:
    """Patches that the middle of all that moves comes on from slice to slice, for each clip."""
    return _moves(np.stack([clip.area for clip in clips]))


def _of_groups(
    clips: Sequence[Clip], rule: str, ratio: float, motion: tuple[str, bool]
) -> Iterator[dict[str, Any]]:
    masks = masks_of(clips, motion, MaskConfig(**RULES[rule], ratio=ratio))
    found = merit(masks, np.stack([clip.area for clip in clips]))
    for camera, encoding in product(CAMERAS, (*ENCODINGS, None)):
        places = [
            place
            for place, clip in enumerate(clips)
            if clip.scene.camera == camera and encoding in (clip.encoding, None)
        ]
        yield {
            "camera": camera,
            "encoding": encoding or "all",
            "hidden": float(found.hidden[places].mean()),
            "interval": interval(found.hidden[places]),
            "missed": float(found.missed[places].mean()),
            "moved": float(found.moved[places].mean()),
        }


def _of(clips: Sequence[Clip], camera: str) -> list[Clip]:
    return [clip for clip in clips if clip.scene.camera == camera]


def _stack(arrays: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _moves(weights: NDArray[Any]) -> Floats:
    """Mean way of the centroid of `weights [B, t, h, w]` from slice to slice, in places: `[B]`."""
    mass = weights.sum((2, 3), dtype=np.float64)
    y, x = (
        (weights.sum(other) * np.arange(size)).sum(2) / mass
        for other, size in ((3, weights.shape[2]), (2, weights.shape[3]))
    )
    moves: Floats = np.hypot(np.diff(x, axis=1), np.diff(y, axis=1)).mean(1)
    return moves


def _table(rows: Sequence[dict[str, Any]], ratio: float, what: str, scale: float) -> Table:
    """One row a rule; columns are the scenes' cameras, as they are and with theirs subtracted."""
    unit = "% of the things' area (95% interval)" if what == "hidden" else "patches a slice"
    table = Table(title=f"ratio {ratio}: {what}, {unit}", title_justify="left")
    for name in ("rule", "motion"):
        table.add_column(name, no_wrap=True)
    for camera, subtract in product(CAMERAS, (False, True)):
        table.add_column(f"{camera}, subtracted" if subtract else camera, justify="right")
    cells: dict[tuple[str, str], dict[tuple[str, bool], str]] = {}
    for row in rows:
        if row["ratio"] == ratio and row["encoding"] == "all":
            low, high = (scale * bound for bound in row["interval"])
            value = f"{scale * row[what]:.3g}"
            text = f"{value} ({low:.0f}-{high:.0f})" if what == "hidden" else value
            of_rule = cells.setdefault((row["rule"], row["accumulate"]), {})
            of_rule[row["camera"], row["subtract_camera"]] = text
    for (rule, accumulated), of_rule in cells.items():
        columns = (of_rule.get(key, "") for key in product(CAMERAS, (False, True)))
        looks = MaskConfig(**RULES[rule]).strategy in NEEDS_MOTION
        table.add_row(rule, accumulated if looks else "-", *columns)
    return table


if __name__ == "__main__":
    main()
