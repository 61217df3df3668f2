"""The same numbers on a GPU; run by `make test-gpu`."""

import numpy as np
import pytest
import torch

from mgm_dali.config import MaskConfig, RunConfig
from mgm_dali.masking import MASKS, PatchGrid, make_mask
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.pretrain import pretrain

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


@pytest.mark.parametrize("strategy", MASKS)
def test_masks_are_bit_equal_on_both_devices(strategy):
    grid = PatchGrid(8, 14, 14)
    motion = torch.randn(16, 16, 28, 28, 2)
    valid = torch.rand(16, 16) > 0.2
    seed = torch.randint(0, 2**62, (16,))
    config = MaskConfig(strategy=strategy)
    expected = make_mask(motion, valid, seed, grid, config)
    found = make_mask(motion.cuda(), valid.cuda(), seed.cuda(), grid, config)
    assert found.is_cuda and torch.equal(found.cpu(), expected)


def test_augmentation_on_the_gpu_gives_the_batch_of_the_cpu(moving_shapes, tmp_path):
    batches = []
    for device in ("cpu", "cuda"):
        config = config_for(moving_shapes, tmp_path, device=device, decode="cpu")
        batches.append(next(iter(make_loader(config, "pretrain", Share(8)))))
    on_cpu, on_gpu = batches
    assert on_gpu.video.is_cuda and on_gpu.motion.is_cuda
    assert torch.equal(on_gpu.seed.cpu(), on_cpu.seed)
    assert torch.equal(on_gpu.motion_valid.cpu(), on_cpu.motion_valid)
    torch.testing.assert_close(on_gpu.motion.cpu(), on_cpu.motion)
    one_level = 1 / 255 / 0.224
    assert (on_gpu.video.cpu() - on_cpu.video).abs().max() < 1.1 * one_level


def test_nvdec_gives_the_frames_that_pyav_gives(moving_shapes, tmp_path):
    batches = []
    for decode in ("cpu", "nvdec"):
        config = config_for(moving_shapes, tmp_path, device="cuda", decode=decode)
        loader = make_loader(config, "finetune", Share(8))
        batches.append(next(iter(loader)))
        assert not loader.skipped
    by_pyav, by_nvdec = batches
    levels = (by_nvdec.video - by_pyav.video).abs() * 255 * 0.226
    assert levels.mean() < 2  # another frame of the same video is further away than that
    later = by_pyav.video.roll(1, dims=2)
    assert levels.mean() < (by_nvdec.video - later).abs().mean() * 255 * 0.226


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_pretraining_on_the_gpu_learns(moving_shapes, tmp_path, precision):
    config = config_for(moving_shapes, tmp_path / "run", device="cuda", decode="cpu")
    training = config.training.model_copy(update={"precision": precision})
    pretrain(config.model_copy(update={"training": training}))
    losses = [m["loss"] for m in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
