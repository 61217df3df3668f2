"""Weights in and out: ours, Hugging Face's, VideoMAE's; what fits loads, what does not says why."""

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import normal_clip, randomised, tiny_config, uneven_masks
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mgm_dali.errors import UserError
from mgm_dali.models import (
    Autoencoder,
    Classifier,
    build_autoencoder,
    build_classifier,
    load_pretrained,
)
from mgm_dali.models.saving import export_videomae, save_weights
from mgm_dali.models.written_for import WeightsError, read_model_config

CONFIG = tiny_config(num_classes=7)
TRUNK = 4 * 13 + 2
"""Tensors of vit_micro's trunk: 13 a block and the embedding's two."""


@pytest.fixture
def autoencoder() -> Autoencoder:
    return randomised(build_autoencoder(CONFIG), seed=1)


@pytest.fixture
def classifier() -> Classifier:
    return randomised(build_classifier(CONFIG), seed=2)


def same_outputs(one: Autoencoder | Classifier, other: Autoencoder | Classifier) -> bool:
    video, mask = normal_clip(CONFIG), uneven_masks(CONFIG)
    inputs = (video, mask) if isinstance(one, Autoencoder) else (video,)
    return torch.equal(one.eval()(*inputs), other.eval()(*inputs))


# Our own files


def test_a_run_folder_gives_its_newest_weights(tmp_path: Path, autoencoder: Autoencoder) -> None:
    save_weights(build_autoencoder(CONFIG), CONFIG, tmp_path / "weights/step-9.safetensors")
    save_weights(autoencoder, CONFIG, tmp_path / "weights/step-10.safetensors")
    (tmp_path / "weights/step-11.safetensors").mkdir()  # no weights, whatever its name
    other = build_autoencoder(CONFIG)
    report = load_pretrained(other, tmp_path)
    assert report.source.name == "step-10.safetensors"
    assert same_outputs(other, autoencoder)
    assert sorted(report.used) == sorted(autoencoder.state_dict())
    assert not report.missing and not report.unused and not report.notes
    assert read_model_config(tmp_path / "weights/config.json") == CONFIG


def test_saved_weights_are_float32_and_described(tmp_path: Path, classifier: Classifier) -> None:
    path = tmp_path / "step-1.safetensors"
    config = CONFIG.model_copy(update={"num_classes": None, "init": Path("/elsewhere")})
    save_weights(classifier.bfloat16(), config, path)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}
    with safe_open(path, "pt") as file:
        assert file.metadata()["network"] == "classifier"
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["num_classes"] == 7 and "init" not in kept
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "step-1.safetensors"}


