"""Small clips, masks and networks for the tests of mgm_dali.models."""

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig
from mgm_dali.models import BACKBONES

__all__ = ["EVERY_BACKBONE", "normal_clip", "randomised", "tiny_config", "uneven_masks"]

# Products this small are slower on two threads, many times so when the cores are shared.
torch.set_num_threads(1)

Network = TypeVar("Network", bound=nn.Module)

EVERY_BACKBONE = [
    pytest.param(name, marks=pytest.mark.slow) if size.width > 400 else name
    for name, size in BACKBONES.items()
]


def tiny_config(name: str = "vit_micro", **changes: object) -> ModelConfig:
    """A clip of 4 x 64 x 64 pixels: 2 x 4 x 4 = 32 tokens."""
    return ModelConfig(name=name, num_frames=4, image_size=64).model_copy(update=changes)


def normal_clip(config: ModelConfig, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, config.num_frames, config.image_size, config.image_size)
    return torch.randn(shape, generator=generator)


def uneven_masks(config: ModelConfig, batch: int = 2, hidden: int = 24) -> Tensor:
    """Every row hides `hidden` tokens, each row others, and slices hide unequal counts."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.rand(batch, token_grid(config).num_tokens, generator=generator)
    return noise.argsort(dim=1).argsort(dim=1) < hidden


def randomised(network: Network, seed: int = 1) -> Network:
    """Every parameter away from its start, so that no bias or gain hides behind a 0 or a 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network.eval()
