"""`mgm-dali demo`: the whole line once, on videos made for it, in a few minutes on two CPU cores.

    videos -> index -> motion store -> pretrain (MGM) -> finetune -> evaluate -> report/index.html

Nothing here is special: every step is the one that its command runs. Started again, the demo goes
on where it stopped.
"""

import json
import os
import time
from pathlib import Path

import numpy as np

from mgm_dali.config import RunConfig
from mgm_dali.data_commands import extract_motion, index_videos, progress_bar, say
from mgm_dali.demo_videos import DEMO_CLASSES, make_demo_videos
from mgm_dali.motion.codec import CODECS_WITH_VECTORS
from mgm_dali.motion.recipe import Recipe
from mgm_dali.report.charts import draw_losses
from mgm_dali.report.options import ShowOptions
from mgm_dali.report.pages import KeyFigure, Picture, Report, Section, Table, write_report
from mgm_dali.report.saving import save_figure
from mgm_dali.report.show import show
from mgm_dali.training.finetune import finetune
from mgm_dali.training.metrics import read_steps
from mgm_dali.training.multi_view import Evaluation
from mgm_dali.training.pretrain import pretrain
from mgm_dali.video.manifest import Manifest, read_manifest

__all__ = ["demo_configs", "run_demo"]

NUM_VIDEOS = 1500
VAL_SHARE = 0.2
SIDE_PIXELS = 64
BATCH_SIZE = 16


def run_demo(out: Path) -> Path:
    """Runs everything below `out`; returns the report's page. Raises what the commands raise."""
    workers = max(1, min(8, len(os.sched_getaffinity(0))))
    started = time.perf_counter()
    say(f"demo: making {NUM_VIDEOS} videos of {len(DEMO_CLASSES)} kinds of motion in {out}")
    with progress_bar("making videos") as advance:
        make_demo_videos(
            out / "videos",
            NUM_VIDEOS,
            seed=0,
            side_pixels=SIDE_PIXELS,
            num_workers=workers,
            progress=advance,
        )
    train, val = out / "videos.csv", out / "videos-val.csv"
    index_videos(out / "videos", train, val_share=VAL_SHARE, num_workers=workers)
    for manifest in (train, val):
        recipe = Recipe(without_vectors="block_matching")
        extract_motion(manifest, out / "motion", recipe, num_workers=workers)
    pretraining, finetuning = demo_configs(out)
    pretrain(pretraining)
    finetune(finetuning)
    page = _write_report(out)
    say(f"demo: done in {time.perf_counter() - started:.0f} s; open {page}")
    return page


def demo_configs(out: Path) -> tuple[RunConfig, RunConfig]:
    """The pretraining and the finetuning run of the demo."""
    common = {
        # NVDEC may refuse frames as small as these.
        "decode": "cpu",
        "data": {
            "train": out / "videos.csv",
            "val": out / "videos-val.csv",
            "motion_store": out / "motion",
            "num_workers": 1,
        },
        "clip": {"stride_frames": 2},
        # Left and right are classes here: no clip may be mirrored.
        "augment": {"crop": "center", "flip": False},
    }
    network = {"name": "vit_micro", "num_frames": 16, "image_size": SIDE_PIXELS}
    optimiser = {
        "precision": "fp32",
        "attention_kernel": "sdpa",  # named: two demos shall agree to the last bit
        "checkpoint_every_steps": 500,
        "keep_checkpoints": 1,
        "log_every_steps": 20,
    }
    pretraining = {
        **common,
        "output_dir": out / "pretrain",
        "mask": {"strategy": "motion_guided", "ratio": 0.75},
        "model": {**network, "decoder_depth": 2},
        "training": {
            **optimiser,
            "epochs": 2,
            "batch_size": BATCH_SIZE,
            "base_lr": 1.6e-2,  # 1e-3 for 16 clips
            "warmup_epochs": 0.2,
        },
    }
    finetuning = {
        **common,
        "output_dir": out / "finetune",
        "model": {**network, "init": out / "pretrain"},
        "training": {
            **optimiser,
            "epochs": 4,
            "batch_size": BATCH_SIZE,
            "base_lr": 3.2e-2,  # 2e-3 for 16 clips
            "warmup_epochs": 0.5,
            "betas": (0.9, 0.999),
        },
        "evaluation": {"num_segments": 2, "num_crops": 1, "batch_size": 32},
    }
    return RunConfig.model_validate(pretraining), RunConfig.model_validate(finetuning)


def _write_report(out: Path) -> Path:
    folder = out / "report"
    verdict = json.loads((out / "finetune" / "evaluation.json").read_text(encoding="utf-8"))
    verdict = Evaluation(**verdict)
    val = read_manifest(out / "videos-val.csv")
    video = ShowOptions(figures=("motion", "masks"), animate="gif")
    show(_clip_for_pictures(val), folder, video)
    pictures = show(out / "pretrain", folder, ShowOptions(figures=("reconstruction",)))
    curves = {name: _loss_curve(out / name / "metrics.jsonl") for name in ("pretrain", "finetune")}
    save_figure(draw_losses({"pretraining": curves["pretrain"]}), folder / "loss.png")
    show(out / "finetune", folder / "finetune")
    report = Report(
        title="Motion-guided masking, once through",
        summary=(
            "A small network was pretrained by hiding what moves and predicting it, then finetuned "
            "to name the motion, on videos made for this page. It shows that every part works "
            "together and learns; it is far too small to compare masks with one another."
        ),
        key_figures=_key_figures(out, verdict),
        sections=(
            _data_section(out),
            _mask_section(),
            _pretraining_section([path.name for path in pictures]),
            _finetuning_section(verdict),
        ),
    )
    return write_report(folder, report)


