"""The classifier: its output, its start, and the layers its learning rates go by."""

import pytest
import torch
import torch.nn.functional as F
from networks import EVERY_BACKBONE, normal_clip, randomised, tiny_config
from timm.layers import DropPath
from timm.optim import param_groups_layer_decay

from mgm_dali.config import ModelConfig
from mgm_dali.errors import UserError
from mgm_dali.models import BACKBONES, build_autoencoder, build_classifier


@pytest.mark.parametrize("name", EVERY_BACKBONE)
def test_logits_are_the_head_on_the_normalised_mean_of_all_tokens(name: str) -> None:
    config = tiny_config(name, num_classes=7)
    classifier = randomised(build_classifier(config))
    # The autoencoder's trunk is checked against a plain computation; here it must be the same one.
    autoencoder = build_autoencoder(config).eval()
    trunk = {f"encoder.{key}": value for key, value in classifier.state_dict().items()}
    autoencoder.load_state_dict(trunk, strict=False)
    autoencoder.encoder.norm = torch.nn.Identity()
    video = normal_clip(config)
    pooled = autoencoder.encode(video).mean(dim=1)
    norm, head = classifier.fc_norm, classifier.head
    normalised = F.layer_norm(pooled, pooled.shape[-1:], norm.weight, norm.bias, 1e-6)
    expected = normalised @ head.weight.T + head.bias
    logits = classifier(video)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(classifier.features(video), normalised, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("vit_small", 22.03), ("vit_base", 86.53), ("vit_large", 304.27), ("vit_huge", 632.12)],
)
def test_size_is_the_published_one(name: str, millions: float) -> None:
    with torch.device("meta"):
        classifier = build_classifier(ModelConfig(name=name, num_classes=400))
    count = sum(parameter.numel() for parameter in classifier.parameters())
    assert round(count / 1e6, 2) == millions
    assert len(classifier.state_dict()) == 6 + 13 * BACKBONES[name].depth


def test_without_num_classes_the_error_says_what_to_set() -> None:
    with pytest.raises(UserError, match=r"set model\.num_classes"):
        build_classifier(tiny_config())


def test_a_video_of_another_size_is_refused() -> None:
    config = tiny_config(num_classes=7)
    with pytest.raises(ValueError, match=r"expected \[B, 3, 4, 64, 64\], found"):
        build_classifier(config)(normal_clip(config)[..., :48])


def test_the_head_starts_a_thousand_times_smaller_than_other_matrices() -> None:
    classifier = build_classifier(tiny_config(num_classes=100))
    assert classifier.head.weight.std().item() == pytest.approx(2e-5, rel=0.05)
    assert classifier.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(2e-2, rel=0.05)
    assert classifier.head.bias.abs().max() == 0


def test_drop_path_rises_linearly_and_head_dropout_acts_only_in_training() -> None:
    classifier = build_classifier(
        tiny_config("vit_tiny", num_classes=7, drop_path=0.11, head_dropout=0.5)
    )
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in classifier.blocks]
    assert rates == pytest.approx([0.01 * index for index in range(12)])
    assert isinstance(classifier.blocks[11].drop_path, DropPath)
    video = normal_clip(classifier.config)
    randomised(classifier)
    assert torch.equal(classifier(video), classifier(video))
    classifier.train()
    assert not torch.equal(classifier(video), classifier(video))


@pytest.mark.parametrize("name", BACKBONES)
def test_timm_gives_videomaes_layers(name: str) -> None:
    config = tiny_config(name, num_classes=7)
    with torch.device("meta"):
        classifier = build_classifier(config)
    depth, decay = BACKBONES[name].depth, 0.75
    groups = param_groups_layer_decay(
        classifier,
        weight_decay=0.05,
        layer_decay=decay,
        no_weight_decay_list=classifier.no_weight_decay(),
    )
    names = {id(parameter): key for key, parameter in classifier.named_parameters()}
    seen = []
    for group in groups:
        for parameter in group["params"]:
            key = names[id(parameter)]
            seen.append(key)
            layer = depth + 1
            if key.startswith(("patch_embed.", "pos_embed", "time_embed")):
                layer = 0
            elif key.startswith("blocks."):
                layer = int(key.split(".")[1]) + 1
            assert group["lr_scale"] == pytest.approx(decay ** (depth + 1 - layer)), key
            decays = parameter.ndim > 1 and key not in ("pos_embed", "time_embed")
            assert group["weight_decay"] == (0.05 if decays else 0.0), key
    assert sorted(seen) == sorted(names.values())
