"""Hugging Face transformers as the judge: its files load here, ours load there, numbers agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import normal_clip, randomised, tiny_config, uneven_masks
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.config import ModelConfig
from mgm_dali.models import (
    BACKBONES,
    Autoencoder,
    build_autoencoder,
    build_classifier,
    load_pretrained,
)
from mgm_dali.models.huggingface import from_huggingface, huggingface_config, loses_biases
from mgm_dali.models.saving import export_huggingface, official_state
from mgm_dali.models.written_for import WeightsError, _HuggingFace

transformers = pytest.importorskip("transformers")
assert not loses_biases(transformers.__version__), (
    f"transformers {transformers.__version__} reads VideoMAE's files without their biases, and is "
    "no judge: install one before 5.5 or after 5.17"
)

EVERY_SIZE = [
    pytest.param(name, marks=pytest.mark.slow) if size.width > 400 else name
    for name, size in BACKBONES.items()
    # Two of vit_huge with their gradients take more memory than a laptop has.
    if not size.learned_positions and name != "vit_huge"
]
CONFIG = tiny_config(num_classes=7)


def huggingface_of(kind: str, config: ModelConfig = CONFIG, **changes: Any) -> Any:
    """A transformers network of the same sizes with random weights, none of them 0 or 1."""
    is_classifier = kind == "VideoMAEForVideoClassification"
    tree = huggingface_config(config, config.num_classes if is_classifier else None) | changes
    tree = {key: value for key, value in tree.items() if key not in ("model_type", "architectures")}
    torch.manual_seed(3)
    network = getattr(transformers, kind)(transformers.VideoMAEConfig(**tree))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
            if name.endswith("key.bias"):  # has no effect, and VideoMAE's files have none
                parameter.zero_()
    return network.eval()


def frames_first(video: Tensor) -> Tensor:
    return video.transpose(1, 2)


def require_equal_gradients(ours: Any, theirs: nn.Module) -> None:
    """Every parameter's gradient, theirs by our names."""
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    named = dict(ours.named_parameters())
    expected = from_huggingface(gradients)
    prefix = "" if isinstance(ours, Autoencoder) else "encoder."
    assert expected.keys() == {
        name if name.startswith(("fc_norm", "head")) else prefix + name for name in named
    }
    for name, parameter in named.items():
        known = name if name in expected else prefix + name
        difference = (parameter.grad - expected[known]).abs().max()
        assert difference < 1e-4 and difference < 1e-3 * expected[known].abs().max(), name


@pytest.mark.parametrize("name", EVERY_SIZE)
def test_transformers_autoencoder_loads_and_gives_the_same_numbers(
    tmp_path: Path, name: str
) -> None:
    config = tiny_config(name)
    theirs = huggingface_of("VideoMAEForPreTraining", config)
    theirs.save_pretrained(tmp_path)
    ours = build_autoencoder(config).eval()
    report = load_pretrained(ours, tmp_path)
    assert not report.missing and not report.unused and not report.notes
    video, mask = normal_clip(config), uneven_masks(config)
    judge = theirs(frames_first(video), bool_masked_pos=mask)
    loss = ours(video, mask)
    loss.backward()
    judge.loss.backward()
    with torch.no_grad():
        features = theirs.videomae(frames_first(video), bool_masked_pos=mask).last_hidden_state
        assert (ours.reconstruct(video, mask) - judge.logits).abs().max() < 1e-4
        assert (loss - judge.loss).abs() < 1e-4
        assert (ours.encode(video, mask) - features).abs().max() < 1e-4
    require_equal_gradients(ours, theirs)


