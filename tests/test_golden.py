"""Losses of short trainings, kept in tests/golden/: whoever changes a number sees it here.

python tests/test_golden.py        writes them anew, for a change that is meant to change them
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks import tiny_config
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import MaskConfig, ModelConfig
from mgm_dali.masking import make_mask
from mgm_dali.models import BACKBONES, Autoencoder, build_autoencoder, build_classifier

GOLDEN = Path(__file__).parent / "golden"
STEPS, CLIPS, CLASSES = 20, 2, 5
TOLERANCE = 5e-5
"""Of a loss. Kernels differ by 2e-7; a learning rate that is off by a hundredth, by 2e-4."""

Build = Callable[[ModelConfig], nn.Module]
STAGES: dict[str, Build] = {"pretrain": build_autoencoder, "finetune": build_classifier}


def made_batches(config: ModelConfig) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Smooth noise that moves, a mask that follows its motion, and labels."""
    generator = torch.Generator().manual_seed(1)
    side, frames = config.image_size, config.num_frames
    grid = token_grid(config)
    while True:
        noise = torch.randn(CLIPS, 3, 1, side // 8 + 4, side // 8 + 4, generator=generator)
        still = F.interpolate(noise[:, :, 0], scale_factor=8, mode="bilinear").unsqueeze(2)
        video = torch.cat([still[..., t : t + side, t : t + side] for t in range(frames)], 2)
        motion = torch.randn(CLIPS, frames, side // 8, side // 8, 2, generator=generator)
        valid = torch.ones(CLIPS, frames, dtype=torch.bool)
        seed = torch.randint(1 << 30, (CLIPS,), generator=generator)
        labels = torch.randint(CLASSES, (CLIPS,), generator=generator)
        yield video, make_mask(motion, valid, seed, grid, MaskConfig()), labels


def train(stage: str, config: ModelConfig, lr: float = 3e-4) -> list[float]:
    torch.manual_seed(0)
    network = STAGES[stage](config).train()
    groups = param_groups_weight_decay(network, 0.05)
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    losses = []
    for _, (video, mask, labels) in zip(range(STEPS), made_batches(config), strict=False):
        if isinstance(network, Autoencoder):
            loss = network(video, mask)
        else:
            loss = F.cross_entropy(network(video), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def config_of(name: str, **changes: object) -> ModelConfig:
    return tiny_config(name, num_classes=CLASSES, **changes)


def far(losses: list[float], kept: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(losses, kept, strict=True))


def kept_losses(stage: str, name: str) -> list[float]:
    found: list[float] = json.loads((GOLDEN / f"{stage}.json").read_text())[name]
    return found


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if size.width > 150 else name
        for name, size in BACKBONES.items()
    ],
)
def test_losses_are_what_they_were(stage: str, name: str) -> None:
    assert far(train(stage, config_of(name)), kept_losses(stage, name)) < TOLERANCE


@pytest.mark.parametrize("stage", STAGES)
def test_a_number_that_changes_a_little_is_seen(stage: str) -> None:
    losses = train(stage, config_of("vit_micro"), lr=3e-4 * 1.01)
    assert far(losses, kept_losses(stage, "vit_micro")) > 2 * TOLERANCE


def write_all() -> None:
    for stage in STAGES:
        lines = []
        for name in BACKBONES:
            losses = [round(loss, 6) for loss in train(stage, config_of(name))]
            lines.append(f'"{name}": {json.dumps(losses)}')
        (GOLDEN / f"{stage}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write_all()
