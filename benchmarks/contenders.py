"""Who is measured, and what is hoped of ours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rounds import Contender, Ratio, Timings

__all__ = [
    "GOALS",
    "LIVE",
    "LOADER_GOALS",
    "WHOLE_VIDEO",
    "Goal",
    "Verdict",
    "clip_contenders",
    "judge",
    "loader_contenders",
]

MOTION, KNOWN, PLAIN = "ours: motion", "ours: motion (index known)", "PyAV: decoding alone"
MV_READ, MV_ONLY = "mv-extractor: read()", "mv-extractor: vectors only"
CLIP, STORED = "ours: RGB+motion", "ours: motion of a store"
DECORD, EXACT, APPROXIMATE = "decord: RGB", "torchcodec exact: RGB", "torchcodec approx.: RGB"
RAFT = "RAFT-Small (1 pair, scaled)"

WHOLE_VIDEO = (
    Contender(MOTION, "ours", "read_motion"),
    Contender(KNOWN, "ours", "read_motion", is_new=False),
    Contender("ours: vectors", "ours", "iter_vectors"),
    Contender(PLAIN, "ours", "pyav_decode"),
    Contender(MV_READ, "mv-extractor", "mv_extractor", {"with_frames": True}),
    Contender(MV_ONLY, "mv-extractor", "mv_extractor", {"with_frames": False}),
    Contender(RAFT, "raft", "raft", {"frames": [1], "num_pairs": 1}, does_part=True),
)
"""Those that read all of a video."""


def clip_contenders(store: Path) -> tuple[Contender, ...]:
    """Those that read a clip; `store` has the motion of its video."""
    return (
        Contender(CLIP, "ours", "read_clip"),
        Contender("ours: RGB+motion (index known)", "ours", "read_clip", is_new=False),
        Contender("ours: RGB", "ours", "read_frames"),
        Contender("ours: RGB (index known)", "ours", "read_frames", is_new=False),
        Contender(MOTION, "ours", "read_motion"),
        Contender(KNOWN, "ours", "read_motion", is_new=False),
        Contender(STORED, "ours", "read_store", {"store": str(store)}),
        Contender(DECORD, "decord", "decord"),
        Contender(EXACT, "torchcodec", "torchcodec", {"seek_mode": "exact"}),
        Contender(APPROXIMATE, "torchcodec", "torchcodec", {"seek_mode": "approximate"}),
        Contender(RAFT, "raft", "raft", {"num_pairs": 1}, does_part=True),
    )


LIVE, VIDEOMAE = "ours: motion from the codec", "VideoMAE's way: decord, Pillow"
TRANSPORT, DECODE = "ours: transport alone", "ours: decoding alone"


def loader_contenders(
    config: Mapping[str, Any], stored: Mapping[str, Any], *, antialias: bool
) -> tuple[Contender, ...]:
    """Loaders; the two configs are of ours, with motion from the codec and from a store."""
    no_motion = {"config": config, "stage": "finetune"}
    loaders = [
        Contender(LIVE, "ours", "ours", {"config": config, "stage": "pretrain"}),
        Contender(
            "ours: motion of a store", "ours", "ours", {"config": stored, "stage": "pretrain"}
        ),
        Contender("ours: no motion", "ours", "ours", no_motion),
        Contender(
            "ours: no motion, 4 crops of a decoding", "ours", "ours", no_motion | {"repeats": 4}
        ),
        Contender(VIDEOMAE, "decord", "videomae"),
        Contender(
            "torchcodec exact, torchvision", "torchcodec", "torchcodec", {"antialias": False}
        ),
    ]
    if antialias:
        name = "torchcodec exact, torchvision antialias"
        loaders.append(Contender(name, "torchcodec", "torchcodec", {"antialias": True}))
    return (
        *loaders,
        Contender(DECODE, "ours", "decode"),
        Contender(TRANSPORT, "ours", "transport", {"config": config}),
    )


@dataclass(frozen=True)
class Goal:
    """A bound on the ratio of two contenders of one section."""

    section: str
    over: str
    under: str
    at_least: float = 0.0
    at_most: float = float("inf")

    @property
    def bound(self) -> str:
        """As text."""
        return f">= {self.at_least:g}" if self.at_least else f"<= {self.at_most:g}"

    def __str__(self) -> str:
        return f"{self.section}: {self.over} / {self.under}"


GOALS = (
    Goal("videos", MOTION, PLAIN, at_most=1.1),
    Goal("videos", MV_READ, MOTION, at_least=1.3),
    Goal("videos", MV_ONLY, MOTION, at_least=1.05),
    Goal("clips", DECORD, CLIP, at_least=1.0),
    Goal("clips", EXACT, CLIP, at_least=1.0),
    Goal("clips", APPROXIMATE, CLIP, at_least=1.0),
    Goal("clips", KNOWN, STORED, at_least=50),
    Goal("clips", RAFT, MOTION, at_least=30),
)
"""For H.264 of 340x256 pixels, as Kinetics is mostly kept. Ours meets its files for the first time,
as all others do at every call; but a store has to beat what is read live with the index known."""

LOADER_GOALS = (
    Goal("CPU time", VIDEOMAE, LIVE, at_least=1.5),
    Goal("wall time", VIDEOMAE, LIVE, at_least=1.5),
    Goal("CPU time", TRANSPORT, DECODE, at_most=0.08),
)
"""Transport is what it takes to bring a clip from a worker into the graph."""


@dataclass(frozen=True)
class Verdict:
    """A goal and what was found; `ratio` is None where a contender is missing."""

    goal: Goal
    ratio: Ratio | None

    @property
    def is_met(self) -> bool:
        """Whether the ratio of medians keeps the bound."""
        if self.ratio is None:
            return False
        return self.goal.at_least <= self.ratio.median <= self.goal.at_most

    def as_dict(self) -> dict[str, Any]:
        """For the file of numbers."""
        return {
            "ratio": str(self.goal),
            "goal": self.goal.bound,
            "found": self.ratio and asdict(self.ratio),
            "is_met": self.is_met,
        }


def judge(
    goals: Sequence[Goal], timings: Mapping[str, Timings], jobs: Mapping[str, Sequence[str]]
) -> Iterator[Verdict]:
    """One verdict a goal, over the named jobs of each section."""
    for goal in goals:
        of_section = timings[goal.section]
        yield Verdict(goal, of_section.ratio(goal.over, goal.under, jobs[goal.section]))
