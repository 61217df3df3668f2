"""The operation count, against published numbers and against torch's counter."""

import pytest
import torch
from networks import normal_clip, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from mgm_dali.config import ModelConfig
from mgm_dali.models import build_classifier
from mgm_dali.models.attention import use_kernel
from mgm_dali.models.flops import forward_gflops

PUBLISHED = [("vit_small", 392, 35.2), ("vit_small", 160, 23.1)]
PUBLISHED += [("vit_base", 392, 114.9), ("vit_base", 160, 70.9)]
PUBLISHED += [("vit_large", 392, 438), ("vit_large", 160, 285), ("vit_huge", 392, 788)]
PUBLISHED += [("vit_huge", 160, 475)]


@pytest.mark.parametrize(("name", "visible", "gflops"), PUBLISHED)
def test_pretraining_costs_what_is_published(name: str, visible: int, gflops: float) -> None:
    assert forward_gflops(ModelConfig(name=name), visible) == pytest.approx(
        gflops, abs=0.05 if gflops < 200 else 0.5
    )


def test_finetuning_vit_base_costs_what_is_published() -> None:
    config = ModelConfig(name="vit_base", num_classes=400)
    assert forward_gflops(config, 1568) == pytest.approx(361, abs=0.5)


def test_the_formula_is_what_torch_counts_where_it_sees_attention() -> None:
    config = tiny_config(num_classes=10)
    classifier = build_classifier(config)
    use_kernel(classifier, "plain")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        classifier(normal_clip(config, batch=1))
    assert counter.get_total_flops() / 1e9 == pytest.approx(forward_gflops(config, 32), rel=1e-6)


def test_predicting_half_of_the_hidden_tokens_spares_decoder_work_alone() -> None:
    config = ModelConfig(name="vit_base")
    whole, half = forward_gflops(config, 392), forward_gflops(config, 392, 588)
    assert forward_gflops(config, 392, 1176) == whole
    decoder_only = whole - forward_gflops(config.model_copy(update={"decoder_depth": 0}), 392)
    assert 0.3 * decoder_only < whole - half < decoder_only


@pytest.mark.parametrize("decoded", [0, 1177])
def test_predicting_nothing_or_more_than_is_hidden_is_refused(decoded: int) -> None:
    with pytest.raises(ValueError, match=f"found {decoded}"):
        forward_gflops(ModelConfig(), 392, decoded)


@pytest.mark.parametrize("visible", [0, 1569, -1])
def test_no_token_or_more_than_all_is_refused(visible: int) -> None:
    with pytest.raises(ValueError, match=f"found {visible}"):
        forward_gflops(ModelConfig(), visible)
