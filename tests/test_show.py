"""Pictures of videos and runs: all are made, and none borrows what the network did not see."""

import numpy as np
import pytest
import torch
from PIL import Image

from mgm_dali.config import ModelConfig, RunConfig
from mgm_dali.demo_videos import make_demo_videos
from mgm_dali.errors import UserError
from mgm_dali.models import build_autoencoder
from mgm_dali.models.patches import patchify
from mgm_dali.report.reconstruction import reconstructed_frames
from mgm_dali.report.show import clip_of_video, frames_of, show
from mgm_dali.training.pretrain import pretrain
from mgm_dali.video.reader import read_frames


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    make_demo_videos(root, 8, seed=2, num_workers=0)
    return root


@pytest.mark.parametrize("pattern", ["h264_*.mp4", "hevc_*.mp4", "vp9_*.webm"])
def test_a_video_of_any_codec_is_drawn(odd_files, tmp_path, pattern):
    path = sorted(odd_files.rglob(pattern))[0]
    written = show(path, tmp_path)
    assert [file.name for file in written] == ["motion.png", "masks.png", "masks.gif"]
    for file in written:
        with Image.open(file) as picture:
            assert min(picture.size) > 100 and np.asarray(picture.convert("L")).std() > 5


def test_a_file_without_vectors_is_drawn_with_estimated_ones_and_says_so(odd_files):
    _, origin = clip_of_video(sorted(odd_files.rglob("hevc_*.mp4"))[0], seed=0)
    assert origin == "by block_matching (hevc has none)"


def test_the_frames_shown_are_the_frames_of_the_file(odd_files):
    path = sorted(odd_files.rglob("h264_*.mp4"))[0]
    batch, origin = clip_of_video(path, seed=0)
    assert origin == "of the codec"
    stride = 36 // 16
    start = int(0.5 * (36 - 16 * stride))
    expected = read_frames(path, [start + stride * number for number in range(16)])
    assert np.abs(frames_of(batch).astype(int) - expected.astype(int)).max() <= 1


def test_a_broken_file_is_a_clear_error(odd_files, tmp_path):
    with pytest.raises(UserError, match=r"broken_00000\.mp4"):
        show(sorted(odd_files.rglob("broken_*.mp4"))[0], tmp_path)


def test_a_run_is_drawn(moving_shapes, tmp_path):
    config = RunConfig.model_validate(
        {
            "output_dir": tmp_path / "run",
            "device": "cpu",
            "data": {"train": moving_shapes, "num_workers": 0},
            "clip": {"stride_frames": 2},
            "model": {"name": "vit_micro", "num_frames": 8, "image_size": 64, "decoder_depth": 1},
            "training": {"max_steps": 2, "batch_size": 4},
        }
    )
    pretrain(config)
    written = {path.name for path in show(tmp_path / "run", tmp_path / "pictures")}
    assert written == {"loss.png", *(f"reconstruction-{number}.png" for number in range(3))}
    assert all((tmp_path / "pictures" / name).stat().st_size > 5000 for name in written)


@pytest.fixture(scope="module")
def hidden_half():
    config = ModelConfig(name="vit_micro", num_frames=4, image_size=64)
    torch.manual_seed(0)
    autoencoder = build_autoencoder(config).eval()
    mask = torch.rand(2, 32, generator=torch.Generator().manual_seed(1)).argsort(1) < 16
    return autoencoder, torch.randn(2, 3, 4, 64, 64), mask


def test_visible_patches_are_shown_as_they_are(hidden_half):
    autoencoder, video, mask = hidden_half
    with torch.inference_mode():
        made = reconstructed_frames(autoencoder, video, mask)
    std, mean = (
        torch.tensor(v).view(3, 1, 1, 1) for v in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406))
    )
    assert torch.allclose(patchify(made)[~mask], patchify(video * std + mean)[~mask], atol=1e-5)


def test_what_is_hidden_does_not_show_unless_it_is_asked_for(hidden_half):
    autoencoder, video, mask = hidden_half
    other = video.clone()
    tokens = mask.view(2, 1, 2, 4, 4).repeat_interleave(2, 2)
    pixels = tokens.repeat_interleave(16, 3).repeat_interleave(16, 4).expand_as(video)
    other[pixels] += 1.0
    with torch.inference_mode():
        honest = [reconstructed_frames(autoencoder, v, mask) for v in (video, other)]
        leaky = [reconstructed_frames(autoencoder, v, mask, True) for v in (video, other)]
    assert torch.equal(*honest)
    assert (leaky[0] - leaky[1]).abs().max() > 0.1
