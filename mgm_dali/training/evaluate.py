"""Multi-view testing: every video is judged by the mean of its views' probabilities."""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.models import LoadReport, build_classifier
from mgm_dali.models.weight_files import newest_weights
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.pipelines.share import Share
from mgm_dali.training.classes import with_num_classes
from mgm_dali.training.heartbeat import watched
from mgm_dali.training.judging import Watcher, autocast
from mgm_dali.training.loading import load_on_all_ranks
from mgm_dali.training.log import RunLog
from mgm_dali.training.world import World, join_world
from mgm_dali.video.manifest import Manifest

__all__ = [
    "Verdict",
    "evaluate",
    "evaluate_network",
    "judge",
    "judge_weights",
    "wilson_interval",
]


@dataclass(frozen=True)
class Verdict:
    """What an evaluation found; kept as RUN/evaluation.json."""

    weights: str
    num_videos: int
    num_unreadable: int
    """Videos of which no view could be read; they count as wrong."""
    views_per_video: int
    top1: float
    top1_low: float
    top1_high: float
    """95% Wilson interval of top-1."""
    top5: float
    chance: float
    confusion: list[list[int]]
    """Videos by [true class][predicted class]."""
    class_names: list[str]


def evaluate(config: RunConfig) -> Verdict:
    """Judges the newest weights of `output_dir`, or `model.init` where it holds none.

    A finetuned run is judged with its own config, whose `model.init` names where it began: taking
    that first would judge the pretrained weights.
    """
    world = join_world(choose_device(config))
    with watched(world, config) as doing:
        config = with_num_classes(config)
        source = world.only_first(lambda: _weights_to_judge(config), config.output_dir)
        classifier = build_classifier(config.model)
        report = load_on_all_ranks(classifier, source, world)
        world.require(_why_not_judged(report, config))
        return evaluate_network(config, classifier, world, report, lambda: doing("judging"))


def _weights_to_judge(config: RunConfig) -> Path:
    run = config.output_dir
    if not any((run / "weights").glob("*.safetensors")):
        if config.model.init is None:
            raise UserError(
                f"{run}: holds no weights to judge; set output_dir to a finetuned run, or "
                "model.init to weights"
            )
        return config.model.init
    newest = newest_weights(run)
    average = newest.with_name(f"{newest.stem}-ema{newest.suffix}")
    # The run's own judgements are of the average, if it has one.
    return average if config.training.ema_decay and average.exists() else newest


def _why_not_judged(report: LoadReport, config: RunConfig) -> str | None:
    if any(key.startswith("head.") for key in report.missing):
        return (
            f"{report.source}: has no classifier head for {config.model.num_classes} classes; "
            "finetune it first, then evaluate the finetuned run"
        )
    return None


def evaluate_network(
    config: RunConfig,
    network: nn.Module,
    world: World,
    loaded: LoadReport,
    goes_on: Callable[[], None],
) -> Verdict:
    """Judges a classifier on `data.val`; writes predictions.csv and evaluation.json.

    `loaded` says where its weights come from; `goes_on` is called behind every batch.
    """
    with (
        _views(config, world) as loader,
        RunLog(config.output_dir, world.rank, len(loader)) as log,
    ):
        log.line(f"evaluating on {loader.manifest.path}; {loader.placement.reason}")
        log.line(f"weights    {loaded}")

        def advance(done: int) -> None:
            goes_on()
            log.advance(done, "views")

        probabilities = _probabilities(config, network, world, loader, advance)
        log.skipped((clip.path, clip.reason) for clip in loader.skipped)
        verdict = judge(probabilities, loader.manifest, config, str(loaded.source))
        if world.is_first:
            output = config.output_dir
            write_whole(output / "evaluation.json", json.dumps(asdict(verdict), indent=1))
            _write_predictions(output / "predictions.csv", probabilities, loader.manifest)
        log.line(_in_words(verdict))
    return verdict


def judge_weights(
    config: RunConfig, world: World, weights: dict[str, torch.Tensor], watcher: Watcher
) -> dict[str, float]:
    """Top-1 and top-5 on `data.val` of a classifier's float32 weights, while it is trained."""
    network = build_classifier(config.model)
    network.load_state_dict(weights)
    with _views(config, world) as loader:
        probabilities = _probabilities(
            config, network, world, loader, lambda _done: watcher.goes_on()
        )
        verdict = judge(probabilities, loader.manifest, config, "training")
    watcher.say(_in_words(verdict))
    return {"val/top1": verdict.top1, "val/top5": verdict.top5}


