"""What shapes do not tell of weights: the network and the clips that they were written for.

It stands in the config.json beside them (ours, Hugging Face's or timm's), or in the command line
that VideoMAE's scripts keep in a .pth. All of it is data from anywhere: each value is checked.
"""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES, ModelConfig
from mgm_dali.errors import UserError
from mgm_dali.models.vit import BACKBONES

__all__ = [
    "WeightsError",
    "WrittenFor",
    "escaped",
    "read_arguments",
    "read_description",
    "read_model_config",
]

MAX_BYTES = 2**24
"""A longer config.json is none."""


class WeightsError(UserError):
    """Weights cannot be read, or do not fit the network that asks for them."""


@dataclass(frozen=True)
class WrittenFor:
    """What is known of the network that weights are of; None: nobody says."""

    source: str
    """Where it says so, for messages."""
    config: ModelConfig | None = None
    """The whole, where the weights are ours."""
    name: str | None = None
    """The backbone, by our name."""
    width: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    decoder_heads: int | None = None
    decoder_depth: int | None = None
    clip: tuple[int, int] | None = None
    """Frames, and height and width in pixels, of the clips whose positions were learned."""
    architecture: str | None = None
    """An image network's name in timm."""
    block: str | None = None
    """The class of its blocks."""
    activation: str | None = None
    norm_epsilon: float | None = None
    mean_pooling: bool | None = None
    """Whether the classifier reads the mean of all tokens."""
    normalised_target: bool | None = None
    """Whether the decoder predicts normalised pixels."""
    transformers_version: str = ""
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None
    """How an image network's pixels were normalised, for each of 3 channels."""


class _Described(BaseModel):
    """Only what matters here is read; of another type than it should be, it is refused."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


Count = Annotated[int, Field(ge=1, le=2**20)]
Three = Annotated[list[float], Field(min_length=3, max_length=3)]
ThreePositive = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class _HuggingFace(_Described):
    """Hugging Face's config.json leaves out what is as in its class; these are its defaults."""

    image_size: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] = 224
    num_frames: Count = 16
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    decoder_num_attention_heads: Count = 6
    decoder_num_hidden_layers: Count = 4
    tubelet_size: Count = 2
    patch_size: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] = 16
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = Field(1e-12, ge=0)
    use_mean_pooling: bool = True
    norm_pix_loss: bool = True
    transformers_version: str | None = None


class _Pixels(_Described):
    mean: Three | None = None
    std: ThreePositive | None = None


class _TimmLayers(_Described):
    width: Count | None = Field(None, alias="embed_dim")
    depth: Count | None = None
    num_heads: Count | None = None


class _Timm(_Described):
    architecture: str
    pretrained_cfg: _Pixels = _Pixels()
    model_args: _TimmLayers = _TimmLayers()


class _Arguments(_Described):
    """What VideoMAE's scripts were called with."""

    model: str | None = None
    num_frames: Count | None = None
    num_segments: Count = 1
    input_size: Count | None = None
    decoder_depth: Count | None = None
    use_mean_pooling: bool | None = None
    normlize_target: bool | None = None


def read_description(path: Path) -> WrittenFor:
    """What a config.json tells: ours, Hugging Face's or timm's. Raises `WeightsError`."""
    tree = _read_json(path)
    if "model_type" in tree:
        return _of_huggingface(tree, path)
    if "architecture" in tree:
        return _of_timm(tree, path)
    config = _checked_config(tree, path)
    return WrittenFor(str(path), config, name=config.name, clip=config.position_clip)


def read_model_config(path: Path) -> ModelConfig:
    """The `ModelConfig` that was kept beside our weights; raises `WeightsError`."""
    return _checked_config(_read_json(path), path)


def read_arguments(arguments: Mapping[str, Any], path: Path) -> WrittenFor:
    """What the command line kept in a .pth of VideoMAE's scripts tells. Raises `WeightsError`."""
    try:
        found = _Arguments.model_validate(dict(arguments))
    except ValidationError as error:
        raise WeightsError(
            f"{path}: its args say {_problem(error)}; if they are of something else, save the "
            'weights alone: torch.save({"model": state_dict}, ...)'
        ) from None
    clip = None
    if found.num_frames is not None and found.input_size is not None:
        clip = (found.num_frames * found.num_segments, found.input_size)
    size = re.search(r"_(small|base|large|huge)_patch16", found.model or "")
    return WrittenFor(
        f"{path} (args)",
        name=f"vit_{size[1]}" if size and f"vit_{size[1]}" in BACKBONES else None,
        decoder_depth=found.decoder_depth,
        clip=clip,
        mean_pooling=found.use_mean_pooling,
        normalised_target=found.normlize_target,
    )


