"""Multi-view testing: every video is judged by the mean over its views."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mgm_dali.config import RunConfig
from mgm_dali.files import write_whole
from mgm_dali.models import LoadReport, build_classifier
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.training.classes import Judged, judged_by
from mgm_dali.training.evaluation_lines import (
    first_lines,
    listed_videos,
    nothing_judged,
    require_any,
)
from mgm_dali.training.judging import Watcher
from mgm_dali.training.log import RunLog
from mgm_dali.training.verdict import Verdict, judge, verdict_in_words
from mgm_dali.training.verdict_tables import class_lines, per_class_csv, predictions_csv
from mgm_dali.training.views import MergedViews, merge_views, open_views, reasons_of
from mgm_dali.training.world import World

__all__ = ["Evaluation", "evaluate_network", "judge_weights"]


@dataclass(frozen=True)
class Evaluation(Verdict):
    """What an evaluation found, and how; kept as RUN/evaluation.json."""

    weights: str
    data: str
    """The manifest of the judged videos."""
    class_map: str | None
    views_per_video: int
    merge: str
    num_incomplete: int
    """Videos of which some views could not be read; the others judge them."""
    incomplete: list[dict[str, str]]
    """`path` and `reason` of each of them."""
    unreadable: list[dict[str, str]]
    """`path` and `reason` of each video that could not be judged."""


def evaluate_network(
    config: RunConfig,
    network: nn.Module,
    world: World,
    loaded: LoadReport,
    goes_on: Callable[[], None],
) -> Evaluation:
    """Judges a classifier on `data.val`; writes evaluation.json, predictions.csv, per_class.csv.

    `loaded` says where its weights come from; `goes_on` is called behind every batch. Raises
    `UserError`, on all ranks and before anything is written, if no video at all could be judged.
    """
    judged = judged_by(config)
    with (
        open_views(config, judged, world) as loader,
        RunLog(config.output_dir, world.rank, len(loader)) as log,
    ):
        how = _how(config)
        notes = [f"class map  {judged.left_out}"] if judged.left_out else []
        for line in first_lines(config, loader, notes, loaded, how):
            log.line(line)

        def advance(done: int) -> None:
            goes_on()
            log.advance(done, "views")

        views = merge_views(config, network, world, loader, judged, advance)
        unreadable = listed_videos(judged.manifest, views.reasons)
        is_any = len(unreadable) < len(judged.manifest)
        require_any(is_any, config.data.val, "videos", unreadable)
        partly = _incomplete(views, how["views_per_video"], loader, world)
        incomplete = listed_videos(judged.manifest, partly)
        verdict = _verdict(config, judged, views)
        found = Evaluation(
            **vars(verdict),
            **how,
            weights=str(loaded.source),
            num_incomplete=len(incomplete),
            incomplete=incomplete,
            unreadable=unreadable,
        )
        if incomplete:
            log.line(
                f"{len(incomplete)} videos were judged by some of their views alone; "
                "evaluation.json lists them"
            )
        for line in (*class_lines(found), verdict_in_words(found)):
            log.line(line)  # before anything is written: the disk may be full
        if world.is_first:
            _write(found, judged, views, config.output_dir)
    return found


def judge_weights(
    config: RunConfig, world: World, weights: dict[str, torch.Tensor], watcher: Watcher
) -> dict[str, float]:
    """Top-1 and top-5 on `data.val` of a classifier's float32 weights, while it is trained."""
    network = build_classifier(config.model)
    network.load_state_dict(weights)
    judged = judged_by(config)
    with open_views(config, judged, world) as loader:
        views = merge_views(config, network, world, loader, judged, lambda _done: watcher.goes_on())
    found = _verdict(config, judged, views)
    if found.num_unreadable == found.num_videos:
        unreadable = listed_videos(judged.manifest, views.reasons)
        watcher.say(nothing_judged(config.data.val, "videos", unreadable))
    watcher.say(verdict_in_words(found))
    return {"val/top1": found.top1, "val/top5": found.top5}


def _how(config: RunConfig) -> dict[str, Any]:
    """What two evaluations of the same weights can differ by."""
    settings = config.evaluation
    return {
        "data": str(config.data.val),
        "class_map": str(settings.class_map) if settings.class_map else None,
        "views_per_video": settings.num_segments * settings.num_crops,
        "merge": settings.merge,
    }


def _verdict(config: RunConfig, judged: Judged, views: MergedViews) -> Verdict:
    manifest = judged.manifest
    return judge(views.probabilities, manifest.labels, manifest.class_names, config.seed)


def _incomplete(
    views: MergedViews, views_per_video: int, loader: ClipLoader, world: World
) -> dict[int, str]:
    """Why some views of a video could not be read, by row. All ranks must call it."""
    rows = np.flatnonzero((views.num_views > 0) & (views.num_views < views_per_video))
    return dict(zip(rows.tolist(), reasons_of(rows, loader.reasons, world), strict=True))


def _write(found: Evaluation, judged: Judged, views: MergedViews, run: Path) -> None:
    predictions = predictions_csv(judged.manifest, views, found.class_names)
    write_whole(run / "predictions.csv", predictions)
    write_whole(run / "per_class.csv", per_class_csv(found))
    write_whole(run / "evaluation.json", json.dumps(asdict(found), indent=1))
