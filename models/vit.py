"""The vision transformer of VideoMAE (Tong et al. 2022): tubelet embedding, blocks, sizes.

Letters: B clips, N = t * h * w tokens, K visible tokens, Q queries, D width,
P = 1536 values of a token. Parameters carry VideoMAE's names, so that checkpoints interchange.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES, ModelConfig
from mgm_dali.models.attention import Attention
from mgm_dali.models.patches import CHANNELS, take_tokens
from mgm_dali.models.position import sinusoid_table

__all__ = [
    "BACKBONES",
    "Block",
    "TokenTrunk",
    "TubeletEmbed",
    "ViTSize",
    "add_position",
    "check_video",
    "make_blocks",
]

NORM_EPSILON = 1e-6
MLP_RATIO = 4


@dataclass(frozen=True)
class ViTSize:
    """Widths of one encoder and of the decoder that pretrains it."""

    width: int
    depth: int
    num_heads: int
    decoder_width: int
    decoder_heads: int


BACKBONES: dict[str, ViTSize] = {
    "vit_micro": ViTSize(width=128, depth=4, num_heads=4, decoder_width=64, decoder_heads=2),
    "vit_tiny": ViTSize(width=192, depth=12, num_heads=3, decoder_width=96, decoder_heads=3),
    "vit_small": ViTSize(width=384, depth=12, num_heads=6, decoder_width=192, decoder_heads=3),
    "vit_base": ViTSize(width=768, depth=12, num_heads=12, decoder_width=384, decoder_heads=6),
}
"""Every backbone by its name in `ModelConfig.name`; small and base are VideoMAE's."""


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
        return F.linear(patches.to(weight.dtype), weight, self.proj.bias)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron with exact GELU."""

    def __init__(self, width: int, num_heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = Mlp(width, MLP_RATIO * width)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """`[B, N, D]` to `[B, N, D]`, or to `[B, Q, D]`: only the last `num_queries` tokens."""
        tail: Tensor = x if num_queries is None else x[:, -num_queries:]
        tail = tail + self.drop_path(self.attn(self.norm1(x), num_queries))
        tail = tail + self.drop_path(self.mlp(self.norm2(tail)))
        return tail


def make_blocks(depth: int, width: int, num_heads: int, drop_path: float) -> nn.ModuleList:
    """Blocks whose stochastic depth rises linearly from 0 in the first to `drop_path`."""
    rates = [drop_path * index / max(depth - 1, 1) for index in range(depth)]
    return nn.ModuleList(Block(width, num_heads, rate) for rate in rates)


class TokenTrunk(nn.Module):
    """What the autoencoder and the classifier share: embedding, fixed positions, blocks."""

    position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = BACKBONES[config.name]
        table = sinusoid_table(token_grid(config).num_tokens, size.width)
        self.register_buffer("position", table, persistent=False)
        self.patch_embed = TubeletEmbed(size.width)
        self.blocks = make_blocks(size.depth, size.width, size.num_heads, config.drop_path)

    def encode_tokens(self, patches: Tensor, index: Tensor | None = None) -> Tensor:
        """`[B, N, P]` to `[B, K, D]`: the tokens of `index` `[B, K]` through the blocks, or all.

        Tokens are taken before they are embedded: the same numbers as after, for less work.
        """
        x: Tensor
        if index is None:
            x = add_position(self.patch_embed(patches), self.position)
        else:
            x = add_position(self.patch_embed(take_tokens(patches, index)), self.position[index])
        for block in self.blocks:
            x = block(x)
        return x


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
