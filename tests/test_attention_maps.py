"""Attention maps are the weights that the network's own forward pass uses."""

import pytest
import torch
import torch.nn.functional as F
from networks import normal_clip, randomised, tiny_config

from mgm_dali.models import build_autoencoder, build_classifier
from mgm_dali.models.attention import use_kernel
from mgm_dali.models.attention_maps import attention_map
from mgm_dali.models.kernels import ATTENTION_KERNELS

NETWORKS = {
    "autoencoder": lambda: build_autoencoder(tiny_config()),
    "classifier": lambda: build_classifier(tiny_config(num_classes=3)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return randomised(NETWORKS[request.param]())


def run_whole(network, video):
    return network.encode(video) if hasattr(network, "encode") else network(video)


@pytest.mark.parametrize("layer", [0, 2, -1])
def test_the_map_is_what_the_fused_kernel_computes_with(network, layer, monkeypatch):
    video, query = normal_clip(network.config), 21
    caught = []

    def attend(q, k, v, allowed):
        caught.append((q, k))
        return F.scaled_dot_product_attention(q, k, v, allowed)

    monkeypatch.setitem(ATTENTION_KERNELS, "sdpa", attend)
    use_kernel(network, "sdpa")
    with torch.no_grad():
        run_whole(network, video)
    q, k = caught[layer]
    # Values that are one-hot let the kernel tell its weights.
    one_hot = torch.eye(k.shape[2]).expand(*k.shape[:2], -1, -1)
    expected = F.scaled_dot_product_attention(q, k, one_hot).mean(1)[:, query]
    found = attention_map(network, video, query, layer)
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.std() > 1e-4, "attention that is all alike would hide a mistake"
    assert torch.allclose(found.sum(-1), torch.ones(2))


def test_a_map_leaves_the_network_as_it_was(network):
    video = normal_clip(network.config)
    with torch.no_grad():
        before = run_whole(network, video)
        attention_map(network, video, 0)
        assert torch.equal(run_whole(network, video), before)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_what_is_not_there_is_refused(network):
    video = normal_clip(network.config)
    for wrong in ({"query": 32}, {"query": -1}, {"query": 0, "layer": 4}):
        with pytest.raises(IndexError):
            attention_map(network, video, **wrong)
    with pytest.raises(ValueError, match="video: expected"):
        attention_map(network, video[:, :, :2], 0)
    assert not any(module._forward_pre_hooks for module in network.modules())
