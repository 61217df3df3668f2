"""What no shape betrays: heads, clips, arithmetic. What would change the numbers is refused."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import normal_clip, randomised, tiny_config
from safetensors.torch import save_file
from small_timesformer import small_timesformer

from mgm_dali.config import ModelConfig
from mgm_dali.models import Autoencoder, build_autoencoder, build_classifier, load_pretrained
from mgm_dali.models.agreement import compare_networks
from mgm_dali.models.saving import export_huggingface, export_videomae, save_weights
from mgm_dali.models.weight_files import FoundWeights
from mgm_dali.models.written_for import WeightsError, read_description

CONFIG = tiny_config(num_classes=7)
"""Clips of 4 frames of 64 pixels."""


def position_clip(frames: int | None, size: int | None, **changes: Any) -> ModelConfig:
    return tiny_config(position_frames=frames, position_size=size, **changes)


@pytest.fixture
def autoencoder() -> Autoencoder:
    return randomised(build_autoencoder(CONFIG), seed=1)


# Positions


def as_ours(network: Autoencoder, folder: Path) -> Path:
    save_weights(network, network.config, folder / "w.safetensors")
    return folder / "w.safetensors"


def as_huggingface(network: Autoencoder, folder: Path) -> Path:
    export_huggingface(network, folder)
    return folder


def as_videomae(network: Autoencoder, folder: Path) -> Path:
    export_videomae(network, folder / "w.pth")
    return folder / "w.pth"


WRITERS = [as_ours, as_huggingface, as_videomae]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("change", [{"num_frames": 8}, {"image_size": 96}])
def test_weights_of_other_clips_are_refused_until_somebody_says_what_to_do(
    tmp_path: Path, autoencoder: Autoencoder, write: Any, change: dict[str, int]
) -> None:
    source = write(autoencoder, tmp_path)
    config = tiny_config(**change)
    with pytest.raises(
        WeightsError, match="learned on 4 frames of 64 pixels, and this network's clips are"
    ) as caught:
        load_pretrained(build_autoencoder(config), source)
    own = f"model.position_frames={config.num_frames} model.position_size={config.image_size}"
    assert "model.position_frames=4 model.position_size=64 to stretch" in str(caught.value)
    assert f"{own} for new ones" in str(caught.value)

    stretched = build_autoencoder(position_clip(4, 64, **change))
    report = load_pretrained(stretched, source)
    assert "positions of 4 frames of 64 pixels are stretched to" in str(report)
    assert "learned again" not in str(report)

    anew = build_autoencoder(position_clip(config.num_frames, config.image_size, **change))
    report = load_pretrained(anew, source)
    assert "places mean others and must be learned again" in str(report)
    assert "stretched" not in str(report)


def test_one_of_the_two_settings_is_enough(tmp_path: Path, autoencoder: Autoencoder) -> None:
    source = as_ours(autoencoder, tmp_path)
    longer = build_autoencoder(position_clip(4, None, num_frames=8))
    assert "are stretched to 8 frames" in str(load_pretrained(longer, source))


def test_a_stretched_network_loads_again_as_it_was(tmp_path: Path) -> None:
    config = position_clip(4, 64, num_frames=8, num_classes=7)
    network = randomised(build_classifier(config))
    save_weights(network, config, tmp_path / "w.safetensors")
    other = build_classifier(config).eval()
    report = load_pretrained(other, tmp_path / "w.safetensors")
    assert report.notes == [
        "positions of 4 frames of 64 pixels are stretched to 8 frames of 64 pixels"
    ]
    assert torch.equal(other(normal_clip(config)), network(normal_clip(config)))
    with pytest.raises(WeightsError, match="learned on 4 frames of 64 pixels"):
        load_pretrained(
            build_classifier(tiny_config(num_frames=8, num_classes=7)), tmp_path / "w.safetensors"
        )


def test_a_file_that_does_not_say_its_clips_is_taken_with_a_note(
    tmp_path: Path, autoencoder: Autoencoder
) -> None:
    save_file(autoencoder.state_dict(), tmp_path / "alone.safetensors")
    torch.save(autoencoder.state_dict(), tmp_path / "alone.pth")
    for name in ("alone.safetensors", "alone.pth"):
        report = load_pretrained(build_autoencoder(CONFIG), tmp_path / name)
        assert report.notes == [
            "the file does not say on which clips it learned; taken for 4 frames of 64 pixels"
        ]


@pytest.mark.parametrize("name", ["pos_embed", "time_embed"])
def test_learned_positions_of_other_clips_say_how_to_stretch_them(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_timesformer(monkeypatch)
    config = tiny_config("timesformer_base", attention="divided")
    save_weights(build_autoencoder(config), config, tmp_path / "w.safetensors")
    change, setting = {
        "pos_embed": ({"image_size": 96}, "model.position_size=64"),
        "time_embed": ({"num_frames": 8}, "model.position_frames=4"),
    }[name]
    with pytest.raises(WeightsError, match=f"encoder.{name} is .*set {setting} to stretch"):
        load_pretrained(
            build_autoencoder(tiny_config("timesformer_base", attention="divided", **change)),
            tmp_path / "w.safetensors",
        )
    stretched = tiny_config(
        "timesformer_base", attention="divided", position_frames=4, position_size=64, **change
    )
    report = load_pretrained(build_autoencoder(stretched), tmp_path / "w.safetensors")
    assert not report.missing and "are stretched to" in str(report)


# Layers and arithmetic


@pytest.mark.parametrize(("theirs", "ours"), [("joint", "divided"), ("divided", "joint")])
def test_another_attention_over_time_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str, ours: str
) -> None:
    small_timesformer(monkeypatch)
    network = build_autoencoder(tiny_config("timesformer_base", attention=theirs))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"has {theirs} attention; set model.attention={theirs}"):
        load_pretrained(
            build_autoencoder(tiny_config("timesformer_base", attention=ours)),
            tmp_path / "w.safetensors",
        )


def changed_json(autoencoder: Autoencoder, folder: Path, **changes: Any) -> Path:
    export_huggingface(autoencoder, folder)
    tree = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 16}, "config.json: num_attention_heads is 16, vit_micro has 4"),
        ({"decoder_num_attention_heads": 16}, "decoder_num_attention_heads is 16, vit_micro has 2"),
        ({"decoder_num_hidden_layers": 12}, "decoder depth is 12, vit_micro has 4"),
        ({"hidden_size": 256}, "hidden_size is 256, vit_micro has 128"),
        ({"num_hidden_layers": 5}, "num_hidden_layers is 5, vit_micro has 4"),
        ({"hidden_act": "gelu_new"}, "its activation is 'gelu_new'"),
        ({"layer_norm_eps": 1e-3}, r"layer_norm_eps is 0\.001"),
        ({"model_type": "vit"}, "is for 'vit'"),
    ],
)
def test_what_would_change_the_numbers_is_refused(
    tmp_path: Path, autoencoder: Autoencoder, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        load_pretrained(build_autoencoder(CONFIG), changed_json(autoencoder, tmp_path, **changes))


def test_a_classifier_does_not_ask_for_the_decoder(
    tmp_path: Path, autoencoder: Autoencoder
) -> None:
    folder = changed_json(
        autoencoder, tmp_path, decoder_num_attention_heads=16, decoder_num_hidden_layers=12
    )
    assert len(load_pretrained(build_classifier(CONFIG), folder).used) == 4 * 13 + 2


def test_a_head_of_one_token_that_has_a_norm_of_the_mean_is_refused(tmp_path: Path) -> None:
    classifier = build_classifier(CONFIG)
    export_huggingface(classifier, tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text()) | {"use_mean_pooling": False}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(WeightsError, match="use_mean_pooling is false, but the weights have"):
        load_pretrained(build_classifier(CONFIG), tmp_path)


def test_plain_pixels_are_noted(tmp_path: Path, autoencoder: Autoencoder) -> None:
    folder = changed_json(autoencoder, tmp_path, norm_pix_loss=False)
    report = load_pretrained(build_autoencoder(CONFIG), folder)
    assert report.notes == ["the decoder learned plain pixels, not normalised ones as here"]


# What timm's description of an image network says


def notes_on(architecture: str, folder: Path, **changes: Any) -> list[str]:
    """What holding timm's description of a network against our vit_base gives."""
    tree = {"architecture": architecture} | changes
    (folder / "config.json").write_text(json.dumps(tree))
    written = read_description(folder / "config.json")
    found = FoundWeights(folder, {}, {}, {}, written, learned_on_images=True)
    return compare_networks(
        ModelConfig(name="vit_base"), found, takes_decoder=False, takes_head=False
    )


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("vit_base_patch16_rpn_224", "blocks of another kind .*ResPostBlock"),
        ("beit_base_patch16_224", r"blocks of another kind .*timm\.models\.beit\.Block"),
        ("resnet50", r"blocks of another kind \(ResNet,"),
        ("vit_base_patch32_siglip_gap_256", "activation is 'GELUTanh'"),
        ("vit_base_patch16_clip_quickgelu_224", "activation is 'QuickGELU'"),
        ("vit_base_patch16_gap_224", "num_attention_heads is 16, vit_base has 12"),
        ("vit_small_patch16_224", "hidden_size is 384, vit_base has 768"),
    ],
)
def test_an_architecture_of_timms_that_computes_otherwise_is_refused(
    tmp_path: Path, architecture: str, message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        notes_on(architecture, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_architecture_of_timms_that_computes_as_ours_is_taken(tmp_path: Path) -> None:
    assert notes_on("vit_base_patch16_224.augreg_in21k", tmp_path) == []
    assert notes_on("vit_base_patch14_dinov2", tmp_path) == []
    assert "layer_norm_eps is 1e-05" in str(notes_on("vit_base_patch16_clip_224", tmp_path))
    with pytest.raises(WeightsError, match="num_attention_heads is 8"):
        notes_on("vit_base_patch16_224", tmp_path, model_args={"num_heads": 8})


@pytest.mark.parametrize("name", ["hf-hub:timm/x", "local-dir:/etc", "../x", "v\n\x1b[31m", ""])
def test_no_name_makes_timm_look_elsewhere(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("was built"))
    (note,) = notes_on(name, tmp_path)
    assert note.startswith("timm knows no architecture") and note.isprintable()


# The command line that VideoMAE's scripts keep


def official(autoencoder: Autoencoder, path: Path, **arguments: Any) -> Path:
    args = argparse.Namespace(lr=1e-3, opt_betas=[0.9, 0.95], **arguments)
    torch.save({"model": autoencoder.state_dict(), "epoch": 799, "args": args}, path)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "pretrain_videomae_small_patch16_224"}, "is of vit_small, .*name=vit_small"),
        ({"decoder_depth": 8}, r"\(args\): decoder depth is 8, vit_micro has 4"),
        ({"num_frames": 16, "input_size": 224}, "learned on 16 frames of 224 pixels"),
        ({"num_frames": 4, "input_size": 64, "num_segments": 2}, "learned on 8 frames"),
        ({"num_frames": "many"}, "its args say num_frames: .*, found 'many'"),
        ({"input_size": 10**30}, "its args say input_size: "),
        ({"model": ["a"]}, "its args say model: "),
    ],
)
def test_an_official_files_arguments_are_held_against_the_network(
    tmp_path: Path, autoencoder: Autoencoder, arguments: dict[str, Any], message: str
) -> None:
    path = official(autoencoder, tmp_path / "checkpoint.pth", **arguments)
    with pytest.raises(WeightsError, match=message) as caught:
        load_pretrained(build_autoencoder(CONFIG), path)
    assert "\n" not in str(caught.value)


