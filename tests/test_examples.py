"""The examples run as they stand, and what they give to others is what those expect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mgm_dali.clips.huggingface import huggingface_inputs
from mgm_dali.config import MaskConfig, RunConfig
from mgm_dali.masking import make_mask
from mgm_dali.models import build_autoencoder
from mgm_dali.models.saving import export_huggingface
from mgm_dali.pipelines import Share, make_loader

ROOT = Path(__file__).parents[1]


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    (folder / "configs").symlink_to(ROOT / "configs")  # they run from the checkout's folder
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_plain_loop_goes_through_its_epochs(moving_shapes, tmp_path):
    small = ("model.image_size=64", "model.num_frames=4", "data.num_workers=1")
    said = run(tmp_path, ROOT / "examples/plain_loop.py", moving_shapes, *small)
    lines = said.splitlines()
    assert "PyAV" in lines[0] and len(lines) == 4
    first, *_, last = (float(line.split()[3]) for line in lines[1:])
    assert last < first
    kept = torch.load(tmp_path / "plain_loop.pt", weights_only=True)
    assert kept["loader"]["forward"] == 9  # three epochs of 24 videos, 8 a batch


@pytest.mark.slow
def test_huggingfaces_model_learns_from_our_batches(moving_shapes, tmp_path):
    transformers = pytest.importorskip("transformers")
    # Our models first: they let torchvision be imported where its operators do not fit.
    text = (ROOT / "examples/huggingface_videomae.py").read_text()
    example = tmp_path / "example.py"
    example.write_text(text.replace("import argparse\n", "import argparse, mgm_dali.models\n"))
    said = run(tmp_path, example, moving_shapes, "--steps=3", "--batch-size=4")
    assert len(said.splitlines()) == 3 and "nan" not in said
    classifier = transformers.VideoMAEForVideoClassification
    classifier.from_pretrained(tmp_path / "videomae-mgm", num_labels=8)


def test_huggingfaces_loss_is_ours_on_the_same_batch_and_mask(moving_shapes, tmp_path):
    """With equal weights: so pixels, masks and their token order mean the same to both."""
    transformers = pytest.importorskip("transformers")
    model = {"name": "vit_micro", "num_frames": 4, "image_size": 64}
    config = RunConfig.model_validate(
        {"device": "cpu", "data": {"train": moving_shapes, "num_workers": 0}, "model": model}
    )
    batch = next(iter(make_loader(config, "pretrain", Share(4))))
    torch.manual_seed(0)
    ours = build_autoencoder(config.model)
    export_huggingface(ours, tmp_path)
    theirs = transformers.VideoMAEForPreTraining.from_pretrained(tmp_path)
    mask = make_mask(batch.motion, batch.motion_valid, batch.seed, ours.grid, MaskConfig())
    with torch.no_grad():
        expected = ours(batch.video, mask)
        found = theirs(**huggingface_inputs(batch, mask)).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_classifier_gets_labels_instead_of_a_mask(moving_shapes):
    config = RunConfig.model_validate(
        {
            "device": "cpu",
            "data": {"train": moving_shapes, "num_workers": 0},
            "model": {"name": "vit_micro", "num_frames": 4, "image_size": 64},
        }
    )
    batch = next(iter(make_loader(config, "finetune", Share(3))))
    inputs = huggingface_inputs(batch)
    assert inputs.keys() == {"pixel_values", "labels"}
    assert inputs["pixel_values"].shape == (3, 4, 3, 64, 64)
    assert torch.equal(inputs["pixel_values"][:, 1], batch.video[:, :, 1])
