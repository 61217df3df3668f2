"""The autoencoder, against VideoMAE's computation written out plainly, and its mask's meaning.

Letters: B clips, N tokens, K visible, M hidden, D width.
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import EVERY_BACKBONE, normal_clip, randomised, tiny_config, uneven_masks
from plain_autoencoder import plain_forward, plain_target
from torch import Tensor

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig
from mgm_dali.models import BACKBONES, Autoencoder, build_autoencoder
from mgm_dali.models.attention import Attention
from mgm_dali.models.patches import (
    normalised_pixels,
    patch_statistics,
    patchify,
    split_tokens,
    take_tokens,
    unpatchify,
)


@pytest.fixture(scope="module", params=EVERY_BACKBONE)
def autoencoder(request: pytest.FixtureRequest) -> Autoencoder:
    torch.manual_seed(0)
    return randomised(build_autoencoder(tiny_config(request.param)))


def test_loss_prediction_and_gradients_are_those_of_the_plain_computation(
    autoencoder: Autoencoder,
) -> None:
    config = autoencoder.config
    video, mask = normal_clip(config), uneven_masks(config)
    weights = {n: p.detach().clone().requires_grad_() for n, p in autoencoder.named_parameters()}
    loss, predicted, encoded = plain_forward(config, weights, video, mask)
    loss.backward()

    ours = autoencoder(video, mask)
    ours.backward()
    assert ours.shape == () and ours.dtype == torch.float32
    torch.testing.assert_close(ours, loss, atol=1e-4, rtol=0)
    torch.testing.assert_close(autoencoder.reconstruct(video, mask), predicted, atol=1e-4, rtol=0)
    torch.testing.assert_close(autoencoder.encode(video, mask), encoded, atol=1e-4, rtol=0)
    for name, parameter in autoencoder.named_parameters():
        torch.testing.assert_close(
            parameter.grad, weights[name].grad, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: n + m
        )


def test_decoder_masking_leaves_out_of_decoder_and_loss_what_is_not_predicted(
    autoencoder: Autoencoder,
) -> None:
    config = autoencoder.config
    video, mask = normal_clip(config), uneven_masks(config)
    decoded = mask & uneven_masks(config, hidden=16).flip(1)
    count = int(decoded.sum(1).min())
    decoded &= decoded.cumsum(1) <= count
    weights = {n: p.detach().clone().requires_grad_() for n, p in autoencoder.named_parameters()}
    expected, _, _ = plain_forward(config, weights, video, mask, decoded)
    expected.backward()
    for counts in ((None, None), (24, count)):
        autoencoder.zero_grad()
        loss = autoencoder(video, mask, counts[0], decoded, counts[1])
        loss.backward()
        torch.testing.assert_close(loss, expected, atol=1e-4, rtol=0)
        for name, parameter in autoencoder.named_parameters():
            torch.testing.assert_close(
                parameter.grad, weights[name].grad, atol=1e-4, rtol=1e-3, msg=name
            )


def test_what_is_visible_cannot_be_predicted() -> None:
    config = tiny_config()
    autoencoder, mask = build_autoencoder(config), uneven_masks(config)
    for decoded in (~mask, torch.zeros_like(mask)):
        with pytest.raises(ValueError, match="decoded: of each clip one token or more"):
            autoencoder(normal_clip(config), mask, decoded=decoded)
    for decoded in (mask.float(), mask[:, :-1]):
        with pytest.raises(ValueError, match="decoded: expected bool"):
            autoencoder(normal_clip(config), mask, 24, decoded, 24)


def test_the_table_of_backbones_is_what_the_configuration_offers() -> None:
    assert list(BACKBONES) == list(ModelConfig.model_fields["name"].annotation.__args__)


@pytest.mark.parametrize(
    ("name", "millions", "tensors"),
    [
        ("vit_small", 24.03, 218),
        ("vit_base", 94.21, 218),
        ("vit_large", 343.0, 478),
        ("vit_huge", 692.49, 582),
    ],
)
def test_size_is_the_published_one(name: str, millions: float, tensors: int) -> None:
    with torch.device("meta"):
        autoencoder = build_autoencoder(ModelConfig(name=name))
    count = sum(parameter.numel() for parameter in autoencoder.parameters())
    assert round(count / 1e6, 2) == millions
    assert len(autoencoder.state_dict()) == tensors


def test_hidden_pixels_do_not_reach_the_encoder_and_visible_ones_do(
    autoencoder: Autoencoder,
) -> None:
    config = autoencoder.config
    video, mask = normal_clip(config), uneven_masks(config)
    other = normal_clip(config, seed=5)
    encoded = autoencoder.encode(video, mask)
    for tokens, changes in ((mask, False), (~mask, True)):
        cut = torch.where(tokens.unsqueeze(2), patchify(other), patchify(video))
        changed = unpatchify(cut, autoencoder.grid)
        assert torch.equal(autoencoder.encode(changed, mask), encoded) is not changes
        assert (
            torch.equal(
                autoencoder.reconstruct(changed, mask), autoencoder.reconstruct(video, mask)
            )
            is not changes
        )


def test_each_row_follows_its_own_mask(autoencoder: Autoencoder) -> None:
    config = autoencoder.config
    video, mask = normal_clip(config), uneven_masks(config)
    assert not torch.equal(mask[0], mask[1])
    together = autoencoder.reconstruct(video, mask)
    for row in (0, 1):
        alone = autoencoder.reconstruct(video[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_without_a_mask_all_tokens_are_encoded(autoencoder: Autoencoder) -> None:
    config = autoencoder.config
    video = normal_clip(config)
    nothing = torch.zeros(2, autoencoder.grid.num_tokens, dtype=torch.bool)
    encoded = autoencoder.encode(video)
    assert encoded.shape == (2, 32, BACKBONES[config.name].width)
    torch.testing.assert_close(encoded, autoencoder.encode(video, nothing), atol=1e-5, rtol=0)


def test_a_given_count_of_hidden_tokens_changes_nothing() -> None:
    config = tiny_config()
    autoencoder = build_autoencoder(config)
    video, mask = normal_clip(config), uneven_masks(config)
    assert torch.equal(autoencoder(video, mask, num_hidden=24), autoencoder(video, mask))


def test_with_the_count_given_no_value_is_asked_of_the_device() -> None:
    config = tiny_config()
    with torch.device("meta"):  # tensors without values: asking for one is an error
        autoencoder = build_autoencoder(config)
        video, mask = torch.empty(2, 3, 4, 64, 64), torch.empty(2, 32, dtype=torch.bool)
        autoencoder(video, mask, num_hidden=24).backward()
        with pytest.raises(RuntimeError, match="meta"):
            autoencoder(video, mask)


def test_last_queries_get_what_they_get_among_all() -> None:
    attention = Attention(64, 4)
    x = torch.randn(2, 12, 64)
    torch.testing.assert_close(attention(x, num_queries=5), attention(x)[:, -5:])


def test_bfloat16_gives_nearly_the_same_loss(autoencoder: Autoencoder) -> None:
    config = autoencoder.config
    video, mask = normal_clip(config), uneven_masks(config)
    exact = autoencoder(video, mask).item()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = autoencoder(video, mask)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact, rel=0.02)
    assert copy.deepcopy(autoencoder).bfloat16()(video, mask).item() == pytest.approx(
        exact, rel=0.02
    )


def normalised_target(video: Tensor, mask: Tensor) -> Tensor:
    """What `reconstruct` should give: `[B, M, P]`."""
    _, hidden = split_tokens(mask)
    return normalised_pixels(take_tokens(patchify(video), hidden))


def test_the_target_has_mean_0_and_deviation_1_in_every_token_and_channel() -> None:
    config = tiny_config()
    video, mask = normal_clip(config), uneven_masks(config)
    target = normalised_target(video, mask)
    assert target.shape == (2, 24, 1536)
    torch.testing.assert_close(target, plain_target(video, mask), atol=1e-4, rtol=0)
    variance, mean = torch.var_mean(target.reshape(2, 24, 512, 3), dim=2)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
    torch.testing.assert_close(variance, torch.ones_like(variance), atol=1e-4, rtol=0)


def test_statistics_turn_the_target_back_into_pixels() -> None:
    config = tiny_config()
    video = normal_clip(config)
    patches = patchify(video)
    everything = torch.ones(2, 32, dtype=torch.bool)
    mean, deviation = patch_statistics(patches)
    pixels = normalised_target(video, everything).reshape(2, 32, 512, 3) * deviation + mean
    std, offset = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
    expected = patches.reshape(2, 32, 512, 3) * std + offset
    torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)


def test_a_flat_patch_gives_a_finite_target_and_loss() -> None:
    config = tiny_config()
    flat, mask = torch.full_like(normal_clip(config), 0.3), uneven_masks(config)
    assert normalised_target(flat, mask).abs().max() < 1
    assert build_autoencoder(config)(flat, mask).isfinite()


def test_patchify_puts_frame_row_column_channel_in_that_order_and_back() -> None:
    config = ModelConfig(name="vit_micro", num_frames=4, image_size=48)
    video = normal_clip(config)
    patches = patchify(video)
    n = (1 * 3 + 2) * 3 + 0  # token (t, h, w) = (1, 2, 0)
    p = ((1 * 16 + 5) * 16 + 7) * 3 + 2  # frame 1, row 5, column 7, channel 2 of it
    assert patches[1, n, p] == video[1, 2, 2 + 1, 32 + 5, 0 + 7]
    assert torch.equal(unpatchify(patches, token_grid(config)), video)


def test_indices_are_ascending_and_tell_visible_from_hidden() -> None:
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    visible, hidden = split_tokens(mask)
    assert visible.tolist() == [[1, 3], [0, 1]]
    assert hidden.tolist() == [[0, 2], [2, 3]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda video, mask: (video, mask ^ (torch.arange(2) == 0).view(2, 1)), "same number"),
        (lambda video, mask: (video, mask.float()), "expected bool"),
        (lambda video, mask: (video, mask[:, :-1]), r"expected bool \[2, 32\]"),
        (lambda video, mask: (video.transpose(1, 2), mask), r"expected \[B, 3, 4, 64, 64\]"),
    ],
)
def test_a_clip_or_mask_that_does_not_fit_is_refused(
    spoil: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str
) -> None:
    config = tiny_config()
    with pytest.raises(ValueError, match=message):
        build_autoencoder(config)(*spoil(normal_clip(config), uneven_masks(config)))


def test_the_start_is_videomaes() -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(ModelConfig(name="vit_tiny"))
    for name, parameter in autoencoder.named_parameters():
        if name.endswith("bias"):
            at_zero = "patch_embed" not in name
            assert (parameter.abs().max() == 0) == at_zero, name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        elif name == "mask_token":
            assert 0.018 < parameter.abs().max() <= 0.02
        elif name.startswith(("encoder.patch_embed", "encoder_to_decoder")):
            bound = (parameter[0].numel()) ** -0.5  # kaiming-uniform as torch does it
            assert 0.98 * bound < parameter.abs().max() <= bound, name
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5  # xavier-uniform
            assert 0.98 * bound < parameter.abs().max() <= bound, name


def test_a_few_steps_learn_a_clip() -> None:
    torch.manual_seed(0)
    config = tiny_config()
    autoencoder = build_autoencoder(config)
    optimiser = torch.optim.AdamW(autoencoder.parameters(), lr=2e-3)
    video = F.interpolate(torch.randn(2, 3, 4, 8, 8), size=(4, 64, 64))
    mask = uneven_masks(config)
    losses = []
    for _ in range(40):
        losses.append(autoencoder(video, mask))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.6 * losses[0]
