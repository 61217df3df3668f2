"""Accuracy from probabilities and labels: top-1, top-5, by class, and how sure the numbers are.

Letters: V videos, C classes.

Two 95% intervals are given. The bootstrap's draws as many videos as there are, with replacement,
many times, and keeps the middle 95% of what comes out (Efron 1979, percentiles). For a share of
right videos that is drawing from a binomial distribution with the share that was found, so where
all are right, or none, it has no width: it cannot say how much a small test leaves open. Wilson's
(1927) asks which true shares would make the found one likely, and is sound there too; it exists
for shares alone, not for a mean over classes. In between they agree to a fraction of a percent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError

__all__ = [
    "MIDDLE_95",
    "RESAMPLES",
    "Verdict",
    "bootstrap_class_mean",
    "bootstrap_share",
    "judge",
    "verdict_in_words",
    "wilson_interval",
]

RESAMPLES = 10_000
"""Of the bootstrap."""
RESAMPLES_AT_ONCE = 500
"""So that a test of many classes fits in memory."""
MIDDLE_95 = (2.5, 97.5)
"""Percentiles."""


@dataclass(frozen=True)
class Verdict:
    """How good predictions are; fit for JSON."""

    num_videos: int
    num_unreadable: int
    """Videos that could not be judged; they count as wrong."""
    top1: float
    top1_low: float
    top1_high: float
    """95% bootstrap interval over videos, as the two below."""
    wilson_low: float
    wilson_high: float
    """Wilson's 95% interval of top-1."""
    top5: float
    """Of fewer than five classes: whether the video could be judged at all."""
    top5_low: float
    top5_high: float
    class_mean: float
    """Mean over the classes of which there are videos of the share that is right."""
    class_mean_low: float
    class_mean_high: float
    chance: float
    """Top-1 of guessing among the classes."""
    class_names: list[str]
    class_videos: list[int]
    """Videos of each class, unreadable ones among them."""
    class_top1: list[float | None]
    """Share of each class that is right; None where it has no videos."""
    confusion: list[list[int]]
    """Readable videos by [true class][predicted class]."""


def judge(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    class_names: Sequence[str] = (),
    seed: int = 0,
) -> Verdict:
    """Accuracy of `[V, C]` probabilities (or scores) against labels `[V]`.

    A row that is not all numbers stands for a video that could not be judged, and counts as wrong;
    of equal probabilities the lower class wins. `seed` is the bootstrap's. Raises `UserError` if
    there is no video, or a label that is no class.
    """
    num_videos, num_classes = probabilities.shape
    _require_labels(labels, num_classes)
    readable = np.isfinite(probabilities).all(axis=1)
    ranked = np.argsort(-probabilities[readable], axis=1, kind="stable")[:, :5]
    hits = ranked == labels[readable][:, None]
    right = np.zeros(num_videos, np.bool_)
    right[readable] = hits[:, 0]
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels[readable], ranked[:, 0]), 1)
    videos = np.bincount(labels, minlength=num_classes)
    right_of_class = confusion.diagonal()
    there = videos > 0
    top1, top5 = int(right.sum()), int(hits.any(axis=1).sum())
    rng = np.random.default_rng(seed)
    top1_low, top1_high = bootstrap_share(top1, num_videos, rng)
    top5_low, top5_high = bootstrap_share(top5, num_videos, rng)
    mean_low, mean_high = bootstrap_class_mean(right_of_class[there], videos[there], rng)
    wilson_low, wilson_high = wilson_interval(top1, num_videos)
    return Verdict(
        num_videos=num_videos,
        num_unreadable=int((~readable).sum()),
        top1=top1 / num_videos,
        top1_low=top1_low,
        top1_high=top1_high,
        wilson_low=wilson_low,
        wilson_high=wilson_high,
        top5=top5 / num_videos,
        top5_low=top5_low,
        top5_high=top5_high,
        class_mean=float((right_of_class[there] / videos[there]).mean()),
        class_mean_low=mean_low,
        class_mean_high=mean_high,
        chance=1 / num_classes,
        class_names=list(class_names) or [str(number) for number in range(num_classes)],
        class_videos=videos.tolist(),
        class_top1=[
            right / total if total else None
            for right, total in zip(right_of_class.tolist(), videos.tolist(), strict=True)
        ],
        confusion=confusion.tolist(),
    )


def verdict_in_words(verdict: Verdict) -> str:
    """One line: every accuracy with its 95% interval, and of how many videos.

    Top-5 says nothing of five classes or fewer, and is left out.
    """
    top5 = f"top-5 {verdict.top5:.1%} ({_span(verdict.top5_low, verdict.top5_high)}), "
    return (
        f"top-1 {verdict.top1:.1%} (95% interval {_span(verdict.top1_low, verdict.top1_high)}, "
        f"Wilson's {_span(verdict.wilson_low, verdict.wilson_high)}), "
        f"{top5 if len(verdict.class_names) > 5 else ''}"
        f"mean of classes {verdict.class_mean:.1%} "
        f"({_span(verdict.class_mean_low, verdict.class_mean_high)}), "
        f"chance {verdict.chance:.1%}; "
        f"{verdict.num_videos} videos, {verdict.num_unreadable} of them unreadable"
    )


def bootstrap_share(right: int, videos: int, rng: np.random.Generator) -> tuple[float, float]:
    """Bootstrap interval of a share of right videos: a resample's right ones are binomial."""
    shares = rng.binomial(videos, right / videos, RESAMPLES) / videos
    low, high = np.percentile(shares, MIDDLE_95)
    return float(low), float(high)


def bootstrap_class_mean(
    right: NDArray[np.integer], videos: NDArray[np.integer], rng: np.random.Generator
) -> tuple[float, float]:
    """Bootstrap interval of the mean over classes of `right / videos`, both `[C]`, none without.

    Videos are drawn, not classes: how many of each class a resample holds, right and wrong, is
    multinomial, and the mean is over those that it holds.
    """
    cells = np.concatenate((right, videos - right))
    total = int(videos.sum())
    means = []
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        drawn = rng.multinomial(total, cells / total, RESAMPLES_AT_ONCE)
        right_of, wrong_of = np.split(drawn, 2, axis=1)
        videos_of = right_of + wrong_of
        shares = right_of / np.maximum(videos_of, 1)
        means.append(shares.sum(axis=1) / (videos_of > 0).sum(axis=1))
    low, high = np.percentile(np.concatenate(means), MIDDLE_95)
    return float(low), float(high)


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share (Wilson 1927); unlike the normal one it is sound near 0 and 1."""
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def _span(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"


def _require_labels(labels: NDArray[np.integer], num_classes: int) -> None:
    if not len(labels):
        raise UserError("there is no video to judge")
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        row = int(outside.argmax())
        raise UserError(
            f"video {row} (from 0) has label {int(labels[row])}, but there are {num_classes} "
            "classes, counted from 0; correct the manifest or model.num_classes"
        )
