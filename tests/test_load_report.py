"""Every parameter of a network and every entry of a file has a fate, and the summary is short."""

import csv
from pathlib import Path

import pytest
import torch
from networks import randomised, tiny_config
from safetensors.torch import save_file

from mgm_dali.models import BACKBONES, build_autoencoder, build_classifier, load_pretrained
from mgm_dali.models.load_report import KeyFate, LoadReport, collapse
from mgm_dali.models.saving import save_weights

CONFIG = tiny_config(num_classes=7)
BLOCK = ["norm1.weight", "norm1.bias", "attn.q_bias"]
FOUR_BLOCKS = [f"blocks.{index}.{name}" for index in range(4) for name in BLOCK]


@pytest.mark.parametrize(
    ("keys", "universe", "expected"),
    [
        (["head.weight"], None, "head.weight"),
        (["head.weight", "head.bias"], None, "head (2)"),
        (["head.weight"], ["head.weight", "head.bias"], "head.weight"),
        (FOUR_BLOCKS, None, "blocks.0-3 (12)"),
        ([*FOUR_BLOCKS, "mask_token"], None, "blocks.0-3 (12), mask_token"),
        (FOUR_BLOCKS, [*FOUR_BLOCKS, "blocks.0.extra"], None),
        ([n for n in FOUR_BLOCKS if "attn" in n], FOUR_BLOCKS, "blocks.0-3.attn (4)"),
        (
            [n for n in FOUR_BLOCKS if n.endswith("norm1.bias")],
            FOUR_BLOCKS,
            "blocks.0-3.norm1.bias (4)",
        ),
        (
            [n for n in FOUR_BLOCKS if n.endswith("q_bias") and ".1." not in n],
            FOUR_BLOCKS,
            "blocks.0,2-3.attn.q_bias (3)",
        ),
        ([f"encoder.{n}" for n in FOUR_BLOCKS], None, "encoder (12)"),
        ([], None, ""),
    ],
)
def test_a_prefix_stands_for_all_that_begin_with_it(
    keys: list[str], universe: list[str] | None, expected: str | None
) -> None:
    assert collapse(keys, universe) == (
        expected if expected is not None else "blocks.0-3.norm1 (8), blocks.0-3.attn (4)"
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_the_summary_of_every_backbone_is_a_few_short_lines(name: str) -> None:
    with torch.device("meta"):
        config = tiny_config(name)
        network = build_autoencoder(config.model_validate(config.model_dump()))
    fates = [
        KeyFate(key, tuple(tensor.shape), "taken" if key.startswith("encoder.") else "new")
        for key, tensor in network.state_dict().items()
    ]
    lines = str(LoadReport(Path("weights.pth"), fates, [])).splitlines()
    assert len(lines) == 3 and max(map(len, lines)) < 80
    assert sum("new: " in line for line in lines) == 1


def test_every_key_has_exactly_one_fate_in_the_csv(tmp_path: Path) -> None:
    autoencoder = randomised(build_autoencoder(CONFIG))
    state = autoencoder.state_dict() | {"surplus": torch.zeros(2, 3)}
    torch.save({"model": state, "epoch": 3}, tmp_path / "w.pth")
    classifier = build_classifier(CONFIG)
    report = load_pretrained(classifier, tmp_path / "w.pth")
    rows = list(csv.DictReader(report.as_csv().splitlines()))
    assert list(rows[0]) == ["key", "shape", "fate", "from"]
    of_network = [row["key"] for row in rows if row["fate"] in ("taken", "new")]
    assert of_network == list(classifier.state_dict())
    of_file = [row["from"] for row in rows if row["from"]]
    assert sorted(of_file) == sorted([*state, "epoch"])
    by_key = {row["key"]: row for row in rows}
    assert by_key["blocks.0.attn.qkv.weight"] == {
        "key": "blocks.0.attn.qkv.weight",
        "shape": "384x128",
        "fate": "taken",
        "from": "encoder.blocks.0.attn.qkv.weight",
    }
    assert by_key["head.weight"]["fate"] == "new" and not by_key["head.weight"]["from"]
    assert by_key["surplus"]["fate"] == "not taken" and by_key["surplus"]["shape"] == "2x3"
    assert by_key["epoch"]["fate"] == "ignored: not the weights"


def test_the_summary_says_what_is_taken_new_and_not_taken(tmp_path: Path) -> None:
    save_weights(build_autoencoder(CONFIG), CONFIG, tmp_path / "w.safetensors")
    report = load_pretrained(build_classifier(CONFIG), tmp_path / "w.safetensors")
    assert str(report).splitlines() == [
        f"{tmp_path / 'w.safetensors'}: 54 parameters taken",
        "  taken: patch_embed (2), blocks.0-3 (52)",
        "  new: fc_norm (2), head (2)",
        "  not taken: decoder (56), encoder.norm (2), encoder_to_decoder.weight, mask_token",
    ]


def test_control_characters_in_names_are_shown_escaped(tmp_path: Path) -> None:
    state = build_autoencoder(CONFIG).state_dict() | {
        "a\n\x1b[31m": torch.zeros(1),
        "a\\n": torch.zeros(1),
    }
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"model": state, "b\x07": 1}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        report = load_pretrained(build_autoencoder(CONFIG), tmp_path / name)
        assert "a\\n\\x1b[31m" in str(report) and "a\\\\n" in str(report)
        assert all(line.isprintable() for line in str(report).splitlines())


def test_a_head_that_reads_one_token_is_left_and_that_is_said(tmp_path: Path) -> None:
    state = build_classifier(CONFIG).state_dict()
    kept = {key: tensor for key, tensor in state.items() if not key.startswith("fc_norm")}
    save_file(kept, tmp_path / "w.safetensors")
    report = load_pretrained(build_autoencoder(CONFIG), tmp_path / "w.safetensors")
    assert "not taken: head (2): reads one token in the file" in str(report)
