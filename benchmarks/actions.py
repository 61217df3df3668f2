"""What pretraining is worth on a few real videos: nothing, tubes, or masks that follow motion.

    python benchmarks/actions.py VIDEOS --train "set1_*" --out runs/actions --json numbers.json

VIDEOS has a folder for each class. Videos whose name matches --train are pretrained and finetuned
on, all others are judged, by nothing but the end of each run. Every start has the same network,
clips, steps, finetuning, probes and seeds; masks that show more tokens cost more for each step.
What is done already below --out is not done again.

Intervals hold 95% of the means over videos drawn anew from those judged (bootstrap), with the mean
of the seeds for each video; that of a difference is of the same videos under both.
"""

import argparse
import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from command import add_number_options, parse, run
from intervals import interval
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mgm_dali.config import RunConfig
from mgm_dali.data_commands import extract_motion, index_videos, prepare_videos
from mgm_dali.errors import UserError
from mgm_dali.motion.recipe import Recipe
from mgm_dali.runs.status import read_status
from mgm_dali.training.finetune import finetune
from mgm_dali.training.pretrain import pretrain
from mgm_dali.training.probe import probe
from mgm_dali.video.manifest import read_manifest, write_manifest
from mgm_dali.video.transcoding import TranscodeSettings

SCRATCH = "from scratch"
STARTS: dict[str, dict[str, Any] | None] = {
    SCRATCH: None,
    "tube 0.9": {"strategy": "tube", "ratio": 0.9},
    "tube 0.75": {"strategy": "tube", "ratio": 0.75},
    "motion_guided 0.75": {"strategy": "motion_guided", "ratio": 0.75},
}
"""What is compared, as options of `mask`; VideoMAE's ratio is 0.9, the paper's 0.75."""
PROBES = ("linear", "knn")
FREE_OPTIONS = ("out", "seeds", "json")
"""May change from one call to the next with the same --out."""
BATCH_SIZE, REPEATS = 8, 4
"""Few videos make few steps, so batches are small: 2 videos, each decoded once and cut 4 times."""
BASE_LR = 9e-2  # 7e-4 for 2 videos

Floats = NDArray[np.float64]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Lists:
    """The videos, made ready for training."""

    train: Path
    val: Path
    store: Path


@dataclass(frozen=True)
class Outcome:
    """What one start and seed came to."""

    correct: Floats
    """Of the finetuned network, 1 for each video that it judges rightly, else 0: `[V]`."""
    probes: Mapping[str, float]
    """Top-1 of each probe of the pretrained encoder; none from scratch."""


