"""Reading weights from anywhere into one form: VideoMAE's pretraining names, on the CPU, as data.

`encoder.patch_embed`, `encoder.blocks.i`, `encoder.norm`, `encoder_to_decoder`, `mask_token`,
`decoder.*`, and of a finetuned network `fc_norm` and `head`. Nothing a file holds is executed.
"""

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mgm_dali.config import ModelConfig
from mgm_dali.errors import UserError
from mgm_dali.models.huggingface import from_huggingface, is_huggingface
from mgm_dali.models.vit import BACKBONES

__all__ = [
    "CONFIG_NAME",
    "FoundWeights",
    "WeightsError",
    "WrittenFor",
    "newest_weights",
    "read_model_config",
    "read_weights",
]

CONFIG_NAME = "config.json"
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
_CONTAINERS = ("model", "module", "state_dict")
_WRAPPERS = ("module.", "_orig_mod.", "backbone.")
"""What DistributedDataParallel, torch.compile and detection frameworks put before a name."""


class WeightsError(UserError):
    """Weights cannot be read, or do not fit the network that asks for them."""


@dataclass(frozen=True)
class WrittenFor:
    """What shapes do not tell: the network that the config.json beside the weights describes."""

    path: Path
    num_heads: int
    decoder_heads: int
    num_frames: int
    image_size: int
    activation: str = "gelu"
    normalised_target: bool = True


@dataclass(frozen=True)
class FoundWeights:
    """One file's tensors by VideoMAE's pretraining names, and its config.json if it has one."""

    path: Path
    tensors: dict[str, Tensor]
    written_for: WrittenFor | None


def read_weights(source: Path) -> FoundWeights:
    """Reads a run folder (its newest weights), a Hugging Face folder or a file.

    Raises `WeightsError` if there is nothing, or nothing that can be read as plain tensors.
    """
    path = newest_weights(source)
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    # Official .pth files come alone: a config.json that lies beside one is of something else.
    described = path.suffix in (".safetensors", ".bin")
    written_for = _read_written_for(path.with_name(CONFIG_NAME)) if described else None
    return FoundWeights(path, _official_names(tensors), written_for)


def read_model_config(path: Path) -> ModelConfig:
    """The `ModelConfig` that was kept beside our weights; raises `WeightsError`."""
    tree = _read_json(path)
    try:
        return ModelConfig.model_validate(tree)
    except ValueError as error:  # pydantic's, whose text names the key and the value
        problem = " ".join(str(error).split())
        raise WeightsError(
            f"{path}: is not a model configuration of ours: {problem}; "
            "the config.json that was written beside the weights is needed"
        ) from None


def newest_weights(source: Path) -> Path:
    """The file itself, a run folder's newest weights, or a Hugging Face folder's only ones.

    Raises `WeightsError` if there is none.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise WeightsError(f"{source}: no such file or folder; check model.init")
    for folder in (source / "weights", source):
        steps = {
            int(match[1]): path
            for path in folder.glob("step-*.safetensors")
            if (match := re.fullmatch(r"step-(\d+)\.safetensors", path.name))
        }
        if steps:
            return steps[max(steps)]
    for name in _FOLDER_FILES:
        if (source / name).is_file():
            return source / name
    raise WeightsError(
        f"{source}: holds no weights; expected weights/step-N.safetensors (a run folder) or "
        f"{' or '.join(_FOLDER_FILES)} (a Hugging Face folder)"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}; copy or save it again") from None
    return tensors


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """A .pth file by torch's restricted unpickler, which builds plain data and runs nothing.

    Official checkpoints also hold their command line, an `argparse.Namespace`: a bag of values
    without behaviour, so that one class more is let through.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        found = f"it asks for {culprit[1]}" if culprit else "it is not a checkpoint of torch"
        raise WeightsError(
            f"{path}: refused, for {found}, and only plain tensors are read; nothing of it was "
            "executed. Save the state dict alone: torch.save(model.state_dict(), ...)"
        ) from None
    except Exception as error:  # broken bytes make the unpickler fail in every way there is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: cannot be read: {reason}; copy or save it again") from None
    for name in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected named tensors, found a {type(content).__name__}")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bare = {}
    for name, tensor in tensors.items():
        for wrapper in _WRAPPERS:
            name = name.removeprefix(wrapper)
        bare[name] = tensor
    if is_huggingface(bare):
        bare = from_huggingface(bare)
    trunk = ("patch_embed.", "blocks.", "norm.")
    return {f"encoder.{n}" if n.startswith(trunk) else n: tensor for n, tensor in bare.items()}


def _read_written_for(path: Path) -> WrittenFor | None:
    """The network of a config.json: ours, or Hugging Face's, whose own defaults fill gaps."""
    if not path.is_file():
        return None
    tree = _read_json(path)
    if "model_type" not in tree:
        config = read_model_config(path)
        size = BACKBONES[config.name]
        return WrittenFor(
            path, size.num_heads, size.decoder_heads, config.num_frames, config.image_size
        )
    if tree["model_type"] != "videomae":
        raise WeightsError(f"{path}: is for {tree['model_type']!r}; only 'videomae' can be read")
    return WrittenFor(
        path,
        num_heads=tree.get("num_attention_heads", 12),
        decoder_heads=tree.get("decoder_num_attention_heads", 6),
        num_frames=tree.get("num_frames", 16),
        image_size=tree.get("image_size", 224),
        activation=tree.get("hidden_act", "gelu"),
        normalised_target=tree.get("norm_pix_loss", True),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; it is written beside a run's weights") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(tree, dict):
        raise WeightsError(f"{path}: expected a JSON object, found {type(tree).__name__}")
    return tree
