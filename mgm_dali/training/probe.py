"""Probes: what the features of a frozen encoder are worth, without changing a weight of it.

The features of both splits are computed once by all ranks and kept; then the first rank alone
trains the heads, so that they are the same for any number of ranks.

    RUN/probe.json    each probe: its setting, the held-out accuracy of its grid, its verdict; what
                      could not be read, and why
    RUN/probe.csv     every setting of every grid
"""

import os
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from mgm_dali.config import RunConfig, dump_config
from mgm_dali.config.probe import ProbeConfig
from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.models import BACKBONES
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.training.classes import with_num_classes
from mgm_dali.training.feature_store import FeatureTable
from mgm_dali.training.features import Split, plan_features, splits_of
from mgm_dali.training.frozen import open_encoder
from mgm_dali.training.heartbeat import watched
from mgm_dali.training.log import RunLog
from mgm_dali.training.probe_attentive import attentive_settings, fit_attentive
from mgm_dali.training.probe_choice import Probe, choose, classified, held_out
from mgm_dali.training.probe_data import Examples, Fitting
from mgm_dali.training.probe_knn import fit_knn, knn_settings, with_fewer_neighbours
from mgm_dali.training.probe_linear import fit_linear, linear_settings
from mgm_dali.training.probe_report import (
    ProbeResult,
    setting_in_words,
    unreadable_in_words,
    write_report,
)
from mgm_dali.training.run_folder import run_folder
from mgm_dali.training.verdict import judge, verdict_in_words
from mgm_dali.training.world import join_world
from mgm_dali.video.manifest import Manifest

__all__ = ["PROBES", "probe"]

PROBES: dict[str, Probe[Any]] = {
    "linear": Probe(linear_settings, fit_linear),
    "attentive": Probe(attentive_settings, fit_attentive),
    "knn": Probe(knn_settings, fit_knn),
}
"""Every kind of probe by its name in `probe.kinds`."""
CONSEQUENCES = {"train": "Nothing is learned from them", "val": "They count as wrong"}
LEAST_READABLE = {"train": 2, "val": 1}


def probe(config: RunConfig) -> list[ProbeResult]:
    """Judges the encoder of `model.init` by the probes of `probe.kinds`; writes probe.json.

    Gives nothing on all but the first rank, which are done when the features are. Raises
    `UserError` for whatever a user can mend.
    """
    world = join_world(choose_device(config))
    with watched(world, config) as doing:
        world.require(_why_not_probed(config))
        config = with_num_classes(config)
        splits = splits_of(config)
        # Whether anything can be held out is asked before hours of encoding.
        held_out(splits[0].manifest.labels, config.probe.held_out_share, config.seed)
        with run_folder(config.output_dir, config, world):
            encoder = open_encoder(config, world)
            makers = plan_features(splits, encoder, world, doing)
            total = sum(maker.num_forwards for maker in makers)
            with RunLog(config.output_dir, world.rank, total) as log:
                log.line(f"probing on {splits[1].manifest.path}; {splits[1].placement.reason}")
                log.line(f"weights    {encoder.report}")
                done = 0
                for maker in makers:
                    done = maker.make(log, done, doing)
            if not world.is_first:
                return []
            tables = makers[0].table(), makers[1].table()
            tables[0].hold()
            write_whole(config.output_dir / "config.yaml", dump_config(config))
            return _probed(config, splits, tables, encoder.report.source, doing)


def _why_not_probed(config: RunConfig) -> str | None:
    run = config.output_dir
    if any((run / "weights").glob("*.safetensors")):
        return (
            f"output_dir: {run} holds a training run, and a probe has a folder of its own; set "
            f"output_dir to a new one, and model.init={run} to probe that run's weights"
        )
    if config.evaluation.class_map is not None:
        return (
            "evaluation.class_map: a probe learns the classes of data.train and is judged on the "
            "same; leave it out"
        )
    if config.evaluation.merge != "probabilities":
        return (
            f"evaluation.merge: {config.evaluation.merge}, but probes merge views by the mean of "
            "their probabilities; set it to probabilities"
        )
    width, heads = BACKBONES[config.model.name].width, config.probe.attentive.num_heads
    if "attentive" in config.probe.kinds and width % heads:
        return (
            f"probe.attentive.num_heads: {heads} heads cannot share the {width} channels of "
            f"{config.model.name}; take a divisor of them"
        )
    return None