def test_weights_can_be_given_where_the_network_holds_rounded_ones(
    tmp_path: Path, classifier: Classifier
) -> None:
    exact = {key: value.clone() for key, value in classifier.state_dict().items()}
    save_weights(classifier.bfloat16(), CONFIG, tmp_path / "step-1.safetensors", exact)
    kept = load_file(tmp_path / "step-1.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in exact.items())


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(build_autoencoder(CONFIG), CONFIG, path)
    assert path.stat().st_mode == (tmp_path / "config.json").stat().st_mode


def test_a_failed_save_leaves_the_old_file(
    tmp_path: Path, autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step-1.safetensors"
    save_weights(autoencoder, CONFIG, path)
    before = path.read_bytes()

    def full_disk(_tensors: object, partial: Path, **_: object) -> None:
        partial.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("mgm_dali.models.saving.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_weights(autoencoder, CONFIG, path)
    assert path.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "step-1.safetensors"}


def test_a_classifier_takes_an_autoencoders_trunk(tmp_path: Path, autoencoder: Autoencoder) -> None:
    save_weights(autoencoder, CONFIG, tmp_path / "w.safetensors")
    classifier = build_classifier(CONFIG)
    head = classifier.head.weight.clone()
    report = load_pretrained(classifier, str(tmp_path / "w.safetensors"))
    assert len(report.used) == TRUNK
    assert report.missing == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    others = [key for key in autoencoder.state_dict() if key not in report.used]
    encoder = {
        key.removeprefix("encoder."): value for key, value in autoencoder.state_dict().items()
    }
    assert sorted(report.unused) == sorted(
        key for key in others if key.removeprefix("encoder.") not in report.used
    )
    for key in report.used:
        assert torch.equal(classifier.state_dict()[key], encoder[key])
    assert torch.equal(classifier.head.weight, head)
    assert "new: fc_norm (2), head (2)" in str(report)
    assert "not taken: decoder (56), encoder.norm (2), " in str(report)


def test_an_autoencoder_takes_a_classifiers_trunk(tmp_path: Path, classifier: Classifier) -> None:
    save_weights(classifier, CONFIG, tmp_path / "w.safetensors")
    report = load_pretrained(build_autoencoder(CONFIG), tmp_path / "w.safetensors")
    assert len(report.used) == TRUNK
    assert "encoder.norm.weight" in report.missing and "mask_token" in report.missing
    assert sorted(report.unused) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]


def test_a_head_of_other_classes_starts_anew_and_that_is_said(
    tmp_path: Path, classifier: Classifier
) -> None:
    save_weights(classifier, CONFIG, tmp_path / "w.safetensors")
    other = build_classifier(tiny_config(num_classes=3))
    head = other.head.weight.clone()
    report = load_pretrained(other, tmp_path / "w.safetensors")
    assert report.missing == ["head.weight", "head.bias"]
    assert torch.equal(other.fc_norm.weight, classifier.fc_norm.weight)
    assert torch.equal(other.head.weight, head)
    assert "head has 7 classes in the file, 3 here" in str(report)


# Files that do not fit


def spoilt(autoencoder: Autoencoder, path: Path, **changes: Tensor | None) -> Path:
    tensors = dict(autoencoder.state_dict())
    for key, value in changes.items():
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder.blocks.2.norm1.bias": None},
            r"lacks encoder\.blocks\.2\.norm1\.bias; the file has 4 blocks of width 128",
        ),
        (
            {"encoder.blocks.0.attn.qkv.weight": torch.zeros(384, 127)},
            r"blocks\.0\.attn\.qkv\.weight is \[384, 127\], this network needs \[384, 128\]",
        ),
        ({"encoder.cls_token": torch.zeros(1)}, "has encoder.cls_token, unknown to this network"),
        ({"decoder.head.bias": None}, "lacks decoder.head.bias"),
        ({"mask_token": torch.full((1, 1, 64), torch.nan)}, "not finite"),
        ({"mask_token": torch.full((1, 1, 64), 1e300, dtype=torch.float64)}, "not finite in float"),
    ],
)
def test_half_a_part_or_another_shape_is_refused_and_nothing_is_changed(
    tmp_path: Path, autoencoder: Autoencoder, changes: dict[str, Any], message: str
) -> None:
    path = spoilt(autoencoder, tmp_path / "w.safetensors", **changes)
    other = build_autoencoder(CONFIG)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_pretrained(other, path)
    assert isinstance(caught.value, UserError) and str(path) in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_another_backbone_or_decoder_is_refused_with_its_name(
    tmp_path: Path, autoencoder: Autoencoder
) -> None:
    path = spoilt(autoencoder, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"set model\.name=vit_micro model\.decoder_depth=4"):
        load_pretrained(build_autoencoder(tiny_config("vit_tiny")), path)
    with pytest.raises(WeightsError, match=r"set model\.name=vit_micro model\.decoder_depth=4"):
        load_pretrained(build_autoencoder(tiny_config(decoder_depth=2)), path)


def test_a_file_of_something_else_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"lacks encoder\..* it holds conv1\.weight"):
        load_pretrained(build_autoencoder(CONFIG), tmp_path / "w.safetensors")


