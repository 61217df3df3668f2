"""Image networks as the start of a video encoder; timm's own networks are the judge.

A clip that stands still, seen without positions, must give the tokens that timm gives the picture.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import randomised, tiny_config
from safetensors.torch import save_file
from small_timesformer import small_timesformer
from torch import Tensor, nn

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.models import Autoencoder, build_autoencoder, build_classifier, load_pretrained
from mgm_dali.models.patches import patchify
from mgm_dali.models.written_for import WeightsError
from mgm_dali.torchvision_ops import import_torchvision

import_torchvision()

from timm.layers import resample_abs_pos_embed, resample_patch_embed  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

CONFIG = tiny_config(num_classes=7)
"""vit_micro: 4 blocks of width 128 with 4 heads."""
UNKNOWN = (
    "timm knows no architecture 'vit_x': heads, activation and order of layers were not compared"
)


def image_network(**changes: Any) -> nn.Module:
    """timm's vision transformer of vit_micro's size, without tokens that clips do not have."""
    arguments: dict[str, Any] = {
        "img_size": 64, "patch_size": 16, "embed_dim": 128, "depth": 4, "num_heads": 4,
        "class_token": False, "global_pool": "avg", "pos_embed": "none", "num_classes": 5,
        "final_norm": True, "fc_norm": False,
    }  # fmt: skip
    torch.manual_seed(2)
    return randomised(VisionTransformer(**arguments | changes))


def picture(size: int = 64) -> Tensor:
    """Pixels in [0, 1], `[1, 3, H, W]`."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def normalised(pixels: Tensor, mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> Tensor:
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def tokens_of_still_clip(network: Autoencoder, pixels: Tensor) -> Tensor:
    """What our encoder makes of the picture shown for 4 frames, without positions: `[2, 16, D]`."""
    clip = normalised(pixels).unsqueeze(2).expand(-1, -1, 4, -1, -1)
    network.encoder.position.zero_()
    with torch.no_grad():
        one_slice = torch.arange(16).unsqueeze(0)  # attention sees one slice: the picture
        patches = patchify(clip)
        return torch.cat([network.encoder(patches, one_slice + 16 * t) for t in (0, 1)])