def test_an_official_files_arguments_tell_its_clips(
    tmp_path: Path, autoencoder: Autoencoder
) -> None:
    path = official(
        autoencoder,
        tmp_path / "checkpoint.pth",
        num_frames=4,
        input_size=64,
        model="pretrain_videomae_other",
        decoder_depth=4,
    )
    report = load_pretrained(build_autoencoder(CONFIG), path)
    assert not report.notes and not report.unused
    assert "ignored: epoch, args: not the weights" in str(report)


# Hostile descriptions


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 100_000,
        '{"model_type": "videomae", "num_attention_heads": "12"}',
        '{"model_type": "videomae", "num_frames": 1e999}',
        '{"model_type": "videomae", "num_frames": ' + "9" * 5000 + "}",
        '{"model_type": "videomae", "num_frames": 99999999999}',
        '{"model_type": "videomae", "image_size": [224, 112]}',
        '{"model_type": "videomae", "image_size": {"height": 224}}',
        '{"model_type": "videomae", "layer_norm_eps": NaN}',
        '{"model_type": "videomae", "hidden_act": null}',
        '{"model_type": ["videomae"]}',
        '{"architecture": 7}',
        '{"architecture": "vit", "pretrained_cfg": {"mean": [0.5], "std": [0, 0, 0]}}',
        '{"name": "vit_micro", "num_frames": true, "nonsense": 1}',
        '{"name": {"a": 1}}',
        '{"num_frames": -2}',
    ],
)
def test_a_hostile_description_is_one_clean_line(
    tmp_path: Path, autoencoder: Autoencoder, text: str
) -> None:
    save_weights(autoencoder, CONFIG, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json: ") as caught:
        load_pretrained(build_autoencoder(CONFIG), tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
