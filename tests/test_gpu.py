"""The same numbers on a GPU; run by `make test-gpu`."""

import copy
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_motion import KINDS, MASK_CONFIGS, Made, holes, seeds
from networks import normal_clip, tiny_config, uneven_masks
from rewritten_videos import STAMPS, rewrite
from videos import Clip

from mgm_dali.config import RunConfig
from mgm_dali.masking import PatchGrid, decoded_tokens, make_mask
from mgm_dali.models import BACKBONES, build_autoencoder
from mgm_dali.models.kernels import (
    ATTENTION_KERNELS,
    AttentionShape,
    measure_kernels,
    why_unusable,
)
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.pipelines.erasing import erase
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.pretrain import pretrain
from mgm_dali.video.manifest import Video, write_manifest
from mgm_dali.video.reader import probe

pytestmark = pytest.mark.gpu


def config_for(manifest, output, **settings):
    return RunConfig.model_validate(
        {
            "output_dir": output,
            "data": {"train": manifest, "num_workers": 1},
            "clip": {"stride_frames": 2},
            "model": {"name": "vit_micro", "num_frames": 8, "image_size": 64, "decoder_depth": 1},
            "training": {"max_steps": 12, "batch_size": 8, "base_lr": 0.05},
            **settings,
        }
    )


GRID = PatchGrid(8, 14, 14)