def save(network: nn.Module | dict[str, Tensor], path: Path) -> Path:
    state = network.state_dict() if isinstance(network, nn.Module) else network
    torch.save(state, path) if path.suffix == ".pth" else save_file(state, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"init_values": 0.1}, {"qkv_bias": False}],
    ids=["plain", "LayerScale", "no bias"],
)
def test_a_still_clip_gives_the_tokens_of_the_picture(
    tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    judge, ours = image_network(**changes), build_autoencoder(CONFIG).eval()
    report = load_pretrained(ours, save(judge, tmp_path / name))
    with torch.no_grad():
        expected = judge.forward_features(normalised(picture()))
    assert (tokens_of_still_clip(ours, picture()) - expected).abs().max() < 1e-4
    assert [key for key in report.missing if key.startswith("encoder.")] == []
    assert sorted(report.unused) == ["head.bias", "head.weight"]
    assert "the file does not say how pixels were normalised: taken for ImageNet's" in report.notes


@pytest.mark.parametrize("patch_pixels", [8, 14, 32])
def test_patches_of_another_size_are_resized_as_timm_does(
    tmp_path: Path, patch_pixels: int
) -> None:
    other = image_network(patch_size=patch_pixels, img_size=4 * patch_pixels)
    judge = image_network()
    state = other.state_dict()
    state["patch_embed.proj.weight"] = resample_patch_embed(
        state["patch_embed.proj.weight"], [16, 16]
    )
    judge.load_state_dict(state)
    ours = build_autoencoder(CONFIG).eval()
    report = load_pretrained(ours, save(other, tmp_path / "w.safetensors"))
    with torch.no_grad():
        expected = judge.forward_features(normalised(picture()))
    assert (tokens_of_still_clip(ours, picture()) - expected).abs().max() < 1e-4
    assert f"resized from {patch_pixels} x {patch_pixels} pixels, inflated from" in str(report)


@pytest.mark.parametrize("patch_pixels", [14, 16])
def test_pixels_normalised_otherwise_are_folded_in(tmp_path: Path, patch_pixels: int) -> None:
    mean, std = [0.5, 0.4, 0.6], [0.5, 0.3, 0.2]
    described = {"architecture": "vit_x", "pretrained_cfg": {"mean": mean, "std": std}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    other = image_network(patch_size=patch_pixels, img_size=4 * patch_pixels)
    judge = image_network()
    state = other.state_dict()
    state["patch_embed.proj.weight"] = resample_patch_embed(
        state["patch_embed.proj.weight"], [16, 16]
    )
    judge.load_state_dict(state)
    save(other, tmp_path / "model.safetensors")
    ours = build_autoencoder(CONFIG).eval()
    report = load_pretrained(ours, tmp_path)
    with torch.no_grad():
        expected = judge.forward_features(normalised(picture(), mean, std))
    assert (tokens_of_still_clip(ours, picture()) - expected).abs().max() < 1e-4
    assert "mean folded in" in str(report) and report.notes == [UNKNOWN]


def test_pixels_normalised_as_imagenets_are_left(tmp_path: Path) -> None:
    cfg = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    described = {"architecture": "vit_x", "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(described))
    save(image_network(), tmp_path / "model.safetensors")
    report = load_pretrained(build_autoencoder(CONFIG), tmp_path)
    assert "folded" not in str(report) and report.notes == [UNKNOWN]


def dinov2_state(num_registers: int = 0, side: int = 4) -> dict[str, Tensor]:
    """A state dict as DINOv2's files have it."""
    network = image_network(
        class_token=True,
        pos_embed="learn",
        reg_tokens=num_registers,
        no_embed_class=False,
        global_pool="token",
        init_values=1e-5,
        num_classes=0,
        img_size=16 * side,
    )
    state = network.state_dict()
    state["mask_token"] = torch.zeros(1, 128)
    if num_registers:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = state["pos_embed"][:, : 1 + side**2]  # registers have no place there
    return state


@pytest.mark.parametrize("num_registers", [0, 4])
def test_dinov2_loads_and_every_key_that_is_left_says_why(
    tmp_path: Path, num_registers: int
) -> None:
    state = dinov2_state(num_registers)
    path = save(state, tmp_path / "dinov2.pth")
    autoencoder = build_autoencoder(CONFIG)
    report = load_pretrained(autoencoder, path)
    left = ["cls_token", "encoder.pos_embed", "mask_token"]
    assert sorted(report.unused) == sorted(left + ["register_tokens"] * bool(num_registers))
    assert all(each.how for each in report.fates if each.fate == "not taken")
    assert "vit_micro has a fixed table of places and times" in str(report)
    assert "LayerScale folded in" in str(report)
    assert [key for key in report.missing if key.startswith("encoder.")] == []
    assert {key for key in report.missing if key == "mask_token"} == {"mask_token"}
    new = "decoder (56), encoder_to_decoder.weight, mask_token"
    assert sorted(str(report).splitlines()[2][len("  new: ") :].split(", ")) == sorted(
        new.split(", ")
    )
    classifier = build_classifier(CONFIG)
    report = load_pretrained(classifier, path)
    assert report.missing == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    origins = [each.origin for each in report.fates if each.origin]
    assert {part for origin in origins for part in origin.split(" + ")} == set(state)


def test_an_image_maes_file_loads_with_its_decoder_left(tmp_path: Path) -> None:
    state = dinov2_state() | {
        "mask_token": torch.zeros(1, 1, 64),
        "decoder_embed.weight": torch.zeros(64, 128),
        "decoder_blocks.0.norm1.bias": torch.zeros(64),
    }
    arguments = argparse.Namespace(model="vit_base_patch16", input_size=224)
    torch.save({"model": state, "args": arguments}, tmp_path / "mae.pth")
    report = load_pretrained(build_autoencoder(CONFIG), tmp_path / "mae.pth")
    assert "decoder_blocks.0.norm1.bias: of images" in str(report).replace(
        "mask_token, decoder_embed.weight, ", ""
    )
    assert [key for key in report.missing if key.startswith("encoder.")] == []


# TimeSformer


@pytest.mark.parametrize("attention", ["joint", "divided"])
@pytest.mark.parametrize(("side", "num_registers"), [(4, 0), (4, 4), (7, 0)])
def test_timesformer_takes_places_and_copies_attention_to_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attention: str,
    side: int,
    num_registers: int,
) -> None:
    small_timesformer(monkeypatch)
    config = tiny_config("timesformer_base", attention=attention, num_classes=7)
    state = dinov2_state(num_registers, side)
    network = build_classifier(config)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = load_pretrained(network, save(state, tmp_path / "w.safetensors"))
    after = network.state_dict()
    if side == 4:
        assert torch.equal(after["pos_embed"], state["pos_embed"][:, 1:])
        assert "without its first 1, which no place has" in str(report)
    else:
        expected = resample_abs_pos_embed(state["pos_embed"], [4, 4])[:, 1:]
        assert (after["pos_embed"] - expected).abs().max() < 1e-5
        assert "resized from 7 x 7 places" in str(report)
    stay = [key for key in after if key == "time_embed" or "temporal_fc" in key]
    assert stay and all(torch.equal(after[key], before[key]) for key in stay)
    assert set(stay) <= set(report.missing)
    copies = [key for key in after if ".temporal_attn." in key or ".temporal_norm1." in key]
    assert bool(copies) == (attention == "divided")
    for key in copies:
        assert torch.equal(after[key], after[key.replace("temporal_", "")])
    assert ("copied from attn" in str(report)) == (attention == "divided")


# What does not fit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.0.mlp.w12.weight": torch.zeros(3)}, r"gated \(SwiGLU, mlp\.w12\)"),
        ({"norm_pre.weight": torch.zeros(128)}, "has norm_pre.weight, which no vision"),
        ({"blocks.0.attn.q_norm.weight": torch.zeros(32)}, "q_norm.weight, unknown to this"),
        (
            {"patch_embed.proj.weight": torch.zeros(128, 4, 16, 16)},
            "expected square patches",
        ),
        ({"patch_embed.proj.weight": torch.zeros(128, 3, 8, 16)}, "expected square patches"),
        ({"patch_embed.proj.bias": None}, "lacks encoder.patch_embed.proj.bias"),
        ({"blocks.0.attn.qkv.bias": torch.zeros(128)}, r"qkv.bias is \[128\], expected \[384\]"),
        ({"blocks.0.attn.qkv.weight": torch.zeros(())}, "attn.qkv.weight is"),
        ({"blocks.0.ls1.gamma": torch.zeros(3)}, r"gamma is \[3\] and scales .*\[128, 128\]"),
        ({"blocks.0.ls1.gamma": torch.zeros(())}, r"gamma is \[\] and scales"),
        ({"patch_embed.proj.bias": torch.zeros(())}, "expected square patches"),
        ({"blocks.3.norm2.bias": torch.full((128,), torch.inf)}, "not finite"),
        ({"blocks.4.norm1.bias": torch.zeros(128)}, "has encoder.blocks.4.norm1.bias, unknown"),
        ({"blocks.2.mlp.fc1.bias": None}, "lacks encoder.blocks.2.mlp.fc1.bias"),
    ],
)
def test_networks_of_another_kind_are_refused(
    tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    state = image_network().state_dict() | changes
    path = save({key: t for key, t in state.items() if t is not None}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        load_pretrained(build_autoencoder(CONFIG), path)
    assert "\n" not in str(caught.value)


def test_positions_that_are_no_square_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_timesformer(monkeypatch)
    state = image_network().state_dict() | {"pos_embed": torch.zeros(1, 19, 128)}
    path = save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"pos_embed is \[1, 19, 128\], which is no square"):
        load_pretrained(build_autoencoder(tiny_config("timesformer_base")), path)


def with_biases_apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As BEiT's and EVA's files have them."""
    apart = {}
    for name, tensor in state.items():
        if name.endswith("qkv.bias"):
            block, (q, _, v) = name.removesuffix("qkv.bias"), tensor.chunk(3)
            apart |= {f"{block}q_bias": q.clone(), f"{block}v_bias": v.clone()}
        else:
            apart[name] = tensor
    return apart


def test_biases_that_the_file_has_apart_are_taken_as_they_are(tmp_path: Path) -> None:
    state = image_network().state_dict()
    one, other = build_autoencoder(CONFIG), build_autoencoder(CONFIG)
    load_pretrained(one, save(state, tmp_path / "joint.pth"))
    load_pretrained(other, save(with_biases_apart(state), tmp_path / "apart.pth"))
    for key, tensor in one.encoder.state_dict().items():
        assert torch.equal(other.encoder.state_dict()[key], tensor), key


def test_blocks_of_which_some_have_biases_are_refused(tmp_path: Path) -> None:
    state = image_network().state_dict()
    lacking = {key: tensor for key, tensor in state.items() if key != "blocks.1.attn.qkv.bias"}
    for spoilt in (lacking, state | with_biases_apart(state)):
        with pytest.raises(WeightsError, match=r"of 4 blocks [34] have qkv\.bias and [04] q_bias"):
            load_pretrained(build_autoencoder(CONFIG), save(spoilt, tmp_path / "w.pth"))


def test_the_distillation_token_has_no_place_among_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_timesformer(monkeypatch)
    table = torch.randn(1, 18, 128)
    state = dinov2_state() | {"dist_token": torch.zeros(1, 1, 128), "pos_embed": table}
    network = build_autoencoder(tiny_config("timesformer_base"))
    load_pretrained(network, save(state, tmp_path / "deit.pth"))
    assert torch.equal(network.encoder.pos_embed.data, table[:, 2:])
