"""TimeSformer: divided attention, on whole clips and on what a mask leaves of them."""

import pytest
import torch
from networks import normal_clip, randomised, tiny_config, uneven_masks
from plain_autoencoder import plain_forward
from small_timesformer import small_timesformer

from mgm_dali.config import ModelConfig
from mgm_dali.models import build_autoencoder, build_classifier
from mgm_dali.models.flops import forward_gflops
from mgm_dali.models.patches import patchify
from mgm_dali.models.timesformer import DividedBlock, group_tokens


@pytest.fixture(autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "published" not in request.node.name:
        small_timesformer(monkeypatch)


def config_of(attention: str = "divided", **changes: object) -> ModelConfig:
    return tiny_config("timesformer_base", attention=attention, **changes)


MASKS = {
    "uneven over slices and places": uneven_masks(config_of()),
    "a whole slice hidden": (torch.arange(32) < 16).expand(2, -1),
    "one place visible": (torch.arange(32) % 16 != 5).expand(2, -1),
    "one token visible": (torch.arange(32) != 9).expand(2, -1),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_loss_and_gradients_are_those_of_the_plain_computation(
    attention: str, mask: torch.Tensor
) -> None:
    config = config_of(attention)
    autoencoder, video = randomised(build_autoencoder(config)), normal_clip(config)
    weights = {n: p.detach().clone().requires_grad_() for n, p in autoencoder.named_parameters()}
    loss, predicted, encoded = plain_forward(config, weights, video, mask)
    loss.backward()
    autoencoder(video, mask).backward()
    torch.testing.assert_close(autoencoder.reconstruct(video, mask), predicted, atol=1e-4, rtol=0)
    torch.testing.assert_close(autoencoder.encode(video, mask), encoded, atol=1e-4, rtol=0)
    for name, parameter in autoencoder.named_parameters():
        torch.testing.assert_close(
            parameter.grad, weights[name].grad, atol=1e-4, rtol=1e-3, msg=name
        )


def test_with_nothing_hidden_dropped_tokens_are_the_full_grid() -> None:
    trunk = randomised(build_autoencoder(config_of())).encoder
    patches = patchify(normal_clip(config_of()))
    everything = torch.arange(32).expand(2, -1)
    whole, dropped = trunk(patches), trunk(patches, everything)
    torch.testing.assert_close(whole, dropped, atol=1e-5, rtol=1e-5)


def test_attention_over_time_stays_at_a_place_and_over_space_in_a_slice() -> None:
    grid = build_autoencoder(config_of()).grid
    index = torch.tensor([[0, 3, 17, 19, 31]])  # places 0 3 1 3 15, slices 0 0 1 1 1
    groups = group_tokens(grid, index)
    assert groups.same_place is not None and groups.same_slice is not None
    assert groups.same_place[0].nonzero().tolist() == [
        *([0, 0], [1, 1], [1, 3], [2, 2], [3, 1], [3, 3], [4, 4])
    ]
    assert groups.same_slice[0, 2].tolist() == [False, False, True, True, True]


def test_at_the_start_time_counts_in_the_first_block_alone() -> None:
    for build in (build_autoencoder, build_classifier):
        network = build(config_of(num_classes=3))
        blocks = [m for m in network.modules() if isinstance(m, DividedBlock)]
        silent = [bool((block.temporal_fc.weight == 0).all()) for block in blocks]
        assert silent == [False, True, True, True]


def test_joint_attention_has_no_parts_for_time() -> None:
    names = build_autoencoder(config_of("joint")).state_dict()
    assert not any("temporal" in name for name in names)
    assert {"encoder.pos_embed", "encoder.time_embed"} <= names.keys()


def test_positions_that_are_learned_are_learned() -> None:
    autoencoder = build_autoencoder(config_of())
    autoencoder(normal_clip(config_of()), uneven_masks(config_of())).backward()
    for table in (autoencoder.encoder.pos_embed, autoencoder.encoder.time_embed):
        assert table.grad is not None and table.grad.abs().max() > 0


def test_the_published_size_but_for_what_differs() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        ours = build_classifier(ModelConfig(name="timesformer_base", num_classes=400))
        config = transformers.TimesformerConfig(num_frames=8, num_labels=400)
        theirs = transformers.TimesformerForVideoClassification(config)
    expected = sum(parameter.numel() for parameter in theirs.parameters())
    expected += 768 * 3 * 256  # a patch of two frames, where theirs have one
    expected -= 2 * 768  # their class token and its position
    expected -= 2 * 12 * 768  # their bias on keys
    assert sum(parameter.numel() for parameter in ours.parameters()) == expected


def test_the_published_cost() -> None:
    config = ModelConfig(name="timesformer_base", num_classes=400)
    # Their table 5: 0.59 TFLOPs, multiply-adds of three views of 8 frames, which have 1568 tokens.
    assert forward_gflops(config, 1568) == pytest.approx(2 * 590 / 3, rel=0.01)
