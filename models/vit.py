"""The transformers: tubelet embedding, positions, sizes; VideoMAE's (Tong et al. 2022) by default.

Letters: B clips, N = t * h * w tokens, K visible tokens, Q queries, D width,
P = 1536 values of a token. Parameters carry VideoMAE's names, so that checkpoints interchange.
"""

from dataclasses import dataclass

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES, ModelConfig
from mgm_dali.models.block import Block, make_blocks, run_block
from mgm_dali.models.linear import linear
from mgm_dali.models.patches import CHANNELS, take_tokens
from mgm_dali.models.position import (
    position_grid,
    sinusoid_table,
    space_time_table,
    stretch_table,
)
from mgm_dali.models.timesformer import DividedBlock, group_tokens

__all__ = [
    "BACKBONES",
    "TokenTrunk",
    "TubeletEmbed",
    "ViTSize",
    "add_position",
    "check_video",
    "fixed_positions",
]


@dataclass(frozen=True)
class ViTSize:
    """Widths of one encoder and of the decoder that pretrains it."""

    width: int
    depth: int
    num_heads: int
    decoder_width: int
    decoder_heads: int
    learned_positions: bool = False


BACKBONES: dict[str, ViTSize] = {
    "vit_micro": ViTSize(width=128, depth=4, num_heads=4, decoder_width=64, decoder_heads=2),
    "vit_tiny": ViTSize(width=192, depth=12, num_heads=3, decoder_width=96, decoder_heads=3),
    "vit_small": ViTSize(width=384, depth=12, num_heads=6, decoder_width=192, decoder_heads=3),
    "vit_base": ViTSize(width=768, depth=12, num_heads=12, decoder_width=384, decoder_heads=6),
    "vit_large": ViTSize(width=1024, depth=24, num_heads=16, decoder_width=512, decoder_heads=8),
    "vit_huge": ViTSize(width=1280, depth=32, num_heads=16, decoder_width=640, decoder_heads=8),
    # The paper names TimeSformer's authors and no more. Here it has VideoMAE's tubelets, so that
    # masks mean the same, no class token, for a classifier pools, and no bias on keys.
    "timesformer_base": ViTSize(
        width=768,
        depth=12,
        num_heads=12,
        decoder_width=384,
        decoder_heads=6,
        learned_positions=True,
    ),
}
"""Every backbone by its name in `ModelConfig.name`; small to huge are VideoMAE's."""


class TubeletEmbed(nn.Module):
    """A linear map of a token's pixels to the model's width.

    The weight is kept in the shape of the 3-D convolution it equals, `[D, 3, 2, 16, 16]`, for the
    sake of checkpoints, but is applied to cut tokens: then only visible ones need be embedded.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        tubelet = (TUBELET_FRAMES, PATCH_PIXELS, PATCH_PIXELS)
        self.proj = nn.Conv3d(CHANNELS, width, kernel_size=tubelet, stride=tubelet)

    def forward(self, patches: Tensor) -> Tensor:
        """`[B, K, P]` to `[B, K, D]`."""
        # [D c p0 p1 p2] to [D (p0 p1 p2 c)], the order `patchify` cuts in
        weight = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return linear(patches.to(weight.dtype), weight, self.proj.bias)


class TokenTrunk(nn.Module):
    """What the autoencoder and the classifier share: embedding, positions, blocks."""

    position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = BACKBONES[config.name]
        self.grid, self.position_grid = token_grid(config), position_grid(config)
        self.learned_positions = size.learned_positions
        self.is_divided = config.attention == "divided"
        self.checkpoint_activations = False
        self.patch_embed = TubeletEmbed(size.width)
        if size.learned_positions:
            t, h, w = self.position_grid
            self.pos_embed = nn.Parameter(torch.zeros(1, h * w, size.width))
            self.time_embed = nn.Parameter(torch.zeros(1, t, size.width))
            trunc_normal_(self.pos_embed, std=0.02)
        else:
            self.register_buffer("position", fixed_positions(config, size.width), persistent=False)
        block = DividedBlock if self.is_divided else Block
        self.blocks = make_blocks(size.depth, size.width, size.num_heads, config.drop_path, block)

    def positions(self) -> Tensor:
        """The position codes of all tokens of the clip, `[N, D]`."""
        if not self.learned_positions:
            return self.position
        # In float32 where weights are rounded: their sum with the tokens is rounded once.
        table = space_time_table(self.pos_embed.float(), self.time_embed.float())
        return stretch_table(table, self.position_grid, self.grid)

    def encode_tokens(self, patches: Tensor, index: Tensor | None = None) -> Tensor:
        """`[B, N, P]` to `[B, K, D]`: the tokens of `index` `[B, K]` through the blocks, or all.

        Tokens are taken before they are embedded: the same numbers as after, for less work.
        """
        position = self.positions()
        if index is not None:
            patches, position = take_tokens(patches, index), position[index]
        x = add_position(self.patch_embed(patches), position)
        groups = (group_tokens(self.grid, index),) if self.is_divided else ()
        for block in self.blocks:
            x = run_block(block, x, *groups, checkpointed=self.checkpoint_activations)
        return x


def fixed_positions(config: ModelConfig, width: int) -> Tensor:
    """VideoMAE's position codes `[N, D]` of all tokens, stretched where they are another clip's."""
    source = position_grid(config)
    return stretch_table(sinusoid_table(source.num_tokens, width), source, token_grid(config))


def add_position(x: Tensor, position: Tensor) -> Tensor:
    """`[B, N, D]` plus its places' table rows, in the dtype of x.

    The table stays float32 where weights are bfloat16, and the sum is rounded once.
    """
    return (x + position).to(x.dtype)


def check_video(video: Tensor, config: ModelConfig) -> Tensor:
    """The video itself; ValueError unless it is `[B, 3, num_frames, image_size, image_size]`."""
    expected = (CHANNELS, config.num_frames, config.image_size, config.image_size)
    if video.ndim != 5 or tuple(video.shape[1:]) != expected:
        raise ValueError(
            f"video: expected [B, {', '.join(map(str, expected))}], found {list(video.shape)}"
        )
    return video
