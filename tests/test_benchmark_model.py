"""The benchmark of the pretraining step: the same losses, honest goals, every contender steps."""

import math
import sys
import weakref
from pathlib import Path

import pytest
import torch
from networks import normal_clip, randomised, tiny_config, uneven_masks
from plain_autoencoder import plain_forward, plain_target

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import model
import step_checks
import step_contenders
import step_goals
import step_memory
from official_videomae import OfficialAutoencoder, pixel_target
from step_contenders import BARE, COMPILED, CONTENDERS, DECODED, HUGGINGFACE, OFFICIAL, OURS, Setup
from step_goals import CLIP, Measured

from mgm_dali.errors import UserError
from mgm_dali.models import build_autoencoder

EAGER = [label for label in CONTENDERS if label != COMPILED]
NUM_HIDDEN = 24


def tiny_setup(precision="fp32", ratio=0.75, **changes):
    return Setup(tiny_config(**changes), ratio, precision, batch=2, device="cpu")


def half_of(mask):
    """The first half of each row's hidden tokens."""
    return mask & (mask.cumsum(1) <= NUM_HIDDEN // 2)


def official_of(network):
    official = OfficialAutoencoder(network.config)
    official.load_state_dict(network.state_dict())
    return official


@pytest.mark.parametrize("decodes_half", [False, True])
@pytest.mark.parametrize("changes", [{}, {"decoder_depth": 1}, {"num_frames": 6}])
def test_the_official_network_has_our_loss_and_our_gradients(changes, decodes_half):
    config = tiny_config(**changes)
    ours = randomised(build_autoencoder(config))
    official = official_of(ours)
    video, mask = normal_clip(config), uneven_masks(config, hidden=NUM_HIDDEN)
    decoded = half_of(mask) if decodes_half else None
    plain, _, _ = plain_forward(config, dict(ours.named_parameters()), video, mask, decoded)
    loss, of_ours = official(video, mask, decoded), ours(video, mask, decoded=decoded)
    assert abs(loss - plain) < 1e-5 and abs(loss - of_ours) < 1e-5
    loss.backward()
    of_ours.backward()
    gradients = dict(official.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-3, atol=1e-5)


def test_the_official_target_is_the_plain_one():
    config = tiny_config()
    video, mask = normal_clip(config), uneven_masks(config)
    found = pixel_target(video)[mask].reshape(len(video), -1, 1536)
    torch.testing.assert_close(found, plain_target(video, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label", EAGER)
@pytest.mark.parametrize("precision", step_contenders.PRECISIONS)
def test_every_contender_begins_with_the_official_loss_and_then_learns(label, precision):
    if label == HUGGINGFACE:
        pytest.importorskip("transformers")
    setup = tiny_setup(precision)
    inputs = step_contenders.Inputs.of(setup)
    reference = step_checks.reference_losses(setup, inputs)[label]
    step = CONTENDERS[label](setup, inputs)
    losses = [float(step()) for _ in range(4)]
    step_checks.require_same_loss(setup, label, losses[0], reference)
    assert losses[-1] < losses[0], "the optimiser moves the weights"


def test_networks_that_compute_the_same_have_the_same_gradient():
    assert step_checks.gradient_failures(tiny_setup("bf16")) == {}


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_of_a_network_with_other_heads_nothing_is_timed(monkeypatch, part):
    def of_other_heads(setup):
        network, loss_of = step_contenders._official_network(setup)
        for block in getattr(network, part).blocks:
            block.attn.num_heads *= 2
        return network, loss_of

    monkeypatch.setitem(step_contenders.NETWORKS, BARE, of_other_heads)
    failures = step_checks.gradient_failures(tiny_setup())
    assert failures.keys() == {BARE, OURS, COMPILED, DECODED}
    assert all(f"the gradient of {BARE} differs" in reason for reason in failures.values())


def test_a_contender_with_another_loss_is_refused():
    for wrong in (1.001, math.nan):
        with pytest.raises(UserError, match=f"the loss of {OURS} is"):
            step_checks.require_same_loss(tiny_setup(), OURS, wrong, 1.0)


def test_transformers_that_drops_biases_is_refused_and_the_others_are_timed(monkeypatch):
    monkeypatch.setattr(step_contenders, "version", lambda _: "5.17.0")
    measured = model.time_setup(tiny_setup(), [OFFICIAL, HUGGINGFACE, BARE], rounds=2, seconds=9)
    assert "5.17.0" in measured.failures[HUGGINGFACE]
    assert set(measured.losses) == set(measured.cpu.seconds) == {OFFICIAL, BARE}
    assert len(measured.wall.seconds[BARE][CLIP]) == measured.rounds == 2


def test_a_contender_without_memory_in_a_later_round_is_dropped_and_the_others_are_timed(
    monkeypatch,
):
    def greedy(setup, inputs):
        step, taken = CONTENDERS[BARE](setup, inputs), iter(range(2))

        def take():
            if next(taken, None) is None:
                raise torch.OutOfMemoryError("no memory is left\nsee above")
            return step()

        return step_contenders.Step(take)

    monkeypatch.setitem(model.CONTENDERS, OURS, greedy)
    measured = model.time_setup(tiny_setup(), [OFFICIAL, OURS], rounds=3, seconds=9)
    assert measured.failures == {OURS: "no memory is left"}
    assert set(measured.losses) == set(measured.wall.seconds) == set(measured.cpu.seconds)
    assert len(measured.wall.seconds[OFFICIAL][CLIP]) == measured.rounds == 3


def test_networks_of_one_table_take_no_memory_from_the_next(monkeypatch):
    networks = []
    original = step_contenders.prepare

    def prepare(network, config):
        networks.append(weakref.ref(network))
        return original(network, config)

    monkeypatch.setattr(step_contenders, "prepare", prepare)
    model.time_setup(tiny_setup("bf16"), [BARE, OURS, DECODED], rounds=1, seconds=9)
    assert len(networks) == 3 and not any(network() for network in networks)


def test_all_start_from_the_same_weights_whatever_was_trained_before():
    setup = tiny_setup()
    first, trained = setup.network(), setup.network()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.zero_()
    for one, other in zip(first.parameters(), setup.network().parameters(), strict=True):
        assert torch.equal(one, other) and one.any()


def test_one_round_is_counted_however_short_the_time():
    assert model.time_setup(tiny_setup(), [OFFICIAL], rounds=5, seconds=0).rounds == 1


@pytest.mark.parametrize(
    ("multiplies", "precisions"), [(True, ["fp32", "bf16"]), (False, ["fp32"])]
)
def test_bf16_is_left_out_where_it_takes_minutes_and_that_is_said(
    monkeypatch, multiplies, precisions
):
    monkeypatch.setattr(model, "CPU_MULTIPLIES_BFLOAT16", multiplies)
    assert model.default_precisions("cuda") == ["fp32", "bf16"]
    assert model.default_precisions("cpu") == precisions
    said = "\n".join(model.opening_lines("cpu", precisions, threads=2))
    assert ("not bf16" in said) is not multiplies


def test_inputs_hide_the_same_number_in_every_slice_and_decode_half_of_it():
    setup = tiny_setup(ratio=0.5, num_frames=6)
    inputs = step_contenders.Inputs.of(setup)
    per_slice = inputs.mask.view(2, 3, 16).sum(2)
    assert (per_slice == 8).all() and not torch.equal(inputs.mask[0], inputs.mask[1])
    assert (inputs.decoded <= inputs.mask).all()
    assert (inputs.decoded.sum(1) == setup.num_decoded(DECODED)).all()
    assert setup.num_decoded(DECODED) == setup.num_hidden // 2 == 12
    assert setup.step_gflops(DECODED) < setup.step_gflops(OURS)


def seconds_of(setup, **milliseconds):
    """Both clocks show the same."""
    labels = {"official": OFFICIAL, "ours": OURS, "compiled": COMPILED, "decoded": DECODED}
    measured = Measured(step_goals.Timings(), step_goals.Timings())
    for name, rounds in milliseconds.items():
        for each in rounds:
            measured.add(labels[name], each, each, clips=setup.batch)
    measured.rounds = len(next(iter(milliseconds.values())))
    return measured


def test_goals_are_met_or_not_by_the_ratio_of_medians():
    setup = tiny_setup("bf16", name="vit_small")
    measured = seconds_of(setup, official=[10, 12, 50], ours=[10, 11, 10], compiled=[8, 9, 1])
    verdicts = step_goals.verdicts_of([setup], {setup.name: measured})
    found = {each.goal.under: (each.goal.at_least, each.ratio, each.is_met) for each in verdicts}
    bound, ratio, met = found[OURS]
    assert (bound, ratio.median, met) == (1.2, 1.2, True)
    assert (ratio.low, ratio.high) == pytest.approx((1, 5))
    assert found[COMPILED][0] == 1.4 and found[COMPILED][2]
    assert found[DECODED] == (1.5, None, False), "not measured is not met"


@pytest.mark.parametrize(
    ("name", "precision", "ratio", "bounds"),
    [
        ("vit_small", "fp32", 0.75, {OURS: 1.25, DECODED: 1.5}),
        ("vit_base", "fp32", 0.9, {OURS: 1.25, DECODED: 1.9}),
        ("vit_base", "bf16", 0.9, {OURS: 1.2, DECODED: 1.9}),
        ("vit_small", "bf16", 0.6, {OURS: 1.2, COMPILED: 1.4}),
        ("vit_micro", "fp32", 0.75, {}),
    ],
)
def test_the_goals_on_a_cpu(name, precision, ratio, bounds):
    goals = step_goals.goals_of(tiny_setup(precision, ratio, name=name))
    assert {goal.under: goal.at_least for goal in goals} == bounds
    assert all(goal.over == OFFICIAL for goal in goals)


def test_a_share_of_a_known_gpu_s_peak_is_a_goal(monkeypatch):
    setup = Setup(tiny_config("vit_base"), 0.75, "bf16", batch=2, device="cuda")
    monkeypatch.setattr(step_goals, "peak_tflops", lambda: 100.0)
    at_peak = setup.batch * setup.step_gflops(OURS) / 100e3
    measured = seconds_of(setup, official=[8 * at_peak], ours=[2 * at_peak])
    step_goals.add_peak(setup, measured)
    verdicts = step_goals.verdicts_of([setup], {setup.name: measured})
    found = {each.goal.over: (each.ratio.median, each.is_met) for each in verdicts}
    assert found == {OFFICIAL: (4.0, True), step_goals.PEAK: (pytest.approx(0.5), True)}


def test_the_table_has_a_row_for_each_and_says_what_was_not_measured(capsys):
    setup = tiny_setup(name="vit_small")
    measured = seconds_of(setup, official=[0.3, 0.5], ours=[0.2, 0.2])
    measured.failures[HUGGINGFACE] = "it is not installed"
    memory = {OFFICIAL: step_memory.Memory(100, 900), OURS: "killed"}
    model.print_setup(model.Console(width=200), setup, measured, memory)
    shown = capsys.readouterr().out
    assert "2.00" in shown and "1.50 to 2.50" in shown and "900" in shown
    assert f"{HUGGINGFACE}: not measured: it is not installed" in shown
    assert f"{OURS}: memory not measured: killed" in shown


@pytest.mark.slow
def test_memory_of_a_step_grows_with_the_batch():
    small = Setup(tiny_config(num_frames=16, image_size=112), 0.75, "fp32", 2, "cpu")
    large = Setup(small.model, 0.75, "fp32", 32, "cpu")
    few, many = (step_memory.memory_of(setup, OFFICIAL, 1) for setup in (small, large))
    assert many.of_step > 4 * few.of_step > 0
    assert abs(many.held - few.held) < 0.5 * few.held