def _views(config: RunConfig, world: World) -> ClipLoader:
    share = Share(config.evaluation.batch_size, world.rank, world.size)
    return ClipLoader(config, "evaluate", share, needs_motion=False)


def _probabilities(
    config: RunConfig,
    network: nn.Module,
    world: World,
    loader: ClipLoader,
    advance: Callable[[int], None],
) -> NDArray[np.float64]:
    """Mean probabilities `[videos, C]` of all ranks; NaN where no view could be read."""
    network = network.to(world.device).eval()
    sums = world.sum(_summed_views(config, network, loader, advance))
    return _means(sums.cpu().numpy())


def _means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean probabilities `[videos, C]`; NaN where no view could be read."""
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = sums[:, :-1] / sums[:, -1:]
    return means


def _in_words(verdict: Verdict) -> str:
    return (
        f"top-1 {verdict.top1:.1%} (95% interval {verdict.top1_low:.1%} to "
        f"{verdict.top1_high:.1%}), top-5 {verdict.top5:.1%}, chance {verdict.chance:.1%}; "
        f"{verdict.num_videos} videos, {verdict.num_unreadable} of them unreadable"
    )


def _summed_views(
    config: RunConfig, network: nn.Module, loader: ClipLoader, advance: Callable[[int], None]
) -> torch.Tensor:
    """Sum of the softmax of this rank's readable views, and their number: `[videos, C + 1]`.

    Summed by manifest row in float64, so that the order of the views and the number of ranks do
    not matter, and nothing is counted twice or lost.
    """
    device = loader.placement.device
    assert config.model.num_classes is not None
    sums = torch.zeros(len(loader.manifest), config.model.num_classes + 1, dtype=torch.float64)
    sums = sums.to(device)
    for done, batch in enumerate(loader, start=1):
        counted = batch.index >= 0
        counted[loader.replaced] = False
        with torch.inference_mode(), autocast(config, device):
            probability = network(batch.video).double().softmax(-1)
        rows = torch.cat((probability, torch.ones_like(probability[:, :1])), dim=1)
        sums.index_add_(0, batch.index[counted], rows[counted])
        advance(done)
    return sums


def judge(
    probabilities: NDArray[np.float64], manifest: Manifest, config: RunConfig, weights: str
) -> Verdict:
    """Accuracy of `[videos, C]` mean probabilities against the manifest's labels.

    A video of which nothing could be read (a row of NaN) counts as wrong.
    """
    num_classes = probabilities.shape[1]
    readable = ~np.isnan(probabilities[:, 0])
    ranked = np.argsort(-probabilities[readable], axis=1, kind="stable")
    labels = manifest.labels[readable]
    correct = ranked == labels[:, None]
    top1, top5 = int(correct[:, 0].sum()), int(correct[:, :5].sum())
    low, high = wilson_interval(top1, len(manifest))
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, ranked[:, 0]), 1)
    return Verdict(
        weights=weights,
        num_videos=len(manifest),
        num_unreadable=int((~readable).sum()),
        views_per_video=config.evaluation.num_segments * config.evaluation.num_crops,
        top1=top1 / len(manifest),
        top1_low=low,
        top1_high=high,
        top5=top5 / len(manifest),
        chance=1 / num_classes,
        confusion=confusion.tolist(),
        class_names=list(manifest.class_names) or [str(i) for i in range(num_classes)],
    )


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share (Wilson 1927); unlike the normal one it is sound near 0 and 1."""
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def _write_predictions(path: Path, probabilities: NDArray[np.float64], manifest: Manifest) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("path", "label", "predicted", "probability"))
    for row, values in enumerate(probabilities):
        if np.isnan(values[0]):
            outcome: tuple[object, object] = ("", "")
        else:
            best = int(values.argmax())
            outcome = (best, f"{values[best]:.6f}")
        writer.writerow((manifest[row].path, int(manifest.labels[row]), *outcome))
    write_whole(path, table.getvalue())
