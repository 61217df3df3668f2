"""How a network is computed: what is left open is decided, said, and kept."""

import functools
import json
from pathlib import Path

import pytest
import torch
from networks import normal_clip, randomised, tiny_config, uneven_masks
from training_runs import config_for, losses_of

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models import Autoencoder, Classifier, build_autoencoder, build_classifier
from mgm_dali.models.kernels import AttentionShape
from mgm_dali.training import computing
from mgm_dali.training.computing import prepare, with_kernel, with_precision
from mgm_dali.training.engine import Engine
from mgm_dali.training.pretrain import pretrain
from mgm_dali.training.world import World, join_world


class FirstOf(World):
    """The first rank of several that all find nothing to add."""

    def sum(self, value):
        return value


CPU = World(0, 1, torch.device("cpu"))
SHAPE = AttentionShape(1, 1, 1, 16, 16)
SETTLED = {"precision": "fp32", "attention_kernel": "sdpa"}


def run_config(model: str = "vit_micro", **training: object) -> RunConfig:
    model_config = tiny_config(model).model_dump(exclude={"attention"})
    return RunConfig.model_validate({"model": model_config, "training": training})


# Precision


@pytest.mark.parametrize(
    ("precision", "ranks", "stage"),
    [("fp32", 1, 0), ("fp32", 2, 1), ("bf16", 1, 1), ("bf16", 2, 1)],
)
def test_a_rank_alone_in_fp32_shards_nothing(precision, ranks, stage):
    world = FirstOf(0, ranks, torch.device("cpu"))
    config, reason = with_precision(run_config(precision=precision), world)
    assert config.training.zero_stage == stage and "asked for" in reason
    config, _ = with_precision(run_config(precision=precision, zero_stage=2), world)
    assert config.training.zero_stage == 2


@pytest.mark.parametrize("has_instructions", [True, False])
def test_a_cpu_takes_bf16_only_where_it_has_instructions(has_instructions, monkeypatch):
    monkeypatch.setattr(computing, "CPU_MULTIPLIES_BFLOAT16", has_instructions)
    config, reason = with_precision(run_config(), CPU)
    assert config.training.precision == ("bf16" if has_instructions else "fp32")
    assert "instructions" in reason


def test_fp16_is_refused_where_it_does_not_work():
    with pytest.raises(UserError, match=r"training\.precision: fp16 needs a GPU"):
        with_precision(run_config(precision="fp16"), CPU)
    assert "take training.zero_stage=1" in str(computing._why_not_fp16(0, torch.device("cuda")))
    assert computing._why_not_fp16(1, torch.device("cuda")) is None


@pytest.mark.parametrize(("section", "stage"), [({"overlap_comm": True}, 1), ({"stage": 2}, 2)])
def test_deepspeeds_own_options_of_zero_decide_the_stage(section, stage):
    config = run_config(precision="fp32")
    config = config.model_copy(update={"deepspeed": {"zero_optimization": section}})
    assert with_precision(config, CPU)[0].training.zero_stage == stage


def test_fp16_scales_the_loss_and_leaves_out_what_overflows(monkeypatch):
    world = join_world(torch.device("cpu"))
    from deepspeed.accelerator import get_accelerator  # a CPU can, slowly; DeepSpeed asks for more

    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda _: True)
    config = run_config(precision="fp16", zero_stage=1, attention_kernel="sdpa", batch_size=2)
    autoencoder = build_autoencoder(config.model)
    engine = Engine(autoencoder, [{"params": list(autoencoder.parameters())}], config, world)
    for group in engine.parameter_groups:
        group["lr"] = 1e-3
    video, mask = normal_clip(config.model), uneven_masks(config.model)
    losses, scales, norms = [], [], []
    for step in range(6):
        loss = engine(video, mask, 24)
        engine.backward(loss * float("inf") if step in (2, 3) else loss)
        norms.append(float(engine.step()))
        scales.append(engine._engine.optimizer.loss_scale)
        losses.append(loss.item())
    assert engine.skipped_steps == 2
    assert scales[1] == scales[2] == 2 * scales[3]  # after the second overflow
    assert losses[4] == losses[3] == losses[2] < losses[1] < losses[0] and losses[5] < losses[4]
    assert 0 < norms[0] < 10, "the norm of the gradient, not of the scaled one"
    with pytest.raises(UserError, match="fp16 overflows at every step"):
        for _ in range(30):
            engine.backward(engine(video, mask, 24) * float("inf"))
            engine.step()
    assert {w.dtype for w in engine.state.read("weights", keep=True).values()} == {torch.float32}


# The kernel of attention


@pytest.fixture
def measured(monkeypatch):
    """What measuring finds; how often it was asked."""
    asked = []

    def measure_kernels(shapes, dtype, device):
        asked.append((shapes, dtype, device))
        return "plain", {"sdpa": 4.0, "plain": 3.0, "flash": "no such kernel"}

    monkeypatch.setattr(computing, "measure_kernels", measure_kernels)
    return asked


