"""`mgm-dali import` and `export`: anyone's weights in, anyone's out, and nothing made up."""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import normal_clip, randomised, tiny_config, uneven_masks
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from small_timesformer import small_timesformer
from test_image_weights import dinov2_state

from mgm_dali.cli import main
from mgm_dali.config import ModelConfig, RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models import (
    BACKBONES,
    Autoencoder,
    Classifier,
    build_autoencoder,
    build_classifier,
    load_pretrained,
)
from mgm_dali.models.recognise import is_classifier, recognise
from mgm_dali.models.saving import export_huggingface, export_videomae, save_weights
from mgm_dali.models.weight_files import FoundWeights
from mgm_dali.models.written_for import WeightsError, read_model_config
from mgm_dali.report.network import open_network
from mgm_dali.weights_commands import EXPORTS, export_weights, import_weights

CONFIG = tiny_config(num_classes=7)
CLIPS = ["model.num_frames=4", "model.image_size=64"]
SOURCES = ["ours", "huggingface", "videomae", "official"]


def written(network: Autoencoder | Classifier, kind: str, folder: Path) -> Path:
    if kind == "ours":
        save_weights(network, network.config, folder / "run/weights/step-3.safetensors")
        return folder / "run"
    if kind == "huggingface":
        export_huggingface(network, folder / "hf")
        return folder / "hf"
    if kind == "videomae":
        export_videomae(network, folder / "w.pth")
        return folder / "w.pth"
    arguments = argparse.Namespace(num_frames=4, input_size=64)
    state = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save({"module": state, "args": arguments}, folder / "official.pth")
    return folder / "official.pth"


def outputs(network: Autoencoder | Classifier) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        if isinstance(network, Autoencoder):
            return network.reconstruct(normal_clip(CONFIG), uneven_masks(CONFIG))
        return network(normal_clip(CONFIG))


def rebuilt(folder: Path) -> Autoencoder | Classifier:
    """A network of the imported configuration with the imported weights."""
    config = read_model_config(folder / "config.json")
    is_classifier = "head.weight" in load_file(folder / "model.safetensors")
    network = build_classifier(config) if is_classifier else build_autoencoder(config)
    report = load_pretrained(network, folder)
    assert not report.missing and not report.unused
    return network


@pytest.mark.parametrize("build", [build_autoencoder, build_classifier])
@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_imported_gives_the_same_numbers(tmp_path: Path, kind: str, build: Any) -> None:
    network = randomised(build(CONFIG))
    import_weights(written(network, kind, tmp_path), tmp_path / "out")
    assert torch.equal(outputs(rebuilt(tmp_path / "out")), outputs(network))
    config = read_model_config(tmp_path / "out/config.json")
    assert (config.name, config.num_frames, config.image_size) == ("vit_micro", 4, 64)
    rows = list(csv.DictReader((tmp_path / "out/weights.csv").read_text().splitlines()))
    assert {row["key"] for row in rows if row["fate"] == "taken"} == set(network.state_dict())