@pytest.mark.parametrize("name", EVERY_SIZE)
def test_transformers_classifier_loads_and_gives_the_same_numbers(
    tmp_path: Path, name: str
) -> None:
    config = tiny_config(name, num_classes=7)
    theirs = huggingface_of("VideoMAEForVideoClassification", config)
    theirs.save_pretrained(tmp_path)
    ours = build_classifier(config).eval()
    report = load_pretrained(ours, tmp_path)
    assert not report.missing and not report.unused and not report.notes
    video, labels = normal_clip(config), torch.tensor([1, 4])
    logits = ours(video)
    judge = theirs(frames_first(video), labels=labels)
    nn.functional.cross_entropy(logits, labels).backward()
    judge.loss.backward()
    assert (logits - judge.logits).abs().max() < 1e-4
    require_equal_gradients(ours, theirs)


@pytest.mark.parametrize("name", EVERY_SIZE)
@pytest.mark.parametrize("build", [build_autoencoder, build_classifier])
def test_transformers_loads_what_we_export_and_gives_the_same_outputs(
    tmp_path: Path, build: Any, name: str
) -> None:
    config = tiny_config(name, num_classes=7)
    torch.manual_seed(1)
    ours = build(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    export_huggingface(ours, tmp_path)
    video, mask = normal_clip(config), uneven_masks(config)
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


def test_the_exported_folder_prepares_clips_as_ours_are(tmp_path: Path) -> None:
    export_huggingface(build_autoencoder(CONFIG), tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    seen = processor([frame] * 4, return_tensors="pt")["pixel_values"]
    assert list(seen.shape) == [1, 4, 3, 64, 64]
    ours = (torch.tensor(frame) / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert (seen[0, 0] - ours.permute(2, 0, 1)).abs().max() < 1e-5


def test_the_spelling_of_transformers_in_memory_loads_too(tmp_path: Path) -> None:
    theirs = huggingface_of("VideoMAEForPreTraining")
    save_file(theirs.state_dict(), tmp_path / "memory.safetensors")
    theirs.save_pretrained(tmp_path)
    by_memory, by_file = build_autoencoder(CONFIG), build_autoencoder(CONFIG)
    report = load_pretrained(by_memory, tmp_path / "memory.safetensors")
    assert not report.missing
    assert "key.bias" in str(report) or not any("key.bias" in name for name in theirs.state_dict())
    load_pretrained(by_file, tmp_path)
    for key, value in by_file.state_dict().items():
        assert torch.equal(by_memory.state_dict()[key], value)


def test_a_classifier_takes_the_bare_transformers_model(tmp_path: Path) -> None:
    theirs = huggingface_of("VideoMAEModel", use_mean_pooling=True)
    theirs.save_pretrained(tmp_path)
    report = load_pretrained(build_classifier(CONFIG), tmp_path)
    assert len(report.used) == 4 * 13 + 2 and not report.unused


def test_a_head_that_reads_one_token_is_not_taken(tmp_path: Path) -> None:
    theirs = huggingface_of("VideoMAEForVideoClassification", use_mean_pooling=False)
    theirs.save_pretrained(tmp_path)
    report = load_pretrained(build_classifier(CONFIG), tmp_path)
    assert report.missing == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert "head (2): reads one token in the file" in str(report)


def test_a_decoder_that_read_tokens_without_a_norm_is_refused(tmp_path: Path) -> None:
    huggingface_of("VideoMAEForPreTraining", use_mean_pooling=True).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="has a decoder but no last norm of the encoder"):
        load_pretrained(build_autoencoder(CONFIG), tmp_path)
    load_pretrained(build_classifier(CONFIG), tmp_path)  # reads no decoder


def test_the_epsilon_of_published_files_changes_outputs_by_less_than_the_note_says(
    tmp_path: Path,
) -> None:
    theirs = huggingface_of("VideoMAEForPreTraining", layer_norm_eps=1e-12)
    theirs.save_pretrained(tmp_path)
    ours = build_autoencoder(CONFIG).eval()
    report = load_pretrained(ours, tmp_path)
    assert "layer_norm_eps is 1e-12, 1e-06 here" in str(report)
    video, mask = normal_clip(CONFIG), uneven_masks(CONFIG)
    with torch.no_grad():
        judge = theirs(frames_first(video), bool_masked_pos=mask)
        assert (ours.reconstruct(video, mask) - judge.logits).abs().max() < 1e-4


def test_what_a_description_leaves_out_is_as_in_transformers() -> None:
    judge = transformers.VideoMAEConfig()
    unasked = {"transformers_version", "qkv_bias"}  # newer ones have no choice of the second
    for key, value in _HuggingFace().model_dump(exclude=unasked).items():
        assert value == getattr(judge, key), key


@pytest.mark.parametrize("key", ["tubelet_size", "patch_size", "qkv_bias"])
def test_layers_that_every_network_here_has_are_required(tmp_path: Path, key: str) -> None:
    export_huggingface(build_autoencoder(CONFIG), tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    changed = tree | {key: {"tubelet_size": 4, "patch_size": [16, 8], "qkv_bias": False}[key]}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(WeightsError, match=rf"config\.json: {key} is .*, every network here has"):
        load_pretrained(build_autoencoder(CONFIG), tmp_path)


@pytest.mark.parametrize("name", ["query.bias", "q_bias"])
def test_two_spellings_of_one_bias_are_refused(tmp_path: Path, name: str) -> None:
    export_huggingface(build_autoencoder(CONFIG), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    block = "videomae.encoder.layer.0.attention.attention."
    tensors[f"{block}{name}" if name == "query.bias" else f"{block[9:]}{name}"] = torch.ones(128)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"safetensors: \S+_bias and \S+ are the same; keep one|"
        r"safetensors: \S+ and \S+_bias are the same; keep one",
    ):
        load_pretrained(build_autoencoder(CONFIG), tmp_path)


def test_weights_in_a_pytorch_model_bin_are_read_with_their_description(tmp_path: Path) -> None:
    network = randomised(build_autoencoder(CONFIG))
    export_huggingface(network, tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    other = build_autoencoder(CONFIG)
    report = load_pretrained(other, tmp_path)
    assert not report.missing and not report.unused and not report.notes
    for key, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor)


# The versions of transformers that lose biases


@pytest.mark.parametrize(
    ("version", "loses"),
    [
        ("4.57.6", False),
        ("5.4.0", False),
        ("5.5.0", True),
        ("5.17.0.dev0", True),
        ("5.18.0", False),
        ("5.23.0", False),
        ("55.6.0", False),
        ("", False),
    ],
)
def test_the_versions_that_lose_biases_are_known(version: str, loses: bool) -> None:
    assert loses_biases(version) is loses


def saved_by(version: str, tmp_path: Path, *, biases: bool) -> Path:
    network = randomised(build_autoencoder(CONFIG))
    if not biases:
        for name, tensor in official_state(network).items():
            if name.endswith((".q_bias", ".v_bias")):
                tensor.zero_()
    export_huggingface(network, tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    tree["transformers_version"] = version
    (tmp_path / "config.json").write_text(json.dumps(tree))
    return tmp_path


def test_weights_that_lost_their_biases_are_refused(tmp_path: Path) -> None:
    for version in ("5.5.0", "5.17.2"):
        spoilt = saved_by(version, tmp_path / version, biases=False)
        with pytest.raises(WeightsError, match=r"saved by transformers 5\..*Take the original"):
            load_pretrained(build_autoencoder(CONFIG), spoilt)
        load_pretrained(
            build_autoencoder(CONFIG), saved_by(version, tmp_path / f"{version}-whole", biases=True)
        )
    # Biases that are 0 because nobody has trained them yet are no loss.
    load_pretrained(
        build_autoencoder(CONFIG), saved_by("5.23.0", tmp_path / "untrained", biases=False)
    )


def test_weights_saved_without_biases_by_such_a_version_are_refused_for_that(
    tmp_path: Path,
) -> None:
    folder = saved_by("5.9.0", tmp_path, biases=True)
    tensors = load_file(folder / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if not n.endswith(("q_bias", "v_bias"))}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"saved by transformers 5\.9\.0"):
        load_pretrained(build_autoencoder(CONFIG), folder)