def test_the_measured_kernel_is_said_and_kept_when_the_run_is_resumed(
    moving_shapes, tmp_path, measured
):
    run = tmp_path / "run"
    config = config_for(moving_shapes, run, attention_kernel="auto", max_steps=2)
    pretrain(config)
    log = (run / "train.log").read_text()
    assert "attention  plain: a step's attention on 2 clip(s) takes sdpa 4 ms, plain 3 ms" in log
    assert "flash: no such kernel" in log
    assert len(measured) == 1
    (run / "train.log").unlink()
    pretrain(config)
    assert "attention  plain: this run's checkpoints were made with it" in (
        (run / "train.log").read_text()
    )
    assert len(measured) == 1


def test_a_kernel_that_a_run_was_made_with_is_tried_before_it_goes_on(
    moving_shapes, tmp_path, measured
):
    config = config_for(moving_shapes, tmp_path / "run", attention_kernel="auto", max_steps=2)
    pretrain(config)
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("attention_kernel: plain", "attention_kernel: cudnn"))
    with pytest.raises(UserError, match="cudnn cannot be used here"):
        pretrain(config)
    assert len(measured) == 1


def test_a_kernel_that_cannot_be_used_is_refused_with_torchs_reason():
    with pytest.raises(UserError, match=r"training\.attention_kernel: cudnn cannot be used here: "):
        with_kernel(run_config(**SETTLED | {"attention_kernel": "cudnn"}), [SHAPE], CPU, True)
    config, reason = with_kernel(run_config(**SETTLED), [SHAPE], CPU, True)
    assert config.training.attention_kernel == "sdpa" and reason == "sdpa: asked for"


def test_divided_attention_on_some_tokens_keeps_to_what_takes_a_mask(measured):
    config = run_config("timesformer_base", precision="fp32")
    assert with_kernel(config, [SHAPE], CPU, True)[0].training.attention_kernel == "sdpa"
    assert not measured
    assert with_kernel(config, [SHAPE], CPU, False)[0].training.attention_kernel == "plain"


# Memory and compilation


def loss_of(network: Autoencoder | Classifier) -> torch.Tensor:
    video = normal_clip(network.config)
    if isinstance(network, Autoencoder):
        result: torch.Tensor = network(video, uneven_masks(network.config), 24)
        return result
    return network(video).square().sum()


def network_of(kind: str) -> Autoencoder | Classifier:
    torch.manual_seed(0)
    config = tiny_config(num_classes=3, drop_path=0.3)
    build = build_autoencoder if kind == "autoencoder" else build_classifier
    return randomised(build(config)).train()


@pytest.mark.parametrize("kind", ["autoencoder", "classifier"])
def test_checkpointed_activations_save_memory_and_change_no_bit(kind):
    found = {}
    for checkpointed in (False, True):
        network = network_of(kind)
        prepare(network, run_config(**SETTLED, checkpoint_activations=checkpointed))
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        torch.manual_seed(5)  # of the dropped paths
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = loss_of(network)
        loss.backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        found[checkpointed] = (loss, gradients, sum(kept))
    assert torch.equal(found[True][0], found[False][0])
    for one, other in zip(found[True][1], found[False][1], strict=True):
        assert torch.equal(one, other)
    assert found[True][2] < 0.4 * found[False][2]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["autoencoder", "classifier"])
def test_a_compiled_network_is_one_graph_with_the_same_names_and_gradients(
    kind, backend, monkeypatch
):
    monkeypatch.setattr(
        torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True)
    )
    plain, compiled = network_of(kind).eval(), network_of(kind).eval()
    prepare(compiled, run_config(**SETTLED, compile=True))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    losses = [loss_of(network) for network in (plain, compiled)]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-5)
    for loss in losses:
        loss.backward()
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_a_compiled_run_saves_clean_names_and_learns_the_same(moving_shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    for compile_it in (False, True):
        run = tmp_path / str(compile_it)
        pretrain(config_for(moving_shapes, run, compile=compile_it, max_steps=3))
    assert losses_of(tmp_path / "True") == pytest.approx(losses_of(tmp_path / "False"), abs=1e-4)
    headers = [
        json.loads(_header(tmp_path / name / "weights" / "step-3.safetensors")).keys()
        for name in ("False", "True")
    ]
    assert headers[0] == headers[1]


def _header(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def test_a_machine_that_cannot_compile_says_so_at_the_first_step(
    moving_shapes, tmp_path, monkeypatch
):
    def broken(_graph, _inputs):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    with pytest.raises(UserError, match=r"training\.compile: PyTorch cannot compile here"):
        pretrain(config_for(moving_shapes, tmp_path / "run", compile=True))