def main() -> None:
    """Reads the options, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("videos", type=Path, help="a folder for each class")
    parser.add_argument("--train", required=True, help="pattern of the names that are trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--model", default="vit_micro")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--stride", type=int, default=6, help="frames from one to the next")
    parser.add_argument(
        "--pretrain-epochs", type=int, default=40, help="each shows a video 4 times"
    )
    parser.add_argument("--finetune-epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    add_number_options(parser)
    counts = ("frames", "stride", "pretrain_epochs", "finetune_epochs", "seeds")
    run(parse(parser, counts), _measure)


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    del folder  # what takes an hour is kept
    _require_same_options(options)
    lists = _lists(options.videos, options.train, options.out)
    found = {
        start: [_outcome(start, seed, lists, options) for seed in range(options.seeds)]
        for start in STARTS
    }
    correct = {start: np.mean([o.correct for o in seeds], axis=0) for start, seeds in found.items()}
    rows = []
    for start, seeds in found.items():
        own = correct[start]
        rows.append(
            {
                "start": start,
                "finetuned": _mean_and_interval(own),
                "finetuned_seeds": [float(outcome.correct.mean()) for outcome in seeds],
                "more_than": {
                    other: _mean_and_interval(own - its) for other, its in correct.items()
                },
                "probes_seeds": {
                    kind: [o.probes[kind] for o in seeds if o.probes] for kind in PROBES
                },
            }
        )
    console.print(_table(rows, len(correct[SCRATCH])))
    return {"rows": rows}


def _lists(videos: Path, pattern: str, out: Path) -> Lists:
    """Manifests of small H.264 files and their motion, made once."""
    index_videos(videos, out / "all.csv")
    everything = read_manifest(out / "all.csv")
    for name, is_train in (("train", True), ("val", False)):
        chosen = [v for v in everything if fnmatchcase(v.path.name, pattern) == is_train]
        if not chosen:
            raise UserError(f"--train {pattern}: leaves no videos for {name}")
        write_manifest(out / f"{name}.csv", chosen, everything.class_names)
        prepare_videos(out / f"{name}.csv", out / name, TranscodeSettings(short_side=128))
        extract_motion(out / name / "videos.csv", out / "motion", Recipe())
    return Lists(out / "train" / "videos.csv", out / "val" / "videos.csv", out / "motion")


def _outcome(start: str, seed: int, lists: Lists, options: argparse.Namespace) -> Outcome:
    folder = options.out / start.replace(" ", "-") / f"seed-{seed}"
    network = {"name": options.model, "num_frames": options.frames}
    network["image_size"] = options.image_size
    common: Settings = {
        "seed": seed,
        "data": {
            "train": lists.train,
            "val": lists.val,
            "motion_store": lists.store,
            "num_workers": 1,
        },
        "clip": {"stride_frames": options.stride},
        "model": network,
        "training": {
            "batch_size": BATCH_SIZE,
            "base_lr": BASE_LR,
            "precision": "fp32",
            "log_every_steps": 100,
            "keep_checkpoints": 1,
        },
        "evaluation": {"num_segments": 3, "num_crops": 3, "batch_size": 20},
    }
    probes: dict[str, float] = {}
    if mask := STARTS[start]:
        _once(pretrain, _pretraining(common, mask, folder, options))
        network["init"] = folder / "pretrain"
        probes = _probed(common, folder)
    _once(finetune, _finetuning(common, folder, options))
    with (folder / "finetune" / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    correct = np.array([row["predicted"] == row["label"] for row in rows], np.float64)
    return Outcome(correct, probes)


def _once(stage: Callable[[RunConfig], Path], settings: Settings) -> None:
    """Runs a stage unless it is done; one that was interrupted goes on."""
    status = read_status(Path(settings["output_dir"]))
    if status is None or status.state != "finished":
        stage(RunConfig.model_validate(settings))


def _require_same_options(options: argparse.Namespace) -> None:
    """What lies below --out must be of the same options: it is not made anew."""
    known = options.out / "options.json"
    now = {name: str(value) for name, value in vars(options).items() if name not in FREE_OPTIONS}
    if known.exists() and (then := json.loads(known.read_text(encoding="utf-8"))) != now:
        changed = sorted(name for name in then | now if then.get(name) != now.get(name))
        raise UserError(
            f"{options.out}: was begun with another {', '.join(changed)}; name another --out"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(now), encoding="utf-8")


def _pretraining(
    common: Settings, mask: Settings, folder: Path, options: argparse.Namespace
) -> Settings:
    epochs = options.pretrain_epochs
    return {
        **common,
        "output_dir": folder / "pretrain",
        "augment": {"crop": "multi_scale", "flip": True, "repeats": REPEATS},
        "mask": mask,
        "model": {**common["model"], "decoder_depth": 2},
        "training": {**common["training"], "epochs": epochs, "warmup_epochs": epochs / 10},
    }


def _finetuning(common: Settings, folder: Path, options: argparse.Namespace) -> Settings:
    epochs = options.finetune_epochs
    rates = {"betas": (0.9, 0.999), "layer_decay": 0.9}
    return {
        **common,
        "output_dir": folder / "finetune",
        # Mixing and erasing, which the family does, leave too little to learn from of so few.
        "augment": {"crop": "random_resized", "min_area": 0.5, "flip": True, "repeats": REPEATS}
        | {"label_smoothing": 0.1},
        "training": {**common["training"], **rates, "epochs": epochs, "warmup_epochs": epochs / 10},
    }


def _probed(common: Settings, folder: Path) -> dict[str, float]:
    report = folder / "probe" / "probe.json"
    if not report.exists() or {each["kind"] for each in _probes_in(report)} != set(PROBES):
        settings = {"output_dir": folder / "probe", "probe": {"kinds": PROBES}}
        probe(RunConfig.model_validate({**common, **settings}))
    return {each["kind"]: float(each["val"]["top1"]) for each in _probes_in(report)}


def _probes_in(report: Path) -> list[dict[str, Any]]:
    """Those that are done: the report is written anew after each."""
    found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["probes"]
    return found


def _mean_and_interval(values: Floats) -> tuple[float, float, float]:
    return (float(values.mean()), *interval(values))


def _table(rows: list[dict[str, Any]], num_videos: int) -> Table:
    table = Table(title=f"top-1 on {num_videos} videos", title_justify="left")
    for name in ("", "finetuned", "each seed", f"more than {SCRATCH}", "linear probe", "kNN"):
        table.add_column(name)
    for row in rows:
        mean, low, high = row["finetuned"]
        gain, least, most = row["more_than"][SCRATCH]
        table.add_row(
            row["start"],
            f"{mean:.1%} ({low:.1%} to {high:.1%})",
            _percents(row["finetuned_seeds"]),
            "" if row["start"] == SCRATCH else f"{gain:+.1%} ({least:+.1%} to {most:+.1%})",
            *(_percents(row["probes_seeds"][kind]) for kind in PROBES),
        )
    return table


def _percents(values: list[float]) -> str:
    return ", ".join(f"{value:.1%}" for value in values)


if __name__ == "__main__":
    main()
