"""VideoMAE's pretraining, and TimeSformer's blocks, with the simplest operations there are.

Letters: B clips, N tokens, K visible, M predicted, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mgm_dali.config import ModelConfig
from mgm_dali.models import BACKBONES
from mgm_dali.models.position import sinusoid_table

__all__ = ["Weights", "plain_block", "plain_forward", "plain_target"]

Weights = dict[str, Tensor]
Groups = list[tuple[list[int], list[int]]]


def plain_norm(x: Tensor, w: Weights, at: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{at}.weight"], w[f"{at}.bias"], 1e-6)


def plain_attention(y: Tensor, w: Weights, at: str, heads: int) -> Tensor:
    width = y.shape[-1]
    weight = w[f"{at}.qkv.weight"]
    q = y @ weight[:width].T + w[f"{at}.q_bias"]
    k = y @ weight[width : 2 * width].T
    v = y @ weight[2 * width :].T + w[f"{at}.v_bias"]
    outputs = []
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        scores = torch.einsum("bnd,bmd->bnm", q[..., part], k[..., part]) * (width // heads) ** -0.5
        outputs.append(torch.einsum("bnm,bmd->bnd", scores.softmax(-1), v[..., part]))
    return F.linear(torch.cat(outputs, -1), w[f"{at}.proj.weight"], w[f"{at}.proj.bias"])


def plain_mlp(y: Tensor, w: Weights, at: str) -> Tensor:
    y = F.gelu(F.linear(y, w[f"{at}.fc1.weight"], w[f"{at}.fc1.bias"]))
    return F.linear(y, w[f"{at}.fc2.weight"], w[f"{at}.fc2.bias"])


def plain_block(x: Tensor, w: Weights, at: str, heads: int) -> Tensor:
    x = x + plain_attention(plain_norm(x, w, f"{at}.norm1"), w, f"{at}.attn", heads)
    return x + plain_mlp(plain_norm(x, w, f"{at}.norm2"), w, f"{at}.mlp")


def plain_divided_block(x: Tensor, w: Weights, at: str, heads: int, groups: Groups) -> Tensor:
    """`groups` are, of each clip, the places and the slices of the K tokens that it has."""

    def in_groups(y: Tensor, which: int, attn: str) -> Tensor:
        clips = []
        for clip, group_of in zip(y, (pair[which] for pair in groups), strict=True):
            mixed = {}
            for group in set(group_of):
                members = [n for n, its in enumerate(group_of) if its == group]
                outputs = plain_attention(clip[members].unsqueeze(0), w, f"{at}.{attn}", heads)[0]
                mixed |= dict(zip(members, outputs, strict=True))
            clips.append(torch.stack([mixed[n] for n in range(len(group_of))]))
        return torch.stack(clips)

    over_time = in_groups(plain_norm(x, w, f"{at}.temporal_norm1"), 0, "temporal_attn")
    x = x + F.linear(over_time, w[f"{at}.temporal_fc.weight"], w[f"{at}.temporal_fc.bias"])
    x = x + in_groups(plain_norm(x, w, f"{at}.norm1"), 1, "attn")
    return x + plain_mlp(plain_norm(x, w, f"{at}.norm2"), w, f"{at}.mlp")


def plain_target(video: Tensor, mask: Tensor) -> Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1, 1)
    pixels = video * std + mean
    batch, _, frames, height, width = pixels.shape
    clips = []
    for b in range(batch):
        tokens = []
        for t in range(0, frames, 2):
            for y in range(0, height, 16):
                for x in range(0, width, 16):
                    cube = pixels[b, :, t : t + 2, y : y + 16, x : x + 16].reshape(3, 512)
                    cube = (cube - cube.mean(1, keepdim=True)) / (cube.std(1, keepdim=True) + 1e-6)
                    tokens.append(cube.T.reshape(-1))  # channel fastest
        clips.append(torch.stack(tokens)[mask[b]])
    return torch.stack(clips)


def plain_forward(
    config: ModelConfig, w: Weights, video: Tensor, mask: Tensor, decoded: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, prediction `[B, M, 1536]` and encoder output `[B, K, D]`.

    All hidden tokens are predicted, or those of `decoded [B, N]`.
    """
    decoded = mask if decoded is None else decoded
    size = BACKBONES[config.name]
    batch = len(video)
    x = F.conv3d(
        video, w["encoder.patch_embed.proj.weight"], w["encoder.patch_embed.proj.bias"], (2, 16, 16)
    )
    if "encoder.pos_embed" in w:
        places = w["encoder.pos_embed"].shape[1]
        table = [t + p for t in w["encoder.time_embed"][0] for p in w["encoder.pos_embed"][0]]
        position = torch.stack(table)
    else:
        places, position = mask.shape[1], sinusoid_table(mask.shape[1], size.width)
    x = x.flatten(2).transpose(1, 2) + position
    x = x[~mask].reshape(batch, -1, size.width)
    visible = [row.nonzero().flatten().tolist() for row in ~mask]
    groups = [([n % places for n in row], [n // places for n in row]) for row in visible]
    for index in range(size.depth):
        at = f"encoder.blocks.{index}"
        if config.attention == "divided":
            x = plain_divided_block(x, w, at, size.num_heads, groups)
        else:
            x = plain_block(x, w, at, size.num_heads)
    x = F.layer_norm(x, x.shape[-1:], w["encoder.norm.weight"], w["encoder.norm.bias"], 1e-6)
    y = x @ w["encoder_to_decoder.weight"].T
    table = sinusoid_table(mask.shape[1], size.decoder_width).expand(batch, -1, -1)
    seen = table[~mask].reshape(batch, -1, size.decoder_width)
    unseen = table[decoded].reshape(batch, -1, size.decoder_width)
    y = torch.cat([y + seen, w["mask_token"] + unseen], dim=1)
    for index in range(config.decoder_depth):
        y = plain_block(y, w, f"decoder.blocks.{index}", size.decoder_heads)
    y = y[:, -unseen.shape[1] :]
    y = F.layer_norm(y, y.shape[-1:], w["decoder.norm.weight"], w["decoder.norm.bias"], 1e-6)
    y = F.linear(y, w["decoder.head.weight"], w["decoder.head.bias"])
    return F.mse_loss(y, plain_target(video, decoded)), y, x