def masks(made, seed, config):
    """What is hidden, and half of it, which is predicted."""
    mask = make_mask(made.motion, made.valid, seed, GRID, config, made.known)
    return mask, decoded_tokens(mask, seed, GRID, 8 * 147 // 2)


def on_gpu(made):
    return Made(*(field.cuda() for field in made))


@contextmanager
def no_waiting():
    """The host must not wait for the device. torch says once that it may miss some waiting."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode", UserWarning)
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", MASK_CONFIGS.values(), ids=MASK_CONFIGS)
def test_masks_are_bit_equal_on_both_devices(config, kind):
    made, seed = KINDS[kind](GRID, 16), seeds(16)
    expected = masks(made, seed, config)
    found = masks(on_gpu(made), seed.cuda(), config)
    with torch.autocast("cuda", torch.bfloat16):
        mixed = masks(on_gpu(made), seed.cuda(), config)
    for on_cpu, one, other in zip(expected, found, mixed, strict=True):
        assert one.is_cuda and torch.equal(one.cpu(), on_cpu) and torch.equal(one, other)


@pytest.mark.parametrize("config", MASK_CONFIGS.values(), ids=MASK_CONFIGS)
def test_masks_do_not_wait_for_the_gpu(config):
    made, seed = on_gpu(holes(GRID, 16)), seeds(16).cuda()
    with no_waiting():
        masks(made, seed, config)


@pytest.mark.parametrize("config", MASK_CONFIGS.values(), ids=MASK_CONFIGS)
def test_masks_compiled_for_the_gpu_are_bit_equal(config):
    torch.compiler.reset()
    compiled = torch.compile(masks, fullgraph=True, dynamic=False)
    made, seed = holes(GRID, 16), seeds(16)
    found, expected = compiled(on_gpu(made), seed.cuda(), config), masks(made, seed, config)
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))


def test_augmentation_on_the_gpu_gives_the_batch_of_the_cpu(moving_shapes, tmp_path):
    batches = []
    for device in ("cpu", "cuda"):
        config = config_for(moving_shapes, tmp_path, device=device, decode="cpu")
        batches.append(next(iter(make_loader(config, "pretrain", Share(8)))))
    on_cpu, on_gpu = batches
    assert on_gpu.video.is_cuda and on_gpu.motion.is_cuda
    assert torch.equal(on_gpu.seed.cpu(), on_cpu.seed)
    assert torch.equal(on_gpu.motion_valid.cpu(), on_cpu.motion_valid)
    assert torch.equal(on_gpu.motion_known.cpu(), on_cpu.motion_known)
    torch.testing.assert_close(on_gpu.motion.cpu(), on_cpu.motion)
    one_level = 1 / 255 / 0.224
    assert (on_gpu.video.cpu() - on_cpu.video).abs().max() < 1.1 * one_level


H264 = Clip(width=192, height=128, num_frames=40, start=(8, 8), velocity=(2, 1), pan=(3, 2))
WITH_B = replace(H264, b_frames=3, refs=4)
FILES = {
    "one reference": (H264, "mp4", ""),
    "B-frames": (WITH_B, "mp4", ""),
    "open groups": (replace(WITH_B, options=(("x264-params", "open-gop=1"),)), "mp4", ""),
    "one group": (replace(WITH_B, gop=250), "mp4", ""),
    "edit list": (WITH_B, "mp4", "starts before 0"),
    "late start": (WITH_B, "mp4", "starts late"),
    "variable rate": (WITH_B, "mp4", "variable rate"),
    "mkv": (WITH_B, "mkv", ""),
    "mkv of 30 frames a second": (WITH_B, "mkv", "30 frames a second"),
    "mkv of variable rate": (WITH_B, "mkv", "variable rate"),
    "mov": (WITH_B, "mov", ""),
    "ts": (WITH_B, "ts", ""),
    "ts of variable rate": (WITH_B, "ts", "variable rate"),
    "320x256": (replace(WITH_B, width=320, height=256), "mp4", ""),
    "340x256": (replace(WITH_B, width=340, height=256), "mp4", ""),
    "162x114": (replace(WITH_B, width=162, height=114, velocity=(1, 0)), "mp4", ""),
    "5 frames": (replace(WITH_B, num_frames=5), "mp4", ""),
}
"""Clip, the container it is copied into, and what becomes of its time stamps."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A manifest with a row for each."""
    folder = tmp_path_factory.mktemp("h264")
    rows = []
    for number, (clip, container, stamp) in enumerate(FILES.values()):
        path = folder / f"{number}.{container}"
        rewrite(clip.path(), path, STAMPS.get(stamp, lambda seconds: seconds))
        rows.append(Video(path=path, label=0, **vars(probe(path))))
    write_manifest(folder / "videos.csv", rows, ["any"])
    return folder / "videos.csv"


@pytest.fixture(scope="module", params=[1, 4, 12], ids="stride {}".format)
def pyav_and_nvdec(request, files, tmp_path_factory):
    """One batch from either decoder, all files in each, by row, and what was skipped."""
    batches, skipped = [], []
    for decode in ("cpu", "nvdec"):
        settings = {"device": "cuda", "decode": decode, "clip": {"stride_frames": request.param}}
        settings["data"] = {"train": files, "num_workers": 1, "max_skipped": 1.0}
        config = config_for(files, tmp_path_factory.mktemp(decode), **settings)
        with make_loader(config, "finetune", Share(len(FILES))) as loader:
            batch = next(iter(loader))
            skipped += loader.skipped
        batches.append(batch.video[batch.index.argsort()])
    return batches, {clip.index: clip.reason for clip in skipped}


@pytest.mark.parametrize("name", FILES)
def test_nvdec_gives_the_frames_that_pyav_gives(pyav_and_nvdec, name):
    row, (videos, skipped) = list(FILES).index(name), pyav_and_nvdec
    assert row not in skipped, skipped[row]
    pyav, nvdec = (video[row] * 255 * 0.226 for video in videos)
    assert (nvdec - pyav).abs().mean() < 1.5, "levels of 255"
    shown = 5 if name == "5 frames" else pyav.shape[1]
    for frame in range(pyav.shape[1]):
        same = (nvdec[:, frame] - pyav[:, frame]).abs().mean()
        for other in {frame - 1, frame + 1} & set(range(shown)):
            neighbour = (nvdec[:, frame] - pyav[:, other]).abs().mean()
            if not torch.equal(pyav[:, frame], pyav[:, other]):  # the last frame is repeated
                assert neighbour > 4 * same, f"frame {frame} of the clip looks like {other}"


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16"},
        {"precision": "fp32"},
        {"precision": "fp16"},
        {"precision": "bf16", "compile": True},
        {"precision": "bf16", "checkpoint_activations": True},
        {"precision": "bf16", "zero_stage": 0},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_pretraining_on_the_gpu_learns(moving_shapes, tmp_path, settings):
    config = config_for(moving_shapes, tmp_path / "run", device="cuda", decode="cpu")
    training = config.training.model_copy(update=settings)
    pretrain(config.model_copy(update={"training": training}))
    losses = [m["loss"] for m in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize("name", BACKBONES)
def test_losses_and_gradients_are_those_of_the_cpu(name):
    config = tiny_config(name)
    torch.manual_seed(0)
    host = build_autoencoder(config)
    device = copy.deepcopy(host).cuda()
    video, mask = normal_clip(config), uneven_masks(config)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # a convolution's default
        losses = host(video, mask), device(video.cuda(), mask.cuda()).cpu()
        torch.testing.assert_close(losses[1], losses[0], atol=1e-3, rtol=1e-3)
        for loss in losses:
            loss.backward()
    for one, other in zip(host.parameters(), device.parameters(), strict=True):
        torch.testing.assert_close(other.grad.cpu(), one.grad, atol=1e-3, rtol=1e-2)


def test_a_forward_pass_and_erasing_do_not_wait_for_the_gpu():
    config = tiny_config()
    network, video = build_autoencoder(config).cuda(), normal_clip(config).cuda()
    mask, seed = uneven_masks(config).cuda(), seeds(len(video)).cuda()
    num_hidden = int(mask[0].sum())
    with no_waiting():
        network(erase(video, seed, 0.5), mask, num_hidden)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_kernel_that_can_be_used_gives_the_same_attention(dtype):
    cuda = torch.device("cuda")
    q, k, v = torch.randn(3, 2, 4, 64, 64, device=cuda).to(dtype)
    expected = ATTENTION_KERNELS["plain"](q.double(), k.double(), v.double(), None)
    usable = [name for name in ATTENTION_KERNELS if why_unusable(name, dtype, cuda) is None]
    assert {"sdpa", "plain", "float32"} <= set(usable)
    assert dtype == torch.float32 or "flash" in usable
    for name in usable:
        found = ATTENTION_KERNELS[name](q, k, v, None).double()
        torch.testing.assert_close(found, expected, atol=2e-2, rtol=0, msg=name)
    chosen, times = measure_kernels((AttentionShape(1, 2, 4, 64, 64),), dtype, cuda)
    assert chosen in usable and set(times) <= set(ATTENTION_KERNELS)