def test_sources_that_are_not_there_or_broken_are_named(tmp_path: Path) -> None:
    autoencoder = build_autoencoder(CONFIG)
    with pytest.raises(WeightsError, match=r"nowhere: no such file or folder"):
        load_pretrained(autoencoder, tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"holds no weights; expected weights/step-N"):
        load_pretrained(autoencoder, tmp_path)
    for name in ("broken.safetensors", "broken.pth"):
        for content in (b"", b"garbage that is no checkpoint", b"\x80\x02}q\x00"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(WeightsError, match=name):
                load_pretrained(autoencoder, tmp_path / name)
    with pytest.raises(WeightsError, match=r"weights/config\.json: no such file"):
        read_model_config(tmp_path / "weights/config.json")


@pytest.mark.parametrize("as_zip", [True, False])
def test_whatever_byte_is_wrong_the_file_is_read_or_named(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"a": torch.ones(3)}}, path, _use_new_zipfile_serialization=as_zip)
    content = path.read_bytes()
    autoencoder = build_autoencoder(CONFIG)
    for position in range(0, len(content), 1 + len(content) // 150):
        path.write_bytes(content[:position] + b"\xff" + content[position + 1 :])
        with pytest.raises(WeightsError, match=r"w\.pth: "):  # at best it lacks the trunk
            load_pretrained(autoencoder, path)


# Official .pth files


@pytest.mark.parametrize("container", ["model", "module", None])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "backbone.", "module._orig_mod."])
def test_official_files_load_from_any_container(
    tmp_path: Path, autoencoder: Autoencoder, container: str | None, wrapper: str
) -> None:
    state: dict[str, Any] = {
        wrapper + key: value for key, value in autoencoder.state_dict().items()
    }
    arguments = argparse.Namespace(lr=1.5e-4, model="pretrain_videomae", opt_betas=[0.9, 0.95])
    content = {container: state, "epoch": 799, "args": arguments} if container else state
    torch.save(content, tmp_path / "checkpoint.pth")
    other = build_autoencoder(CONFIG)
    report = load_pretrained(other, tmp_path / "checkpoint.pth")
    assert same_outputs(other, autoencoder) and not report.missing and not report.unused


def test_a_config_that_lies_beside_an_official_file_is_not_its_own(
    tmp_path: Path, autoencoder: Autoencoder
) -> None:
    (tmp_path / "config.json").write_text('{"of": "something else"}')
    export_videomae(autoencoder, tmp_path / "checkpoint.pth")
    assert not load_pretrained(build_autoencoder(CONFIG), tmp_path / "checkpoint.pth").missing


@pytest.mark.parametrize("build", [build_autoencoder, build_classifier])
def test_what_is_exported_for_videomae_loads_again(tmp_path: Path, build: Any) -> None:
    network, other = randomised(build(CONFIG)), build(CONFIG)
    export_videomae(network, tmp_path / "checkpoint.pth")
    report = load_pretrained(other, tmp_path / "checkpoint.pth")
    assert same_outputs(other, network) and not report.missing and not report.unused


def test_a_parameter_that_is_there_twice_is_refused(
    tmp_path: Path, autoencoder: Autoencoder
) -> None:
    state = autoencoder.state_dict() | {"module.mask_token": autoencoder.mask_token}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"mask_token and module\.mask_token are the same"):
        load_pretrained(build_autoencoder(CONFIG), tmp_path / "w.pth")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1, 1, 64, dtype=torch.int64),
        torch.zeros(1, 1, 64, dtype=torch.complex64),
        torch.zeros(1, 1, 64).to(torch.float8_e4m3fn),
        torch.zeros(1, 1, 64).to_sparse(),
        torch.zeros(1).expand(10**12),  # four bytes that claim to be terabytes
    ],
    ids=["whole numbers", "complex", "float8", "sparse", "expanded"],
)
def test_only_plain_numbers_are_taken(
    tmp_path: Path, autoencoder: Autoencoder, tensor: Tensor
) -> None:
    torch.save(autoencoder.state_dict() | {"mask_token": tensor}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"lacks mask_token \(no plain floating-point tensor\)"):
        load_pretrained(build_autoencoder(CONFIG), tmp_path / "w.pth")


def test_weights_in_several_files_say_how_to_join_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"in several files, .*max_shard_size"):
        load_pretrained(build_autoencoder(CONFIG), tmp_path)


def test_a_folder_of_deepspeeds_names_the_file_to_read(tmp_path: Path) -> None:
    (tmp_path / "mp_rank_00_model_states.pt").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"name the one to read: .*mp_rank_00_model_states\.pt"):
        load_pretrained(build_autoencoder(CONFIG), tmp_path)


@pytest.mark.parametrize(
    "error", [SafetensorError("no space"), RuntimeError("PytorchStreamWriter")]
)
def test_an_error_of_the_writer_is_one_of_the_file(
    tmp_path: Path,
    autoencoder: Autoencoder,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mgm_dali.models.saving.save_file", fail)
    with pytest.raises(OSError, match=r"cannot be written \(.*w\.safetensors"):
        save_weights(autoencoder, CONFIG, tmp_path / "w.safetensors")


class Hostile:
    """Unpickled the ordinary way, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(tmp_path: Path, by_torch: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "was_here"
    content = {"model": {}, "args": Hostile(trace)}
    if by_torch:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(WeightsError, match=r"evil\.pth: refused, for .*nothing of it was"):
        load_pretrained(build_autoencoder(CONFIG), path)
    assert not trace.exists()