def _key_figures(out: Path, verdict: Evaluation) -> tuple[KeyFigure, ...]:
    interval = f"95% interval {verdict.top1_low:.0%} to {verdict.top1_high:.0%}"
    runs = {name: read_steps(out / name / "metrics.jsonl") for name in ("pretrain", "finetune")}
    speed = np.median([m["clips_per_second"] for m in runs["finetune"]])
    seconds = {
        name: sum(BATCH_SIZE / m["clips_per_second"] for m in metrics)
        for name, metrics in runs.items()
    }
    return (
        KeyFigure("accuracy", f"{verdict.top1:.0%}", f"{interval}; chance {verdict.chance:.0%}"),
        KeyFigure("test videos", f"{verdict.num_videos}", f"{verdict.views_per_video} views each"),
        KeyFigure("finetuning speed", f"{speed:.0f} clips/s", "decoding, augmentation, training"),
        KeyFigure(
            "training time",
            f"{sum(seconds.values()):.0f} s",
            f"pretraining {seconds['pretrain']:.0f}, finetuning {seconds['finetune']:.0f}",
        ),
    )


def _data_section(out: Path) -> Section:
    manifests = [read_manifest(out / name) for name in ("videos.csv", "videos-val.csv")]
    rows = []
    for codec in sorted({name for manifest in manifests for name in manifest.codec_names}):
        counts = [str(_count(manifest, codec)) for manifest in manifests]
        origin = "the codec's own vectors" if codec in CODECS_WITH_VECTORS else "block matching"
        rows.append((codec, *counts, origin))
    return Section(
        "What the data are",
        "Textured shapes move over textured, drifting backgrounds; the class is the motion alone. "
        "FFmpeg gives no motion vectors of some codecs: there, the motion was estimated. "
        "One file is broken: indexing listed it apart, with the reason, and went on.",
        pictures=(
            Picture("motion.png", "Motion vectors as the codec stored them.", "Frames with arrows"),
            Picture("motion-wheel.png", "The same as colours.", "Frames, and coloured cells"),
        ),
        table=Table(("codec", "training videos", "test videos", "motion from"), tuple(rows)),
    )


def _mask_section() -> Section:
    return Section(
        "What is hidden",
        "Each column is one slice of two frames. Motion-guided masking puts its rectangle over the "
        "strongest motion, its sparse form hides what moves most, and under a warped mask visible "
        "tokens move along; the others do not look at the video.",
        pictures=(
            Picture("masks.png", "Masks of every strategy on one clip.", "Frames under masks"),
            Picture("masks.gif", "The same clip, moving.", "Moving frames under masks"),
        ),
    )


def _pretraining_section(names: list[str]) -> Section:
    reconstructions = tuple(
        Picture(name, "A test clip, what the network saw of it, and what it made.", "Three rows")
        for name in names
        if name.startswith("reconstruction")
    )
    return Section(
        "Pretraining",
        "The loss is the squared error of the hidden patches' normalised pixels; predicting the "
        "mean gives about 1. Brightness and contrast of hidden patches are guessed from visible "
        "ones, not taken from the original.",
        pictures=(Picture("loss.png", "Loss by step.", "A falling curve"), *reconstructions),
    )


def _finetuning_section(verdict: Evaluation) -> Section:
    return Section(
        "Finetuning",
        f"{verdict.num_videos} videos that were never trained on, {verdict.views_per_video} views "
        f"each: {verdict.top1:.1%} right, where guessing gives {verdict.chance:.1%}.",
        pictures=(
            Picture("finetune/loss.png", "Cross-entropy by step.", "A falling curve"),
            Picture("finetune/confusion.png", "Which class is taken for which.", "A matrix"),
            Picture(
                "finetune/attention-0.png", "Where one token looks.", "Frames, and heat on them"
            ),
        ),
    )


def _loss_curve(path: Path) -> tuple[list[float], list[float]]:
    metrics = read_steps(path)
    return [m["step"] for m in metrics], [m["loss"] for m in metrics]


def _clip_for_pictures(manifest: Manifest) -> Path:
    """A test video whose shape crosses the frame."""
    label = manifest.class_names.index("right")
    rows = (manifest[row] for row in np.flatnonzero(manifest.labels == label).tolist())
    return next(video.path for video in rows if video.codec == "h264")


def _count(manifest: Manifest, codec: str) -> int:
    if codec not in manifest.codec_names:
        return 0
    return int((manifest.codecs == manifest.codec_names.index(codec)).sum())
