"""`mgm-dali show`: pictures of a video (motion, masks) or of a run (loss, reconstructions).

Every clip comes through the same pipeline as in training, so the pictures show what the network
sees: motion and masks after crop and resize.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD, ClipBatch
from mgm_dali.config import (
    PATCH_PIXELS,
    TUBELET_FRAMES,
    ClipConfig,
    DataConfig,
    EvaluationConfig,
    MaskConfig,
    ModelConfig,
    MotionConfig,
    RunConfig,
    load_config,
)
from mgm_dali.errors import UserError
from mgm_dali.masking import MASKS, PatchGrid, make_mask
from mgm_dali.models import Autoencoder, build_autoencoder, load_pretrained
from mgm_dali.models.weight_files import newest_weights
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.report.charts import draw_confusion, draw_losses
from mgm_dali.report.draw import cover_hidden, draw_masks, draw_motion, draw_reconstruction
from mgm_dali.report.reconstruction import reconstructed_frames
from mgm_dali.report.saving import beside, save_animation, save_figure
from mgm_dali.training.metrics import read_metrics
from mgm_dali.video.manifest import Video, read_manifest, write_manifest
from mgm_dali.video.reader import probe

__all__ = ["clip_of_video", "show", "show_run", "show_video"]

NUM_CLIPS = 3
"""Clips of a run that are reconstructed."""


def show(source: Path, output: Path, *, seed: int = 0, leak_statistics: bool = False) -> list[Path]:
    """Draws a video file or a run folder into `output`; the files that were written."""
    if (source / "config.yaml").exists():
        return show_run(source, output, seed=seed, leak_statistics=leak_statistics)
    if source.is_dir():
        raise UserError(f"{source}: is neither a video nor a run folder (it has no config.yaml)")
    return show_video(source, output, seed=seed)


def show_video(path: Path, output: Path, *, seed: int = 0) -> list[Path]:
    """motion.png, masks.png and masks.gif of one video.

    Raises `VideoError` if it cannot be read. A codec without vectors has its motion estimated by
    block matching, and the title says so.
    """
    batch, origin = clip_of_video(path, seed)
    frames = frames_of(batch)
    motion, valid = batch.motion[0].numpy(), batch.motion_valid[0].numpy()
    grid = PatchGrid(len(frames) // TUBELET_FRAMES, *(n // PATCH_PIXELS for n in frames.shape[1:3]))
    masks = {name: _mask_array(batch, grid, MaskConfig(strategy=name)) for name in MASKS}
    names = {name.replace("_", " "): mask for name, mask in masks.items()}
    covered = [frames, *(cover_hidden(frames, mask) for mask in masks.values())]
    save_figure(
        draw_motion(frames, motion, valid, f"Motion vectors {origin}"), output / "motion.png"
    )
    save_figure(draw_masks(frames, names, motion), output / "masks.png")
    save_animation(beside(covered), output / "masks.gif")
    return [output / name for name in ("motion.png", "masks.png", "masks.gif")]


def show_run(
    run: Path, output: Path, *, seed: int = 0, leak_statistics: bool = False
) -> list[Path]:
    """loss.png of a run; reconstruction-N.png if it pretrained, confusion.png if it was judged."""
    written = []
    if (run / "metrics.jsonl").exists():
        metrics = read_metrics(run / "metrics.jsonl")
        curve = ([m["step"] for m in metrics], [m["loss"] for m in metrics])
        save_figure(draw_losses({run.name: curve}), output / "loss.png")
        written.append(output / "loss.png")
    if (run / "evaluation.json").exists():
        verdict = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
        figure = draw_confusion(np.array(verdict["confusion"]), verdict["class_names"])
        save_figure(figure, output / "confusion.png")
        written.append(output / "confusion.png")
    weights = newest_weights(run)
    with safe_open(weights, "pt") as file:
        network = (file.metadata() or {}).get("network")
    if network == "autoencoder":
        written += _show_reconstructions(run, output, seed, leak_statistics)
    return written


def _show_reconstructions(run: Path, output: Path, seed: int, leak_statistics: bool) -> list[Path]:
    config = load_config(run / "config.yaml")
    autoencoder = build_autoencoder(config.model).eval()
    load_pretrained(autoencoder, run)
    written = []
    title = f"{config.mask.strategy.replace('_', ' ')}, {config.mask.ratio:.0%} hidden"
    if leak_statistics:
        title += "; brightness and contrast of hidden patches are borrowed from the original"
    for number, batch in enumerate(_clips_of_run(config, seed)):
        figure = draw_reconstruction(
            *_three_rows(autoencoder, batch, config, leak_statistics), title
        )
        path = output / f"reconstruction-{number}.png"
        save_figure(figure, path)
        written.append(path)
    return written


def _three_rows(
    autoencoder: Autoencoder, batch: ClipBatch, config: RunConfig, leak_statistics: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    grid = autoencoder.grid
    mask = make_mask(batch.motion, batch.motion_valid, batch.seed, grid, config.mask)
    with torch.inference_mode():
        made = reconstructed_frames(autoencoder, batch.video, mask, leak_statistics)
    original = frames_of(batch)
    return original, cover_hidden(original, mask.view(grid).numpy()), to_bytes(made[0])


def _clips_of_run(config: RunConfig, seed: int) -> list[ClipBatch]:
    """The middle clips of some videos that the run was to be judged on, or trained on."""
    manifest = config.data.val or config.data.train
    assert manifest is not None, "a run that was trained has a manifest"
    # Manifests are sorted by class: rows far apart show different ones.
    num_videos = len(read_manifest(manifest))
    apart = max(1, num_videos // NUM_CLIPS)
    config = RunConfig(
        seed=seed, data=DataConfig(val=manifest), clip=config.clip, model=config.model
    )
    return [
        _middle_clip(config, row)[0] for row in range(apart // 2, num_videos, apart)[:NUM_CLIPS]
    ]


def clip_of_video(path: Path, seed: int) -> tuple[ClipBatch, str]:
    """A clip from the middle of a video, as a batch of one, and where its motion comes from."""
    facts = probe(path)
    side = min(224, min(facts.width, facts.height) // PATCH_PIXELS * PATCH_PIXELS)
    model = ModelConfig(image_size=max(side, 2 * PATCH_PIXELS))
    stride = max(1, min(4, facts.num_frames // model.num_frames))
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "video.csv"
        write_manifest(manifest, [Video(path=path, label=None, **vars(facts))], ())
        data, clip = DataConfig(val=manifest), ClipConfig(stride_frames=stride)
        batch, source = _middle_clip(RunConfig(seed=seed, data=data, clip=clip, model=model), 0)
    return batch, "of the codec" if source == "codec" else f"by {source} ({facts.codec} has none)"


def _middle_clip(config: RunConfig, row: int) -> tuple[ClipBatch, str | None]:
    """One manifest row's middle clip, as a batch of one, and its motion source: always live.

    Raises `UserError` if the video cannot be read.
    """
    sections = {
        "device": "cpu",
        "decode": "cpu",
        "data": config.data.model_copy(update={"num_workers": 0}),
        "motion": MotionConfig(source="codec", without_vectors="block_matching"),
        "evaluation": EvaluationConfig(num_segments=1, num_crops=1, batch_size=1),
    }
    share = Share(batch_size=1, first_forward=row)
    loader = ClipLoader(config.model_copy(update=sections), "evaluate", share, needs_motion=True)
    batch = next(iter(loader))
    if loader.skipped:
        raise UserError(f"{loader.skipped[0].path}: {loader.skipped[0].reason}")
    return batch, loader.motion_source_of(row)


def frames_of(batch: ClipBatch) -> NDArray[np.uint8]:
    """The first clip of a batch as pictures: uint8 `[T, H, W, 3]`."""
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)
    return to_bytes(batch.video[0] * std + mean)


def to_bytes(video: Tensor) -> NDArray[np.uint8]:
    """`[C, T, H, W]` in [0, 1] as uint8 `[T, H, W, C]`."""
    pixels = (video.clamp(0, 1) * 255).round().to(torch.uint8)
    array: NDArray[np.uint8] = pixels.permute(1, 2, 3, 0).numpy()
    return array


def _mask_array(batch: ClipBatch, grid: PatchGrid, config: MaskConfig) -> NDArray[np.bool_]:
    mask = make_mask(batch.motion, batch.motion_valid, batch.seed, grid, config)
    array: NDArray[np.bool_] = mask.view(grid).numpy()
    return array
