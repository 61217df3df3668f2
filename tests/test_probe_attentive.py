"""The attentive probe: the block against plain sums, each head of a grid against one alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_features import examples_of, fitting_for, table_of
from torch.optim import AdamW

from mgm_dali.config.probe import ProbeConfig
from mgm_dali.training.probe_attentive import (
    AttentiveHead,
    AttentiveSetting,
    attentive_settings,
    fit_attentive,
)
from mgm_dali.training.probe_data import epoch_of_batches, steps_per_epoch

torch.set_num_threads(1)

CLASSES, WIDTH, TOKENS = 3, 16, 6
SHORT = {"attentive": {"epochs": 3, "batch_size": 32, "num_heads": 4}}


def marked(num_rows, seed=0, views=2):
    """One token in six carries the class; where it is varies. Float16 tokens, labels."""
    rng = np.random.default_rng(seed)
    marks = 4 * np.random.default_rng(99).normal(size=(CLASSES, WIDTH))
    labels = rng.integers(0, CLASSES, num_rows)
    tokens = rng.normal(size=(num_rows, views, TOKENS, WIDTH))
    for row in range(num_rows):
        for view in range(views):
            tokens[row, view, rng.integers(TOKENS)] += marks[labels[row]]
    return table_of(tokens.mean(2), tokens=tokens), labels


def layer_norm(x, norm):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    gain, bias = norm.weight.detach().double().numpy(), norm.bias.detach().double().numpy()
    return (x - mean) / np.sqrt(variance + 1e-6) * gain + bias


def linear(x, weight, bias):
    return x @ weight.detach().double().numpy().T + bias.detach().double().numpy()


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def plain_head(head, tokens, num_heads):
    """One clip `[S, D]`, head by head and token by token."""
    query = head.query.detach().double().numpy()[0, 0]
    keys = layer_norm(tokens, head.norm1)
    weights = head.attention.in_proj_weight.chunk(3)
    biases = head.attention.in_proj_bias.chunk(3)
    q = linear(query, weights[0], biases[0])
    k, v = (linear(keys, weights[i], biases[i]) for i in (1, 2))
    size = WIDTH // num_heads
    mixed = np.zeros(WIDTH)
    for number in range(num_heads):
        part = slice(number * size, (number + 1) * size)
        scores = np.array([q[part] @ key[part] / math.sqrt(size) for key in k])
        shares = np.exp(scores) / np.exp(scores).sum()
        mixed[part] = sum(share * value[part] for share, value in zip(shares, v, strict=True))
    out = head.attention.out_proj
    x = query + linear(mixed, out.weight, out.bias)
    inner = gelu(linear(layer_norm(x, head.norm2), head.mlp.fc1.weight, head.mlp.fc1.bias))
    x = x + linear(inner, head.mlp.fc2.weight, head.mlp.fc2.bias)
    return linear(x, head.head.weight, head.head.bias)


@pytest.mark.parametrize("num_heads", [1, 4, 16])
def test_the_block_is_attention_of_one_query_and_a_perceptron(num_heads):
    torch.manual_seed(0)
    head = AttentiveHead(WIDTH, num_heads, CLASSES)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randn(2, TOKENS, WIDTH)
    found = head(tokens).detach().numpy()
    expected = [plain_head(head, clip.double().numpy(), num_heads) for clip in tokens]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_each_head_of_a_grid_is_what_it_would_be_alone():
    table, labels = marked(64)
    train, fitting = examples_of(table, labels), fitting_for(CLASSES, **SHORT)
    settings = [AttentiveSetting(1e-3, 0.01), AttentiveSetting(1e-2, 0.4)]
    heads = fit_attentive(settings, train, fitting).args[0]
    for setting, together in zip(settings, heads, strict=True):
        idle = fitting_for(CLASSES, attentive={"epochs": 1, "rates": [1e-30], "num_heads": 4})
        alone = fit_attentive([AttentiveSetting(1e-30, 0.0)], train, idle).args[0][0]  # the start
        decayed = [p for p in alone.parameters() if p.ndim > 1]
        others = [p for p in alone.parameters() if p.ndim == 1]
        optimiser = AdamW(
            [{"params": decayed, "weight_decay": setting.weight_decay}, {"params": others}],
            weight_decay=0.0,
        )
        steps, done = 3 * steps_per_epoch(64, 32), 0
        for epoch in range(3):
            for batch in epoch_of_batches(train, "tokens", 32, epoch, fitting):
                for group in optimiser.param_groups:
                    group["lr"] = setting.learning_rate * (1 + math.cos(math.pi * done / steps)) / 2
                optimiser.zero_grad()
                F.cross_entropy(alone(batch.features), batch.labels).backward()
                optimiser.step()
                done += 1
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(
                together.get_parameter(name), parameter, atol=1e-6, rtol=1e-4
            )


def test_a_mark_on_one_token_is_found():
    table, labels = marked(300)
    fitting = fitting_for(CLASSES, attentive={"epochs": 25, "batch_size": 32, "num_heads": 4})
    judged, truth = marked(100, seed=5)
    classify = fit_attentive([AttentiveSetting(3e-3, 0.01)], examples_of(table, labels), fitting)
    probabilities = classify(judged, np.arange(100))[0]
    assert (probabilities.argmax(1).numpy() == truth).mean() > 0.9
    torch.testing.assert_close(probabilities.sum(1), torch.ones(100, dtype=torch.float64))


def test_a_view_that_could_not_be_read_has_no_say():
    table, labels = marked(60)
    fitting = fitting_for(CLASSES, **SHORT)
    classify = fit_attentive([AttentiveSetting(1e-2, 0.0)], examples_of(table, labels), fitting)
    tokens = table.take("tokens", np.arange(4)).numpy()
    is_read = np.ones((4, 2), bool)
    is_read[1, 0] = False
    partly = classify(table_of(tokens.mean(2), is_read, tokens), np.arange(4))[0]
    second = classify(table_of(tokens.mean(2)[:, 1:], tokens=tokens[:, 1:]), np.arange(4))[0]
    torch.testing.assert_close(partly[1], second[1])


def test_the_grid_holds_v_jepas_own_setting():
    settings = attentive_settings(ProbeConfig())
    assert len(settings) == 20 and AttentiveSetting(1e-3, 0.01) in settings
