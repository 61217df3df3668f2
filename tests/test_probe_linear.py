"""The linear probe: each head of a grid is what it would be alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_features import examples_of, fitting_for, planted, table_of
from timm.optim import Lars
from torch import nn

from mgm_dali.config.probe import LinearProbeConfig, ProbeConfig
from mgm_dali.errors import UserError
from mgm_dali.training.probe_data import (
    batch_size_for,
    cosine_factor,
    epoch_of_batches,
    steps_per_epoch,
)
from mgm_dali.training.probe_linear import (
    OPTIMISERS,
    LinearSetting,
    fit_linear,
    linear_settings,
)

torch.set_num_threads(1)

CLASSES, WIDTH = 5, 12
SHORT = {"linear": {"epochs": 4, "warmup_epochs": 1, "batch_size": 16}}


def small_set(num_rows=70, seed=0):
    features, labels = planted(num_rows, CLASSES, WIDTH, seed=seed)
    return examples_of(table_of(features), labels), table_of(planted(30, CLASSES, WIDTH, seed=8)[0])


def start_of(fitting):
    weight = torch.empty(CLASSES, WIDTH)
    generator = torch.Generator().manual_seed(fitting.seed)
    return nn.init.trunc_normal_(weight, std=0.01, generator=generator)


def trained_alone(setting, train, fitting, step_by):
    """A head as anyone would write it, and the same cosine; `step_by(head, rate)` is a step."""
    options = fitting.config.linear
    head = nn.Sequential(
        nn.BatchNorm1d(WIDTH, eps=1e-6, affine=False), nn.Linear(WIDTH, CLASSES)
    ).train()
    with torch.no_grad():
        head[1].weight.copy_(start_of(fitting))
        head[1].bias.zero_()
    per_epoch = steps_per_epoch(len(train), options.batch_size)
    steps, warmup = options.epochs * per_epoch, options.warmup_epochs * per_epoch
    done = 0
    for epoch in range(options.epochs):
        for batch in epoch_of_batches(train, "mean", options.batch_size, epoch, fitting):
            if done < warmup:
                factor = done / warmup
            else:
                factor = (1 + math.cos(math.pi * (done - warmup) / (steps - warmup))) / 2
            head.zero_grad()
            F.cross_entropy(head(batch.features), batch.labels).backward()
            step_by(head[1], setting.learning_rate * factor, setting.weight_decay)
            done += 1
    return head.eval()


class PlainSGD:
    """Momentum written out."""

    def __init__(self):
        self.velocity = {}

    def direction(self, name, parameter, decay):
        return parameter.grad + (decay * parameter if name == "weight" else 0)

    @torch.no_grad()
    def __call__(self, linear, rate, decay):
        for name, parameter in linear.named_parameters():
            new = self.direction(name, parameter, decay)
            self.velocity[name] = 0.9 * self.velocity.get(name, 0) + new
            parameter -= rate * self.velocity[name]


class PlainLARS(PlainSGD):
    """You et al. 2017, equation 6: a layer's rate is 0.001 of its norm over its gradient's."""

    def direction(self, name, parameter, decay):
        if name == "bias":
            return parameter.grad
        gradient, norm = parameter.grad, parameter.norm()
        rate = 0.001 * norm / (gradient.norm() + decay * norm + 1e-8)
        return rate * (gradient + decay * parameter)


PLAIN = {"sgd": PlainSGD, "lars": PlainLARS}


def of_views(head, table):
    rows = np.arange(len(table))
    views = table.take("mean", rows)
    with torch.no_grad():
        return torch.stack([head(views[:, v]).double().softmax(1) for v in range(2)]).mean(0)


def test_every_optimiser_has_a_plain_reference_here():
    assert PLAIN.keys() == OPTIMISERS.keys()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_each_head_of_a_grid_is_what_it_would_be_alone(optimiser):
    train, val = small_set()
    fitting = fitting_for(CLASSES, **SHORT)
    rates = {"sgd": (0.03, 1.0), "lars": (6.4, 64.0)}[optimiser]
    settings = [LinearSetting(optimiser, rate, decay) for rate in rates for decay in (0.0, 0.01)]
    together = fit_linear(settings, train, fitting)(val, np.arange(len(val)))
    for place, setting in enumerate(settings):
        head = trained_alone(setting, train, fitting, PLAIN[optimiser]())
        torch.testing.assert_close(together[place], of_views(head, val), atol=1e-5, rtol=1e-4)
    assert len({tuple(p.flatten().tolist()) for p in together}) == len(settings)


def test_lars_is_timms():
    train, val = small_set()
    fitting = fitting_for(CLASSES, **SHORT)
    setting = LinearSetting("lars", 20.0, 0.01)
    held = {}

    def step(linear, rate, decay):
        if not held:
            groups = [
                {"params": [linear.weight], "weight_decay": decay},
                {"params": [linear.bias], "weight_decay": 0.0},
            ]
            held["lars"] = Lars(groups, momentum=0.9, always_adapt=False)
        for group in held["lars"].param_groups:
            group["lr"] = rate
        held["lars"].step()

    head = trained_alone(setting, train, fitting, step)
    alone = fit_linear([setting], train, fitting)(val, np.arange(len(val)))[0]
    torch.testing.assert_close(alone, of_views(head, val), atol=1e-6, rtol=1e-5)


def test_a_head_that_diverges_spoils_no_other():
    train, val = small_set()
    fitting = fitting_for(CLASSES, **SHORT)
    sound = LinearSetting("sgd", 0.1, 0.0)
    rows = np.arange(len(val))
    alone = fit_linear([sound], train, fitting)(val, rows)[0]
    wild = LinearSetting("sgd", 1e38, 10.0)
    spoiled, beside = fit_linear([wild, sound], train, fitting)(val, rows)
    assert not torch.isfinite(spoiled).all()
    torch.testing.assert_close(beside, alone, atol=1e-6, rtol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    train, val = small_set()
    setting = [LinearSetting("sgd", 0.1, 0.0)]
    rows = np.arange(len(val))
    first, again, other = (
        fit_linear(setting, train, fitting_for(CLASSES, seed, **SHORT))(val, rows)
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_judged_features_are_standardised_by_the_running_statistics_of_training():
    train, val = small_set()
    fitting = fitting_for(CLASSES, **SHORT)
    classify = fit_linear([LinearSetting("sgd", 0.1, 0.0)], train, fitting)
    norm, weights, biases = classify.args
    mean, variance = np.zeros(WIDTH), np.ones(WIDTH)
    for epoch in range(4):
        for batch in epoch_of_batches(train, "mean", 16, epoch, fitting):
            x = batch.features.double().numpy()
            mean += 0.1 * (x.mean(0) - mean)
            variance += 0.1 * (x.var(0, ddof=1) - variance)
    np.testing.assert_allclose(norm.running_mean, mean, atol=1e-6)
    x = val.take("mean", np.array([4])).double().numpy()[0]
    logits = (x - mean) / np.sqrt(variance + 1e-6) @ weights[0].detach().double().numpy().T
    logits += biases[0].detach().double().numpy()
    each = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(classify(val, np.array([4]))[0, 0], each.mean(0), atol=1e-5)


def test_a_view_that_could_not_be_read_has_no_say():
    train, _ = small_set()
    features = planted(6, CLASSES, WIDTH, seed=8)[0]
    is_read = np.ones((6, 2), bool)
    is_read[2, 1] = False
    classify = fit_linear([LinearSetting("sgd", 0.1, 0.0)], train, fitting_for(CLASSES, **SHORT))
    rows = np.arange(6)
    with_zeros = features * is_read[:, :, None]
    found = classify(table_of(with_zeros, is_read), rows)[0]
    first_view = classify(table_of(features[:, :1]), rows)[0]
    torch.testing.assert_close(found[2], first_view[2])
    torch.testing.assert_close(found[[0, 1]], classify(table_of(features), rows)[0][[0, 1]])


def test_the_grid_is_every_rate_of_both_optimisers_with_every_decay():
    config = ProbeConfig()
    settings = linear_settings(config)
    assert len(set(settings)) == len(settings) == 2 * (6 + 6)
    assert LinearSetting("lars", 6.4, 0.0) in settings  # MAE's own


@pytest.mark.parametrize(("step", "factor"), [(0, 0), (5, 0.5), (10, 1), (55, 0.5), (100, 0)])
def test_rates_rise_in_a_line_and_fall_as_a_cosine(step, factor):
    assert cosine_factor(step, 100, 10) == pytest.approx(factor)


def test_rates_without_warm_up_begin_at_the_peak():
    assert cosine_factor(0, 100, 0) == 1


@pytest.mark.parametrize("largest", range(3, 9))
def test_no_batch_has_one_video_alone_whatever_is_left_over(largest):
    assert LinearProbeConfig(batch_size=3).batch_size == 3, "the smallest that there is"
    for count in range(2, 100):
        train = examples_of(table_of(np.zeros((count, 1, 1))), np.zeros(count, np.int64))
        batches = epoch_of_batches(train, "mean", largest, 0, fitting_for(1))
        sizes = [len(batch.labels) for batch in batches]
        assert 2 <= min(sizes) and max(sizes) <= largest and sum(sizes) == count


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
def test_few_videos_are_learned_from_in_small_batches(count):
    train, val = small_set(count)
    fitting = fitting_for(CLASSES, linear={"epochs": 2, "batch_size": 3})
    found = fit_linear([LinearSetting("sgd", 0.1, 0.0)], train, fitting)(val, np.arange(30))
    assert torch.isfinite(found).all()


def test_one_video_alone_is_refused():
    train, _ = small_set(1)
    with pytest.raises(UserError, match=r"1 video is left.*leave linear out of probe\.kinds"):
        fit_linear([LinearSetting("sgd", 0.1, 0.0)], train, fitting_for(CLASSES))


@pytest.mark.parametrize("count", [2, 31, 33, 70, 1000])
def test_an_epoch_shows_every_video_once_in_batches_of_about_one_size(count):
    table = table_of(np.arange(count * 2.0).reshape(count, 2, 1))
    train = examples_of(table, np.arange(count))
    fitting = fitting_for(count)
    batches = list(epoch_of_batches(train, "mean", 64, 0, fitting))
    sizes = {len(batch.labels) for batch in batches}
    assert max(sizes) <= batch_size_for(count, 64) and max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2  # one alone has no deviation
    seen = torch.cat([batch.labels for batch in batches])
    assert sorted(seen.tolist()) == list(range(count))
    shown = torch.cat([batch.features[:, 0] for batch in batches])
    views = shown - 2 * seen
    assert set(views.tolist()) <= {0.0, 1.0} and (count < 31 or len(set(views.tolist())) == 2)


def test_only_views_that_were_read_are_learned_from():
    rng = np.random.default_rng(0)
    is_read = rng.random((200, 4)) < 0.4
    is_read[:, 2] |= ~is_read.any(axis=1)
    features = np.where(is_read, 1.0, -1.0)[:, :, None]
    train = examples_of(table_of(features, is_read), np.zeros(200, np.int64))
    for epoch in range(3):
        for batch in epoch_of_batches(train, "mean", 64, epoch, fitting_for(2)):
            assert (batch.features == 1).all()
