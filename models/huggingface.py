"""VideoMAE's parameter names to Hugging Face transformers' and back, and its config.json.

Letters: D width. Hugging Face splits `attn.qkv.weight` `[3D, D]` into query, key and value.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES, ModelConfig
from mgm_dali.models.patches import CHANNELS
from mgm_dali.models.vit import BACKBONES, MLP_RATIO, NORM_EPSILON

__all__ = ["from_huggingface", "huggingface_config", "is_huggingface", "to_huggingface"]

_PREFIXES = {  # Hugging Face's: VideoMAE's (pretraining)
    "videomae.embeddings.patch_embeddings.projection.": "encoder.patch_embed.proj.",
    "videomae.layernorm.": "encoder.norm.",
    "videomae.encoder.layer.": "encoder.blocks.",
    "decoder.decoder_layers.": "decoder.blocks.",
    "classifier.": "head.",
}
_IN_BLOCK = {
    "layernorm_before": "norm1",
    "attention.attention.query.weight": "attn.q.weight",
    "attention.attention.key.weight": "attn.k.weight",
    "attention.attention.value.weight": "attn.v.weight",
    "attention.attention.q_bias": "attn.q_bias",
    "attention.attention.v_bias": "attn.v_bias",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_IN_BLOCK_NEW_SPELLING = {  # in memory since transformers 5.18; files keep q_bias and v_bias
    "attention.attention.query.bias": "attn.q_bias",
    "attention.attention.value.bias": "attn.v_bias",
}


def is_huggingface(names: Mapping[str, object]) -> bool:
    """Whether these are Hugging Face's parameter names."""
    return any(name.endswith("patch_embeddings.projection.weight") for name in names)


def from_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames to VideoMAE's pretraining names; what has no counterpart keeps its name.

    Takes files of VideoMAEForPreTraining, VideoMAEForVideoClassification and VideoMAEModel, whose
    names lack `videomae.`.
    """
    official = {}
    in_block = _IN_BLOCK | _IN_BLOCK_NEW_SPELLING
    for name, tensor in tensors.items():
        if name.endswith("attention.attention.key.bias"):
            continue  # adds the same number to all scores of a query: softmax ignores it
        if name.startswith(("embeddings.", "encoder.layer.", "layernorm.")):
            name = f"videomae.{name}"
        official[_rename(name, _PREFIXES, in_block)] = tensor
    for name in [name for name in official if name.endswith(".attn.q.weight")]:
        block = name.removesuffix("q.weight")
        parts = [official.pop(f"{block}{part}.weight", None) for part in "qkv"]
        if all(part is not None for part in parts):
            official[f"{block}qkv.weight"] = torch.cat([part for part in parts if part is not None])
    return official


def to_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back, to the spelling of Hugging Face's files."""
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".attn.qkv.weight"):
            block = name.removesuffix("qkv.weight")
            split |= {
                f"{block}{part}.weight": w for part, w in zip("qkv", tensor.chunk(3), strict=True)
            }
        else:
            split[name] = tensor
    prefixes = {ours: theirs for theirs, ours in _PREFIXES.items()}
    in_block = {ours: theirs for theirs, ours in _IN_BLOCK.items()}
    return {
        _rename(name, prefixes, in_block): tensor.contiguous() for name, tensor in split.items()
    }


def huggingface_config(config: ModelConfig, num_classes: int | None) -> dict[str, Any]:
    """What Hugging Face's config.json must hold: a classifier's if `num_classes` is given."""
    size = BACKBONES[config.name]
    kind = "VideoMAEForPreTraining" if num_classes is None else "VideoMAEForVideoClassification"
    labels = {str(label): f"LABEL_{label}" for label in range(num_classes or 0)}
    return {
        "model_type": "videomae",
        "architectures": [kind],
        "image_size": config.image_size,
        "patch_size": PATCH_PIXELS,
        "num_channels": CHANNELS,
        "num_frames": config.num_frames,
        "tubelet_size": TUBELET_FRAMES,
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.num_heads,
        "intermediate_size": MLP_RATIO * size.width,
        "hidden_act": "gelu",
        "layer_norm_eps": NORM_EPSILON,
        "qkv_bias": True,
        # Their autoencoder has its last norm only without pooling, their classifier ours only with.
        "use_mean_pooling": num_classes is not None,
        "decoder_num_attention_heads": size.decoder_heads,
        "decoder_hidden_size": size.decoder_width,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_intermediate_size": MLP_RATIO * size.decoder_width,
        "norm_pix_loss": True,
    } | ({"id2label": labels, "label2id": {n: int(i) for i, n in labels.items()}} if labels else {})


def _rename(name: str, prefixes: Mapping[str, str], in_block: Mapping[str, str]) -> str:
    """`encoder.blocks.3.norm1.bias` has a prefix, a block number and a name within the block."""
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    if prefix is None:
        return name
    rest = name.removeprefix(prefix)
    number, dot, inside = rest.partition(".")
    if not (dot and number.isdigit()):
        return prefixes[prefix] + rest
    old = next((old for old in in_block if f"{inside}.".startswith(f"{old}.")), None)
    if old is not None:
        inside = in_block[old] + inside.removeprefix(old)
    return f"{prefixes[prefix]}{number}.{inside}"
