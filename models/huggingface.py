"""VideoMAE's parameter names to Hugging Face transformers' and back, and its JSON files.

Letters: D width. Hugging Face splits `attn.qkv.weight` `[3D, D]` into query, key and value.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES, ModelConfig
from mgm_dali.models.block import MLP_RATIO, NORM_EPSILON
from mgm_dali.models.patches import CHANNELS
from mgm_dali.models.vit import BACKBONES
from mgm_dali.models.written_for import WeightsError

__all__ = [
    "KEY_BIAS",
    "from_huggingface",
    "huggingface_config",
    "huggingface_origins",
    "is_huggingface",
    "loses_biases",
    "preprocessor_config",
    "to_huggingface",
]

KEY_BIAS = "adds the same to all scores of a query, which softmax ignores"
"""Why a bias on keys is not read."""

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


def is_huggingface(names: Iterable[str]) -> bool:
    """Whether these are Hugging Face's parameter names."""
    return any(name.endswith("patch_embeddings.projection.weight") for name in names)


def huggingface_origins(names: Iterable[str]) -> dict[str, list[str]]:
    """VideoMAE's pretraining names, each with Hugging Face's that it is made of, in their order.

    What has no counterpart keeps its name; biases on keys are left out, for they have no effect.
    Raises `WeightsError` where two names are of one parameter.
    """
    origins: dict[str, list[str]] = {}
    for name in names:
        if not name.endswith("attention.attention.key.bias"):
            bare = name.startswith(("embeddings.", "encoder.layer.", "layernorm."))
            full = f"videomae.{name}" if bare else name
            ours = _rename(full, _PREFIXES, _IN_BLOCK | _IN_BLOCK_NEW_SPELLING)
            if ours in origins:
                raise WeightsError(f"{origins[ours][0]} and {name} are the same; keep one")
            origins[ours] = [name]
    for first in [name for name in origins if name.endswith(".attn.q.weight")]:
        block = first.removesuffix("q.weight")
        parts = [f"{block}{part}.weight" for part in "qkv"]
        if all(part in origins for part in parts):
            if joined := origins.get(f"{block}qkv.weight"):
                raise WeightsError(f"{joined[0]} and {origins[first][0]} are the same; keep one")
            origins[f"{block}qkv.weight"] = [origins.pop(part)[0] for part in parts]
    return origins


def from_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames to VideoMAE's pretraining names; what has no counterpart keeps its name.

    Takes what VideoMAEForPreTraining, VideoMAEForVideoClassification and VideoMAEModel, whose names
    lack `videomae.`, hold: parameters, in files or in memory, or their gradients.
    """
    return {
        name: torch.cat([tensors[part] for part in parts]) if len(parts) > 1 else tensors[parts[0]]
        for name, parts in huggingface_origins(tensors).items()
    }


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


def loses_biases(transformers_version: str) -> bool:
    """Whether this version reads VideoMAE files without the biases of queries and values.

    From 5.5 to 5.17 they became zeros without a word; such a version writes the zeros, too.
    """
    match = re.match(r"5\.(\d+)", transformers_version)
    return match is not None and 5 <= int(match[1]) <= 17


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


def preprocessor_config(config: ModelConfig) -> dict[str, Any]:
    """What preprocessor_config.json must hold for clips to look like those that we train on."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": config.image_size},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": config.image_size, "width": config.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


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
