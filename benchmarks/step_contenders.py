"""Networks that all take the same pretraining step: forward, backward, optimiser.

VideoMAE as its authors compute it, the one of Hugging Face transformers, and ours as
`mgm-dali pretrain` trains it. They start from the same weights and see the same clips and masks.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from official_videomae import OfficialAutoencoder
from timm.optim import param_groups_weight_decay
from torch import Tensor

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import MaskConfig, ModelConfig, RunConfig, TrainingConfig
from mgm_dali.errors import UserError
from mgm_dali.masking import decoded_count, decoded_tokens, hidden_per_slice
from mgm_dali.models import Autoencoder, build_autoencoder
from mgm_dali.models.flops import attention_shapes, forward_gflops
from mgm_dali.models.huggingface import loses_biases
from mgm_dali.models.saving import export_huggingface
from mgm_dali.training.computing import (
    compiling,
    measured_clips,
    prepare,
    with_kernel,
    with_precision,
)
from mgm_dali.training.engine import Engine
from mgm_dali.training.world import World, join_world

__all__ = [
    "BARE",
    "COMPILED",
    "CONTENDERS",
    "DECODED",
    "HUGGINGFACE",
    "NETWORKS",
    "OFFICIAL",
    "OURS",
    "PRECISIONS",
    "Inputs",
    "Setup",
    "Step",
    "first_network",
    "plain_step",
]

OFFICIAL, HUGGINGFACE = "VideoMAE's own", "transformers"
OURS, BARE = "ours", "ours without DeepSpeed"
COMPILED, DECODED = "ours, compiled", "ours, half of the hidden decoded"
DECODED_SHARE = 0.5
PRECISIONS = {
    "fp32": "all in float32",
    "bf16": f"{OFFICIAL}, {HUGGINGFACE}, {BARE}: float32 weights under torch.autocast(bfloat16), "
    "AdamW on them; the others: bfloat16 weights, AdamW on float32 copies (DeepSpeed)",
}
"""How each contender computes, by `training.precision`."""
NOISE = 0.02
"""Added to all weights, so that no bias or gain hides behind a 0 or a 1."""
LEARNING_RATE, BETAS, WEIGHT_DECAY = 1e-5, (0.9, 0.95), 0.05


@dataclass(frozen=True)
class Step:
    """A contender that is ready: a call takes one step and gives the loss before it."""

    take: Callable[[], Tensor]
    close: Callable[[], None] = lambda: None
    """Frees what would stay for the rest of the process."""

    def __call__(self) -> Tensor:
        return self.take()


@dataclass(frozen=True)
class Setup:
    """What one table is about."""

    model: ModelConfig
    ratio: float
    """Share of the tokens that is hidden."""
    precision: str
    batch: int
    device: str
    """`cuda` or `cpu`."""

    @property
    def name(self) -> str:
        return f"{self.model.name}, {self.ratio:g} hidden, {self.precision}"

    @property
    def num_hidden(self) -> int:
        grid = token_grid(self.model)
        return grid.t * hidden_per_slice(self.ratio, grid)

    @property
    def world(self) -> World:
        """This process alone."""
        first_gpu = torch.device("cuda", 0)
        return join_world(first_gpu if self.device == "cuda" else torch.device("cpu"))

    def num_decoded(self, label: str) -> int:
        """Hidden tokens that this contender predicts."""
        return decoded_count(self.num_hidden, DECODED_SHARE if label == DECODED else 1.0)

    def step_gflops(self, label: str) -> float:
        """Of one clip, as VideoMAE computes it; a backward pass counts as two forward passes."""
        visible = token_grid(self.model).num_tokens - self.num_hidden
        return 3 * forward_gflops(self.model, visible, self.num_decoded(label))

    def network(self) -> Autoencoder:
        """The network that all start from."""
        return copy.deepcopy(first_network(self.model))


@functools.lru_cache(maxsize=1)
def first_network(model: ModelConfig) -> Autoencoder:
    """Kept, for to draw the weights of a large network takes seconds."""
    torch.manual_seed(0)
    network = build_autoencoder(model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += NOISE * torch.randn(parameter.shape, generator=generator)
    return network


@dataclass(frozen=True)
class Inputs:
    """A batch: clips `[B, 3, T, H, W]`, and bool `[B, N]` of what is hidden and half of that."""

    video: Tensor
    mask: Tensor
    decoded: Tensor

    @classmethod
    def of(cls, setup: Setup) -> "Inputs":
        grid, model = token_grid(setup.model), setup.model
        generator = torch.Generator().manual_seed(1)
        shape = (setup.batch, 3, model.num_frames, model.image_size, model.image_size)
        video = torch.randn(shape, generator=generator)
        noise = torch.rand(setup.batch, grid.t, grid.h * grid.w, generator=generator)
        hidden = hidden_per_slice(setup.ratio, grid)
        mask = (noise.argsort(dim=-1).argsort(dim=-1) < hidden).flatten(1)
        decoded = decoded_tokens(mask, torch.arange(setup.batch), grid, setup.num_decoded(DECODED))
        return cls(*(each.to(setup.device) for each in (video, mask, decoded)))


Network = tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor]]
"""A network, and its loss by video `[B, 3, T, H, W]` and mask bool `[B, N]`."""


def _official_network(setup: Setup) -> Network:
    network = OfficialAutoencoder(setup.model)
    network.load_state_dict(setup.network().state_dict())
    return network.to(setup.device), network


def _transformers_network(setup: Setup) -> Network:
    try:
        found = version("transformers")
    except PackageNotFoundError:
        raise UserError("transformers is not installed; pip install mgm-dali[hf]") from None
    if loses_biases(found):
        raise UserError(
            f"transformers {found} sets biases of queries and values to 0; install a newer one"
        )
    from transformers import VideoMAEForPreTraining
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with TemporaryDirectory(prefix="mgm-dali-bench-") as folder:
        export_huggingface(setup.network(), folder)
        network = VideoMAEForPreTraining.from_pretrained(folder).to(setup.device).train()

    def loss(video: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = network(video.transpose(1, 2), bool_masked_pos=mask).loss  # frames first
        return found

    return network, loss


def _our_network(setup: Setup) -> Network:
    network = setup.network()
    prepare(network, _decided(setup, BARE))
    network.to(setup.device)
    return network, lambda video, mask: network(video, mask, setup.num_hidden)


NETWORKS: dict[str, Callable[[Setup], Network]] = {
    OFFICIAL: _official_network,
    HUGGINGFACE: _transformers_network,
    BARE: _our_network,
}
"""The networks that compute the same, by the contender that they are trained in plainly."""


def _ours(label: str, setup: Setup, inputs: Inputs) -> Step:
    """As `mgm-dali pretrain` sets it up, alone in its world."""
    config, network = _decided(setup, label), setup.network()
    prepare(network, config)
    kept = tuple(network.no_weight_decay())
    groups = param_groups_weight_decay(network, WEIGHT_DECAY, no_weight_decay_list=kept)
    engine = Engine(network, groups, config, setup.world)
    for group in engine.parameter_groups:
        group["lr"] = LEARNING_RATE
    chosen = inputs.decoded if label == DECODED else None
    counts = setup.num_hidden, setup.num_decoded(label)

    def step() -> Tensor:
        with compiling("training.compile"):
            loss: Tensor = engine(inputs.video, inputs.mask, counts[0], chosen, counts[1])
            engine.backward(loss)
        engine.step()
        return loss.detach()

    return Step(step, engine.close)


def _decided(setup: Setup, label: str) -> RunConfig:
    """The configuration of a run, with the kernel that computes attention chosen as a run does."""
    training = {"batch_size": setup.batch, "precision": setup.precision}
    config = RunConfig(
        output_dir=Path("never written"),
        model=setup.model,
        mask=MaskConfig(ratio=setup.ratio),
        training=TrainingConfig.model_validate({**training, "compile": label == COMPILED}),
    )
    visible = token_grid(setup.model).num_tokens - setup.num_hidden
    clips = measured_clips(config, setup.world.device)
    shapes = attention_shapes(setup.model, clips, visible, setup.num_decoded(label))
    config, _ = with_precision(config, setup.world)
    decided, _ = with_kernel(config, shapes, setup.world, dropped_tokens=True)
    return decided


def plain_step(label: str, setup: Setup) -> Callable[[Tensor, Tensor], Tensor]:
    """As VideoMAE's users train: autocast around the forward pass, torch's own AdamW.

    A step takes a video and a mask, and gives the loss. Raises `UserError` if there is no such
    network here.
    """
    network, loss_of = NETWORKS[label](setup)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY
    )
    low = setup.precision == "bf16"

    def step(video: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(setup.device, torch.bfloat16, enabled=low):
            loss = loss_of(video, mask)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _autocast_step(label: str, setup: Setup, inputs: Inputs) -> Step:
    step = plain_step(label, setup)
    return Step(lambda: step(inputs.video, inputs.mask))


CONTENDERS: dict[str, Callable[[Setup, Inputs], Step]] = {
    **{label: partial(_autocast_step, label) for label in NETWORKS},
    OURS: partial(_ours, OURS),
    COMPILED: partial(_ours, COMPILED),
    DECODED: partial(_ours, DECODED),
}
"""Who takes part, by name; the first is what the others are compared with."""
