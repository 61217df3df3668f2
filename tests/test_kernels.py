"""The kernels of attention agree with each other, and the fastest is found by measuring."""

import pytest
import torch
import torch.nn.functional as F
from networks import normal_clip, tiny_config, uneven_masks

from mgm_dali.config import TrainingConfig
from mgm_dali.models import build_autoencoder, kernels
from mgm_dali.models.attention import Attention, use_kernel
from mgm_dali.models.kernels import (
    ATTENTION_KERNELS,
    AttentionShape,
    attend,
    measure_kernels,
    why_unusable,
)
from mgm_dali.models.linear import linear

CPU = torch.device("cpu")
ROADS = {**ATTENTION_KERNELS, "by rule": attend}
USABLE = [name for name in ROADS if name != "cudnn"]  # a GPU's alone
SHAPES = (AttentionShape(2, 1, 2, 32, 16),)


def test_the_table_is_what_the_configuration_offers():
    offered = TrainingConfig.model_fields["attention_kernel"].annotation.__args__
    assert list(offered) == ["auto", *ATTENTION_KERNELS]


@pytest.mark.parametrize("has_instructions", [True, False])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", USABLE)
def test_attention_is_the_same_by_every_road(
    name, masked, dtype, error, has_instructions, monkeypatch
):
    monkeypatch.setattr(kernels, "CPU_MULTIPLIES_BFLOAT16", has_instructions)
    q, k, v = torch.randn(3, 2, 4, 10, 16).to(dtype)
    allowed = torch.rand(2, 1, 10, 10) < 0.4
    allowed |= torch.eye(10, dtype=torch.bool)
    scores = torch.einsum("bhnd,bhmd->bhnm", q.double(), k.double()) / 16**0.5
    if masked:
        scores += torch.where(allowed, 0.0, -1e9)
    expected = torch.einsum("bhnm,bhmd->bhnd", scores.softmax(-1), v.double())
    mixed = ROADS[name](q, k, v, allowed if masked else None)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.double(), expected, atol=error, rtol=0)


def test_what_cannot_be_used_is_known_beforehand():
    for name in ATTENTION_KERNELS:
        assert (why_unusable(name, torch.float32, CPU) is None) == (name != "cudnn"), name
        masked = why_unusable(name, torch.float32, CPU, masked=True)
        assert (masked is None) == (name != "cudnn"), name


def test_the_kernel_of_a_network_is_that_of_all_its_attention():
    config = tiny_config()
    autoencoder, video, mask = build_autoencoder(config), normal_clip(config), uneven_masks(config)
    expected = autoencoder(video, mask)
    for name in ("plain", "sdpa"):
        use_kernel(autoencoder, name)
        found = {m.kernel for m in autoencoder.modules() if isinstance(m, Attention)}
        assert found == {ATTENTION_KERNELS[name]}
        torch.testing.assert_close(autoencoder(video, mask), expected)


@pytest.fixture
def fake_times(monkeypatch):
    """Kernels take as many milliseconds as the test says; how often each was asked is counted."""
    times, asked = {}, []

    def milliseconds(kernel, inputs, _device):
        name = next(n for n, function in ATTENTION_KERNELS.items() if function is kernel)
        asked.append(name)
        if isinstance(times[name], str):
            raise RuntimeError(times[name])
        cold = 10 if len(asked) == 1 else 1  # whoever is first warms the processor up
        return times[name] * cold * len(list(inputs))

    monkeypatch.setattr(kernels, "_milliseconds", milliseconds)
    measure_kernels.cache_clear()
    yield times, asked
    measure_kernels.cache_clear()


@pytest.mark.parametrize(
    ("taken", "fastest"),
    [
        ({"sdpa": 10.0, "plain": 6.0}, "plain"),
        ({"sdpa": 10.0, "plain": 8.0}, "sdpa"),  # for all the memory that it takes
        ({"sdpa": 10.0, "plain": 30.0}, "sdpa"),
        ({"sdpa": 4000.0, "plain": 9000.0}, "sdpa"),
        ({"sdpa": 9000.0, "plain": 4000.0}, "plain"),
        ({"sdpa": 10.0, "plain": "out of memory\nmore"}, "sdpa"),
    ],
)
def test_torchs_own_choice_stays_unless_another_is_clearly_faster(fake_times, taken, fastest):
    times, asked = fake_times
    times.update(taken)
    chosen, found = measure_kernels(SHAPES, torch.float32, CPU)
    assert chosen == fastest
    assert found == {k: v.splitlines()[0] if isinstance(v, str) else v for k, v in taken.items()}
    times_asked = {"out of memory\nmore": 1, 9000.0: 2}
    assert asked.count("plain") == times_asked.get(taken["plain"], 4)


def test_a_kernel_that_needs_no_more_memory_may_gain_less(fake_times):
    times, _ = fake_times
    times.update({"sdpa": 10.0, "plain": 8.0, "float32": 8.5})
    assert measure_kernels(SHAPES, torch.bfloat16, CPU)[0] == "float32"
    times["float32"] = 9.5
    measure_kernels.cache_clear()
    assert measure_kernels(SHAPES, torch.bfloat16, CPU)[0] == "sdpa"


def test_measuring_really_measures():
    measure_kernels.cache_clear()
    chosen, found = measure_kernels(SHAPES, torch.bfloat16, CPU)
    assert chosen in found and set(found) == {"sdpa", "plain", "float32"}
    assert all(isinstance(taken, float) and taken > 0 for taken in found.values())


@pytest.mark.parametrize("has_instructions", [True, False])
def test_linear_layers_give_the_rounded_product_where_bfloat16_has_no_instructions(
    has_instructions, monkeypatch
):
    monkeypatch.setattr("mgm_dali.models.linear.CPU_MULTIPLIES_BFLOAT16", has_instructions)
    x, weight, bias = torch.randn(5, 64), torch.randn(32, 64), torch.randn(32)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    low = [tensor.bfloat16().requires_grad_() for tensor in (x, weight, bias)]
    exact = [tensor.detach().float().requires_grad_() for tensor in low]
    found, expected = linear(*low), F.linear(*exact)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=1e-2)
    if not has_instructions:
        assert torch.equal(found, expected.bfloat16())
    found.float().square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(low, exact, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, atol=0.5, rtol=3e-2)