def _of_huggingface(tree: dict[str, Any], path: Path) -> WrittenFor:
    if tree["model_type"] != "videomae":
        raise WeightsError(
            f"{path}: is for {tree['model_type']!r:.40}; of Hugging Face's networks only "
            "'videomae' can be read"
        )
    try:
        found = _HuggingFace.model_validate(tree)
    except ValidationError as error:
        raise WeightsError(f"{path}: {_problem(error)}; take the original file") from None
    ours = {
        "tubelet_size": (TUBELET_FRAMES,),
        "patch_size": (PATCH_PIXELS, [PATCH_PIXELS, PATCH_PIXELS]),
        "qkv_bias": (True,),
    }
    for key, values in ours.items():
        if getattr(found, key) not in values:
            raise WeightsError(
                f"{path}: {key} is {getattr(found, key)}, every network here has {values[0]}; "
                "take weights that were trained with it"
            )
    size = found.image_size
    sides = size if isinstance(size, list) else [size, size]
    if sides[0] != sides[1]:
        raise WeightsError(f"{path}: image_size is {sides}; only square clips can be read")
    return WrittenFor(
        str(path),
        width=found.hidden_size,
        depth=found.num_hidden_layers,
        num_heads=found.num_attention_heads,
        decoder_heads=found.decoder_num_attention_heads,
        decoder_depth=found.decoder_num_hidden_layers,
        clip=(found.num_frames, sides[0]),
        activation=found.hidden_act,
        norm_epsilon=found.layer_norm_eps,
        mean_pooling=found.use_mean_pooling,
        normalised_target=found.norm_pix_loss,
        transformers_version=escaped(found.transformers_version or ""),
    )


def _of_timm(tree: dict[str, Any], path: Path) -> WrittenFor:
    try:
        found = _Timm.model_validate(tree)
    except ValidationError as error:
        raise WeightsError(f"{path}: {_problem(error)}; take the original file") from None
    mean, std = found.pretrained_cfg.mean, found.pretrained_cfg.std
    return WrittenFor(
        str(path),
        architecture=escaped(found.architecture),
        pixel_mean=None if mean is None else tuple(mean),
        pixel_std=None if std is None else tuple(std),
        **_timm_layers(found.architecture) | found.model_args.model_dump(exclude_none=True),
    )


def _timm_layers(architecture: str) -> dict[str, Any]:
    """What timm builds by this name, without memory; empty where it knows no such name."""
    if not timm.is_model(architecture):  # so that no name leads to a file or to the network
        return {}
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # old names
        network = timm.create_model(architecture, pretrained=False)
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        return {"block": type(network).__qualname__}
    block, first = type(blocks[0]), blocks[0]
    activation = getattr(getattr(first, "mlp", None), "act", None)
    is_exact = isinstance(activation, nn.GELU) and activation.approximate == "none"
    return {
        "block": f"{block.__module__}.{block.__qualname__}",
        "width": getattr(network, "embed_dim", None),
        "depth": len(blocks),
        "num_heads": getattr(getattr(first, "attn", None), "num_heads", None),
        "activation": "gelu" if is_exact else type(activation).__name__,
        "norm_epsilon": getattr(getattr(first, "norm1", None), "eps", None),
    }


def _checked_config(tree: dict[str, Any], path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate(tree)
    except ValidationError as error:
        raise WeightsError(
            f"{path}: is not a model configuration of ours: {_problem(error)}; "
            "the config.json that was written beside the weights is needed"
        ) from None


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong: key, what is expected, what was found."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    message = escaped(first["msg"].removeprefix("Value error, "))
    found = f"{first['input']!r:.40}"
    return f"{escaped(key)}: {message}, found {found}" if key else message


def escaped(text: str) -> str:
    """Text from a file, with escapes where it cannot be printed; two texts never become one.

    `in_words.printable` is easier to read, and does not keep a backslash apart from an escape.
    """
    return text if text.isprintable() and "\\" not in text else ascii(text)[1:-1]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise WeightsError(f"{path}: has more than {MAX_BYTES} bytes, which is no config.json")
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; it is written beside a run's weights") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON: {error}; copy it again") from None
    if not isinstance(tree, dict):
        raise WeightsError(f"{path}: expected a JSON object, found {type(tree).__name__}")
    return tree
