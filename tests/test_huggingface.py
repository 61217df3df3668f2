"""Hugging Face transformers as the judge: its files load here, ours load there, outputs agree."""

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import normal_clip, randomised, tiny_config, uneven_masks
from safetensors.torch import save_file
from torch import Tensor

from mgm_dali.models import Autoencoder, build_autoencoder, build_classifier, load_pretrained
from mgm_dali.models.saving import export_huggingface

transformers = pytest.importorskip("transformers")

CONFIG = tiny_config(num_classes=7)


def huggingface_of(kind: str, **changes: Any) -> Any:
    """A transformers network with vit_micro's sizes and random weights."""
    config = transformers.VideoMAEConfig(
        image_size=64, num_frames=4, hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=512, decoder_num_attention_heads=2, decoder_hidden_size=64,
        decoder_num_hidden_layers=4, decoder_intermediate_size=256, layer_norm_eps=1e-6,
        **changes,
    )  # fmt: skip
    network = randomised(getattr(transformers, kind)(config), seed=3)
    with torch.no_grad():  # a bias on keys has no effect, and VideoMAE's files have none
        for name, parameter in network.named_parameters():
            if name.endswith("key.bias"):
                parameter.zero_()
    return network


def frames_first(video: Tensor) -> Tensor:
    return video.transpose(1, 2)


def test_transformers_autoencoder_loads_and_gives_the_same_outputs(tmp_path: Path) -> None:
    theirs = huggingface_of("VideoMAEForPreTraining", use_mean_pooling=False)
    theirs.save_pretrained(tmp_path)
    ours = build_autoencoder(CONFIG).eval()
    report = load_pretrained(ours, tmp_path)
    assert not report.missing and not report.unused and not report.notes
    video, mask = normal_clip(CONFIG), uneven_masks(CONFIG)
    with torch.no_grad():
        judge = theirs(frames_first(video), bool_masked_pos=mask)
        features = theirs.videomae(frames_first(video), bool_masked_pos=mask).last_hidden_state
        assert (ours.reconstruct(video, mask) - judge.logits).abs().max() < 1e-4
        assert (ours(video, mask) - judge.loss).abs() < 1e-4
        assert (ours.encode(video, mask) - features).abs().max() < 1e-4


def test_transformers_classifier_loads_and_gives_the_same_logits(tmp_path: Path) -> None:
    theirs = huggingface_of("VideoMAEForVideoClassification", num_labels=7)
    theirs.save_pretrained(tmp_path)
    ours = build_classifier(CONFIG).eval()
    report = load_pretrained(ours, tmp_path)
    assert not report.missing and not report.unused and not report.notes
    video = normal_clip(CONFIG)
    with torch.no_grad():
        assert (ours(video) - theirs(frames_first(video)).logits).abs().max() < 1e-4


@pytest.mark.parametrize("build", [build_autoencoder, build_classifier])
def test_transformers_loads_what_we_export_and_gives_the_same_outputs(
    tmp_path: Path, build: Any
) -> None:
    ours = randomised(build(CONFIG))
    export_huggingface(ours, tmp_path)
    video, mask = normal_clip(CONFIG), uneven_masks(CONFIG)
    is_autoencoder = isinstance(ours, Autoencoder)
    kind = "VideoMAEForPreTraining" if is_autoencoder else "VideoMAEForVideoClassification"
    theirs, info = getattr(transformers, kind).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        if isinstance(ours, Autoencoder):
            judge = theirs(frames_first(video), bool_masked_pos=mask)
            assert (ours.reconstruct(video, mask) - judge.logits).abs().max() < 1e-4
        else:
            assert (ours(video) - theirs(frames_first(video)).logits).abs().max() < 1e-4


def test_the_spelling_of_transformers_in_memory_loads_too(tmp_path: Path) -> None:
    theirs = huggingface_of("VideoMAEForPreTraining", use_mean_pooling=False)
    save_file(theirs.state_dict(), tmp_path / "memory.safetensors")
    theirs.save_pretrained(tmp_path)
    by_memory, by_file = build_autoencoder(CONFIG), build_autoencoder(CONFIG)
    assert not load_pretrained(by_memory, tmp_path / "memory.safetensors").missing
    load_pretrained(by_file, tmp_path)
    for key, value in by_file.state_dict().items():
        assert torch.equal(by_memory.state_dict()[key], value)


def test_a_classifier_takes_the_bare_transformers_model(tmp_path: Path) -> None:
    theirs = huggingface_of("VideoMAEModel")
    theirs.save_pretrained(tmp_path)
    report = load_pretrained(build_classifier(CONFIG), tmp_path)
    assert len(report.used) == 4 * 13 + 2 and not report.unused


def test_a_head_that_reads_one_token_is_not_taken(tmp_path: Path) -> None:
    theirs = huggingface_of("VideoMAEForVideoClassification", num_labels=7, use_mean_pooling=False)
    theirs.save_pretrained(tmp_path)
    report = load_pretrained(build_classifier(CONFIG), tmp_path)
    assert report.missing == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert "head reads one token in the file" in str(report)
