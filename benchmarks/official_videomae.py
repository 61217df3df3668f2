"""VideoMAE's pretraining as its authors compute it, told again: no shortcut of ours is in it.

Every token is embedded by a 3-D convolution and the visible ones are picked by boolean indexing;
attention is two products and a softmax; the last decoder block computes all tokens; the target is
made of the whole video. Parameters have the same names as ours, so that one state dict fits both.

Letters: B clips, N tokens, K visible, M predicted, D width, P = 1536 values of a token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig
from mgm_dali.models import BACKBONES

__all__ = ["OfficialAutoencoder", "pixel_target"]

TUBELET = (2, 16, 16)
"""Frames, rows and columns of a token."""
VALUES = 3 * 2 * 16 * 16
EPSILON = 1e-6
DEVIATION_EPSILON = 1e-6


class OfficialAutoencoder(nn.Module):
    """`network(video, mask)` is the loss, with the arguments and names of our `Autoencoder`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, tokens = BACKBONES[config.name], token_grid(config).num_tokens
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.encoder_to_decoder = nn.Linear(size.width, size.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size.decoder_width))
        self.register_buffer("table", _sinusoid(tokens, size.decoder_width), persistent=False)

    def forward(self, video: Tensor, mask: Tensor, decoded: Tensor | None = None) -> Tensor:
        """Mean squared error on the hidden tokens of `mask` bool `[B, N]`: a float32 scalar.

        `decoded` leaves the other hidden tokens out of the decoder, as VideoMAEv2 does.
        """
        predicted_tokens = mask if decoded is None else decoded
        with torch.no_grad():
            target = pixel_target(video)[predicted_tokens].reshape(len(video), -1, VALUES)
        encoded = self.encoder_to_decoder(self.encoder(video, mask))
        table = self.table.expand(len(video), -1, -1).to(encoded)
        width = table.shape[-1]
        seen = table[~mask].reshape(len(video), -1, width)
        unseen = table[predicted_tokens].reshape(len(video), -1, width)
        tokens = torch.cat([encoded + seen, self.mask_token + unseen], dim=1)
        predicted = self.decoder(tokens, unseen.shape[1])
        return F.mse_loss(predicted.float(), target)


def pixel_target(video: Tensor) -> Tensor:
    """`[B, 3, T, H, W]` to `[B, N, P]`: pixels in [0, 1], normalised by token and channel."""
    mean = torch.tensor(IMAGENET_MEAN, device=video.device).view(1, 3, 1, 1, 1)
    deviation = torch.tensor(IMAGENET_STD, device=video.device).view(1, 3, 1, 1, 1)
    pixels = video * deviation + mean
    batch, channels, *lengths = pixels.shape
    cut = [part for n, step in zip(lengths, TUBELET, strict=True) for part in (n // step, step)]
    tokens = pixels.reshape(batch, channels, *cut)  # [B 3 t p0 h p1 w p2]
    tokens = tokens.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, -1, VALUES // 3, channels)
    spread = tokens.var(dim=-2, unbiased=True, keepdim=True).sqrt() + DEVIATION_EPSILON
    return ((tokens - tokens.mean(dim=-2, keepdim=True)) / spread).flatten(2)


class _Encoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, tokens = BACKBONES[config.name], token_grid(config).num_tokens
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv3d(3, size.width, kernel_size=TUBELET, stride=TUBELET)
        self.blocks = nn.ModuleList(_Block(size.width, size.num_heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=EPSILON)
        self.register_buffer("table", _sinusoid(tokens, size.width), persistent=False)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """`[B, K, D]`."""
        x = self.patch_embed.proj(video).flatten(2).transpose(1, 2)
        x = x + self.table.to(x)
        x = x[~mask].reshape(len(video), -1, x.shape[-1])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class _Decoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = BACKBONES[config.name]
        width = size.decoder_width
        self.blocks = nn.ModuleList(
            _Block(width, size.decoder_heads) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.head = nn.Linear(width, VALUES)

    def forward(self, x: Tensor, num_predicted: int) -> Tensor:
        """`[B, N, D]`, those to predict last, to `[B, M, P]`."""
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -num_predicted:]))


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = _Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        layers = F.linear(x, self.qkv.weight, bias).reshape(batch, tokens, 3, self.num_heads, -1)
        q, k, v = layers.permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


def _sinusoid(tokens: int, width: int) -> Tensor:
    """`[N, D]`: pairs of sine and cosine of `n / 10000 ** (2 i / D)` (Vaswani et al. 2017)."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()
