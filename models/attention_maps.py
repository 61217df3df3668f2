"""Where the encoder looks: the attention of one token, as weights over all tokens of the clip."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mgm_dali.models.attention import Attention
from mgm_dali.models.autoencoder import Autoencoder
from mgm_dali.models.classifier import Classifier
from mgm_dali.models.patches import patchify
from mgm_dali.models.vit import check_video

__all__ = ["attention_map"]


@torch.no_grad()
def attention_map(
    network: Autoencoder | Classifier, video: Tensor, query: int, layer: int = -1
) -> Tensor:
    """How much token `query` attends to every token: `[B, N]` float32, rows sum to 1.

    `video [B, C, T, H, W]` is encoded whole, nothing hidden. The weights are those of the encoder's
    block `layer` (0 is the first, -1 the last), the mean of its heads; where attention is divided,
    of its attention over space, so that other slices have none. Raises ValueError for a video of
    another size, IndexError for a token or a block that is not there.
    """
    trunk = network.encoder if isinstance(network, Autoencoder) else network
    patches = patchify(check_video(video, network.config))
    if not 0 <= query < patches.shape[1]:
        raise IndexError(f"query: {query} is none of {patches.shape[1]} tokens")
    attention = trunk.blocks[layer].get_submodule("attn")
    assert isinstance(attention, Attention), "a block's"
    # The kernels that the network runs on keep no weights. What goes into the block is caught on
    # its way, and queries and keys are made of it once more.
    caught: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        trunk.encode_tokens(patches)
    finally:
        hook.remove()
    tokens = caught[0].float().view(*patches.shape[:2], -1)
    to_query, to_key, _ = attention.qkv.weight.float().chunk(3)
    q = F.linear(tokens[:, query : query + 1], to_query, attention.q_bias.float())
    k = F.linear(tokens, to_key)  # which have no bias
    heads = (attention.num_heads, q.shape[-1] // attention.num_heads)
    q, k = (x.view(*x.shape[:2], *heads).transpose(1, 2) for x in (q, k))
    scores = q @ k.transpose(-2, -1) * heads[1] ** -0.5  # [B, heads, 1, N]
    if trunk.is_divided:
        places = trunk.grid.h * trunk.grid.w
        slices = torch.arange(patches.shape[1], device=video.device) // places
        scores = scores.masked_fill(slices != query // places, float("-inf"))
    weights: Tensor = scores.softmax(-1).mean(1)[:, 0]
    return weights