def _probed(
    config: RunConfig,
    splits: tuple[Split, Split],
    tables: tuple[FeatureTable, FeatureTable],
    weights: Path,
    doing: Callable[[str], None],
) -> list[ProbeResult]:
    """Trains and judges the heads, and writes what came out."""
    assert config.model.num_classes is not None
    results: list[ProbeResult] = []
    with RunLog(config.output_dir, 0, len(config.probe.kinds)) as log:
        for split, table in zip(splits, tables, strict=True):
            if lost := unreadable_in_words(config.output_dir, split, table):
                log.line(f"unreadable {lost}. {CONSEQUENCES[split.name]}; probe.json lists them")
            if len(table.readable_rows) < LEAST_READABLE[split.name]:
                raise UserError(f"{split.manifest.path}: too few videos are left: {lost}")
        if shared := _shared_videos(splits):
            log.line(
                f"leak       {shared} of {len(tables[1])} videos of val are in train too: what is "
                "found on them is no measure of the features"
            )
        rows = tables[0].readable_rows
        examples = Examples(tables[0], rows, splits[0].manifest.labels[rows])
        grids = _with_neighbours_there(config, examples, log)
        for kind in config.probe.kinds:
            fitting = Fitting(
                grids,
                config.model.num_classes,
                config.seed,
                splits[0].placement.device,
                partial(_move, log, doing, kind, len(results), count(1)),
            )
            settings = len(PROBES[kind].settings(grids))
            log.line(f"{kind:<10} {settings} setting(s), {len(examples)} videos to learn from")
            result = _one(kind, examples, splits[1].manifest, tables[1], fitting)
            results.append(result)
            log.line(
                f"{kind:<10} {setting_in_words(result.setting)}: the best on "
                f"{result.choice.num_held_out} of them that were held out, top-1 "
                f"{result.held_out_top1:.1%}"
            )
            log.line(f"{kind:<10} on val {verdict_in_words(result.verdict)}")
            write_report(config.output_dir, weights, splits, tables, results)
        log.line(f"written    {config.output_dir / 'probe.json'} and probe.csv")
    return results


def _move(
    log: RunLog, doing: Callable[[str], None], kind: str, done: int, steps: "count[int]"
) -> None:
    """A step of a probe is done, behind so many whole probes."""
    log.advance(done, f"{kind} probe, step {next(steps)}")
    doing(f"training the {kind} probe")


def _shared_videos(splits: tuple[Split, Split]) -> int:
    """Videos of val that are learned from, by their files."""
    learned = {os.path.normpath(video.path) for video in splits[0].manifest}
    return sum(os.path.normpath(video.path) in learned for video in splits[1].manifest)


def _with_neighbours_there(config: RunConfig, train: Examples, log: RunLog) -> ProbeConfig:
    """No more neighbours than can vote while settings are chosen: so many vote on val too."""
    kept_back = held_out(train.labels, config.probe.held_out_share, config.seed)
    num_learned = len(train) - int(kept_back.sum())
    most = max(config.probe.knn.neighbours)
    if "knn" in config.probe.kinds and most > num_learned:
        log.line(
            f"knn        probe.knn.neighbours asks for {most}, and {num_learned} videos are there "
            f"beside those held out: {num_learned} vote"
        )
    return with_fewer_neighbours(config.probe, num_learned)


def _one(
    kind: str, train: Examples, judged: Manifest, val: FeatureTable, fitting: Fitting
) -> ProbeResult:
    """Chooses on a part of train, trains on all of it; labels of val are seen by `judge` alone."""
    choice = choose(PROBES[kind], train, fitting)
    classify = PROBES[kind].fit([choice.settings[choice.best]], train, fitting)
    probabilities = classified(classify, val, fitting.num_classes, fitting.goes_on)
    verdict = judge(probabilities, judged.labels, judged.class_names, fitting.seed)
    return ProbeResult(kind, choice, verdict)
