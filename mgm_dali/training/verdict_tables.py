"""The tables of an evaluation: RUN/predictions.csv, RUN/per_class.csv, and lines for people.

predictions.csv   one row a video: what it is, what it was taken for, the five likeliest
per_class.csv     one row a class: how many of its videos are right, what it is taken for
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mgm_dali.files import csv_text
from mgm_dali.in_words import printable
from mgm_dali.training.verdict import Verdict
from mgm_dali.training.views import MergedViews
from mgm_dali.video.manifest import Manifest

__all__ = ["class_lines", "per_class_csv", "predictions_csv"]

TOP = 5
MOST_CLASSES_PRINTED = 20


def predictions_csv(manifest: Manifest, views: MergedViews, class_names: Sequence[str]) -> str:
    """Each video's label and prediction, by number and by name, and the next likeliest classes.

    `views` counts those that could be read; a video without any has a reason in place of a
    prediction. With fewer than five classes the last columns are empty.
    """
    header = ["path", "label", "predicted", "probability", "label_name", "predicted_name"]
    for place in range(2, TOP + 1):
        header += [f"name_{place}", f"probability_{place}"]
    return csv_text((*header, "views", "reason"), _predictions(manifest, views, class_names))


def _predictions(
    manifest: Manifest, views: MergedViews, class_names: Sequence[str]
) -> Iterator[list[object]]:
    ranked = np.argsort(-views.probabilities, axis=1, kind="stable")[:, :TOP]
    best = np.take_along_axis(views.probabilities, ranked, axis=1)
    for row, video in enumerate(manifest):
        label = int(manifest.labels[row])
        line: list[object] = [video.path, label, "", "", class_names[label], ""]
        others = [""] * (2 * (TOP - 1))
        if row not in views.reasons:
            names = [class_names[number] for number in ranked[row]]
            shares = [f"{share:.6f}" for share in best[row]]
            line[2:4], line[5] = [int(ranked[row, 0]), shares[0]], names[0]
            pairs = [text for pair in zip(names[1:], shares[1:], strict=True) for text in pair]
            others[: len(pairs)] = pairs
        yield [*line, *others, int(views.num_views[row]), views.reasons.get(row, "")]


def per_class_csv(verdict: Verdict) -> str:
    """Each class: its videos, how many are right, and the class that the others are mostly taken
    for."""
    header = ("class", "videos", "correct", "top1", "taken_for", "taken_for_videos")
    return csv_text(header, _per_class(verdict))


def _per_class(verdict: Verdict) -> Iterator[tuple[object, ...]]:
    confusion = np.array(verdict.confusion)
    for number, name in enumerate(verdict.class_names):
        wrong = confusion[number].copy()
        wrong[number] = 0
        taken_for = int(wrong.argmax())
        top1 = verdict.class_top1[number]
        yield (
            *(name, verdict.class_videos[number], int(confusion[number, number])),
            "" if top1 is None else f"{top1:.6f}",
            *((verdict.class_names[taken_for], int(wrong[taken_for])) if wrong.any() else ("", "")),
        )


def class_lines(verdict: Verdict) -> list[str]:
    """The same as an aligned table for people; nothing where it would be long."""
    if len(verdict.class_names) > MOST_CLASSES_PRINTED:
        return []
    width = max(len("class"), *(len(printable(name)) for name in verdict.class_names))
    lines = [f"{'class':{width}}  videos   top-1  mostly taken for"]
    for name, videos, _, top1, taken_for, times in _per_class(verdict):
        share = f"{float(str(top1)):.1%}" if top1 else "-"
        wrong = f"{printable(str(taken_for))} ({times})" if taken_for != "" else "-"
        lines.append(f"{printable(str(name)):{width}}  {videos:6}  {share:>6}  {wrong}")
    return lines