@pytest.mark.parametrize("build", [build_autoencoder, build_classifier])
@pytest.mark.parametrize("to", EXPORTS)
@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_exported_comes_back_as_it_was(
    tmp_path: Path, kind: str, to: str, build: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    network = randomised(build(CONFIG))
    output = tmp_path / ("new/exported.pth" if to == "videomae" else "new/exported")
    export_weights(written(network, kind, tmp_path), output, to)
    assert str(output) in capsys.readouterr().err.splitlines()[-1]
    import_weights(output, tmp_path / "back")
    assert torch.equal(outputs(rebuilt(tmp_path / "back")), outputs(network))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_recognised(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        network = build_autoencoder(ModelConfig(name=name, num_frames=4, image_size=64))
    found = FoundWeights(tmp_path, network.state_dict(), {}, {}, None)
    assert recognise(found, CLIPS) == network.config and not is_classifier(found)


# Weights that are not a whole network


def test_an_image_network_is_imported_as_what_it_is_and_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(dinov2_state(), tmp_path / "dinov2.pth")
    import_weights(tmp_path / "dinov2.pth", tmp_path / "out")
    said = capsys.readouterr().err
    assert "without mask_token, decoder (56), encoder_to_decoder.weight" in said
    kept = load_file(tmp_path / "out/model.safetensors")
    assert all(key.startswith("encoder.") for key in kept)
    direct, by_import = build_autoencoder(CONFIG), build_autoencoder(CONFIG)
    load_pretrained(direct, tmp_path / "dinov2.pth")
    report = load_pretrained(by_import, tmp_path / "out")
    assert report.missing and not report.unused
    for key, tensor in direct.encoder.state_dict().items():
        assert torch.equal(by_import.encoder.state_dict()[key], tensor)
    # It has no positions, so that it fits clips of any size, and still does after a second import.
    import_weights(tmp_path / "out", tmp_path / "again")
    for folder in ("out", "again"):
        load_pretrained(build_autoencoder(tiny_config(num_frames=8)), tmp_path / folder)


def test_an_image_network_becomes_a_timesformer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_timesformer(monkeypatch)
    torch.save(dinov2_state(), tmp_path / "w.pth")
    overrides = ["model.name=timesformer_base", *CLIPS]
    import_weights(tmp_path / "w.pth", tmp_path / "out", overrides)
    config = read_model_config(tmp_path / "out/config.json")
    assert config.attention == "divided"
    report = load_pretrained(build_autoencoder(config), tmp_path / "out")
    new = [key for key in report.missing if key.startswith("encoder.")]
    assert new and all("time_embed" in key or "temporal_fc" in key for key in new)


@pytest.mark.parametrize("to", ["huggingface", "videomae"])
def test_what_would_have_to_be_made_up_is_not_exported(tmp_path: Path, to: str) -> None:
    torch.save(dinov2_state(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"lacks .*decoder .*made up; .*--to safetensors"):
        export_weights(tmp_path / "w.pth", tmp_path / "out.pth", to)
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("to", ["huggingface", "videomae"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            tiny_config(num_frames=8, position_frames=4),
            "positions are those of 4 frames of 64 pixels, stretched to 8 of 64",
        ),
        (
            tiny_config("timesformer_base", attention="divided"),
            "timesformer_base: VideoMAE and transformers have no such network",
        ),
    ],
)
def test_networks_that_others_do_not_have_are_kept_as_ours(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: ModelConfig,
    message: str,
    to: str,
) -> None:
    small_timesformer(monkeypatch)
    network = randomised(build_autoencoder(config))
    source = written(network, "ours", tmp_path)
    with pytest.raises(UserError, match=f"{message}.*--to safetensors"):
        export_weights(source, tmp_path / "out.pth", to)
    assert not (tmp_path / "out.pth").exists()
    export_weights(source, tmp_path / "kept", "safetensors")
    for key, tensor in rebuilt(tmp_path / "kept").state_dict().items():
        assert torch.equal(tensor, network.state_dict()[key])


# What people get wrong


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A file that does not say on which clips it learned."""
    save_file(build_autoencoder(CONFIG).state_dict(), tmp_path / "bare.safetensors")
    return tmp_path / "bare.safetensors"


def test_clips_that_nobody_tells_are_asked_for(tmp_path: Path, bare: Path) -> None:
    with pytest.raises(UserError, match=r"as model\.num_frames=16 model\.image_size=224"):
        import_weights(bare, tmp_path / "out")
    with pytest.raises(UserError, match=r"were, as model\.image_size=224"):
        import_weights(bare, tmp_path / "out", CLIPS[:1])
    import_weights(bare, tmp_path / "out", CLIPS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.epochs=3"], "weights have keys of the model alone"),
        (["nonsense"], "weights have keys of the model alone"),
        (["model.nmae=vit_base"], "unknown key 'model.nmae'; did you mean 'name'"),
        (["model.num_frames=3"], "3 is not a multiple of 2"),
        (["model.name=vit_tiny"], r"is \[.*set model\.name=vit_micro"),
        (["model.num_frames=1000000"], "more than is built"),
        (["model.decoder_depth=5"], "lacks decoder.blocks.4"),
    ],
)
def test_wrong_overrides_are_one_line(
    tmp_path: Path, bare: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_weights(bare, tmp_path / "out", [*CLIPS, *overrides])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_frames=8", "learned .* 4 frames of 64 pixels, and the settings say 8 frames"),
        ("model.position_size=96", "learned positions of 4 frames of 64 pixels"),
        ("model.num_classes=5", "learned number of classes 7, and the settings say 5"),
    ],
)
@pytest.mark.parametrize("kind", SOURCES)
def test_what_the_weights_have_learned_is_not_named_anew(
    tmp_path: Path, kind: str, override: str, message: str
) -> None:
    source = written(build_classifier(CONFIG), kind, tmp_path)
    with pytest.raises(UserError, match=f"{message}.*give them to the run that takes the folder"):
        import_weights(source, tmp_path / "out", [override])
    assert not (tmp_path / "out").exists()
    import_weights(source, tmp_path / "out", [*CLIPS, "model.num_classes=7"])


@pytest.mark.parametrize("shape", [(), (128,), (1, 128)])
def test_a_head_of_less_than_two_classes_is_one_line(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    state = build_classifier(CONFIG).state_dict() | {"head.weight": torch.zeros(shape)}
    save_file(state, tmp_path / "w.safetensors")
    for use in (
        lambda: import_weights(tmp_path / "w.safetensors", tmp_path / "out", CLIPS),
        lambda: export_weights(tmp_path / "w.safetensors", tmp_path / "hf", "huggingface", CLIPS),
        lambda: open_network(tmp_path / "w.safetensors", RunConfig(model=CONFIG)),
    ):
        with pytest.raises(WeightsError, match=r"w\.safetensors: head\.weight is \[.*expected"):
            use()


@pytest.mark.parametrize("to", EXPORTS)
@pytest.mark.parametrize("error", [SafetensorError("full"), OSError(28, "full"), RuntimeError("f")])
@pytest.mark.parametrize("is_there", [False, True])
def test_what_could_not_be_written_leaves_nothing_and_can_be_repeated(
    tmp_path: Path,
    bare: Path,
    monkeypatch: pytest.MonkeyPatch,
    to: str,
    error: Exception,
    is_there: bool,
) -> None:
    def fail(_tensors: object, partial: Path, **_: object) -> None:
        partial.write_bytes(b"half")
        raise error

    output = tmp_path / ("out.pth" if to == "videomae" else "out")
    if is_there and to != "videomae":
        output.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as broken:
        broken.setattr("mgm_dali.models.saving.save_file", fail)
        broken.setattr("mgm_dali.models.saving.torch.save", fail)
        with pytest.raises(UserError, match=r"cannot be written .*nothing of it was kept"):
            export_weights(bare, output, to, CLIPS)
    assert sorted(tmp_path.rglob("*")) == before
    export_weights(bare, output, to, CLIPS)


def test_a_size_that_no_backbone_has_is_refused(tmp_path: Path) -> None:
    state = {
        "patch_embed.proj.weight": torch.zeros(100, 3, 2, 16, 16),
        "patch_embed.proj.bias": torch.zeros(100),
    }
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="has 0 blocks of width 100, as no backbone of ours"):
        import_weights(tmp_path / "w.safetensors", tmp_path / "out", CLIPS)
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"lacks encoder\.patch_embed.* it holds conv1\.weight"):
        import_weights(tmp_path / "w.safetensors", tmp_path / "out", CLIPS)


def test_a_description_of_an_absurd_network_builds_nothing(tmp_path: Path, bare: Path) -> None:
    tree = json.loads(CONFIG.model_dump_json(exclude={"init"}))
    for change in ({"num_frames": 10**8}, {"position_size": 16 * 10**5}):
        (tmp_path / "config.json").write_text(json.dumps(tree | change))
        with pytest.raises(UserError, match="more than is built"):
            import_weights(bare, tmp_path / "out")


@pytest.mark.parametrize("to", EXPORTS)
def test_nothing_that_is_there_is_replaced(tmp_path: Path, bare: Path, to: str) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("precious")
    for output in (taken, taken / "thesis.txt", bare):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match="is there already, and is not replaced"):
            export_weights(bare, output, to, CLIPS)
        with pytest.raises(UserError, match="is there already, and is not replaced"):
            import_weights(bare, output, CLIPS)
        assert sorted(tmp_path.rglob("*")) == before
    assert (taken / "thesis.txt").read_text() == "precious"


def test_another_form_or_another_ending_is_refused(tmp_path: Path, bare: Path) -> None:
    with pytest.raises(UserError, match="--to 'onnx': expected one of huggingface, videomae, safe"):
        export_weights(bare, tmp_path / "out", "onnx", CLIPS)
    with pytest.raises(UserError, match=r"read a \.pth; name one"):  # before anything is read
        export_weights(tmp_path / "nowhere", tmp_path / "out", "videomae", CLIPS)


def test_the_commands_take_what_the_functions_take(
    tmp_path: Path,
    bare: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (
        ["import", bare, "-o", tmp_path / "ours", *CLIPS],
        ["export", tmp_path / "ours", "-o", tmp_path / "hf", "--to", "huggingface"],
    ):
        monkeypatch.setattr(sys, "argv", ["mgm-dali", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0, capsys.readouterr().err
    assert {path.name for path in (tmp_path / "hf").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
