"""A network's weights into files: ours, Hugging Face's and VideoMAE's.

Every file appears whole or not at all.
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig
from mgm_dali.errors import UserError
from mgm_dali.files import whole_file
from mgm_dali.models.autoencoder import Autoencoder
from mgm_dali.models.classifier import Classifier
from mgm_dali.models.huggingface import huggingface_config, preprocessor_config, to_huggingface
from mgm_dali.models.position import position_grid
from mgm_dali.models.vit import BACKBONES
from mgm_dali.models.weight_files import CONFIG_NAME, LEARNED_ON

__all__ = ["export_huggingface", "export_videomae", "official_state", "save_weights"]


def save_weights(
    module: Autoencoder | Classifier,
    config: ModelConfig,
    path: str | Path,
    state: dict[str, Tensor] | None = None,
    *,
    learned_on_images: bool = False,
) -> None:
    """Writes float32 weights by VideoMAE's names (.safetensors), and config.json beside them.

    `state` gives the weights where the module itself holds rounded copies of them, or more than is
    to be kept. The configuration goes first, so that weights never lack it. `learned_on_images`
    keeps in mind that they know of no clip's positions. Raises `OSError` if the disk is full.
    """
    path = Path(path)
    kept = config.model_dump(mode="json", exclude={"init"})
    if isinstance(module, Classifier):
        kept["num_classes"] = module.head.out_features
    _write_json(kept, path.with_name(CONFIG_NAME))
    metadata = {"format": "pt", "network": type(module).__name__.lower(), "name": config.name}
    if learned_on_images:
        metadata[LEARNED_ON] = "images"
    with _written_whole(path) as partial:
        save_file(_float32(state or module.state_dict()), partial, metadata=metadata)


def export_huggingface(module: Autoencoder | Classifier, folder: str | Path) -> None:
    """Writes what transformers' `from_pretrained(folder)` reads.

    An autoencoder becomes VideoMAEForPreTraining, a classifier VideoMAEForVideoClassification. The
    files are model.safetensors, config.json and preprocessor_config.json. Raises `UserError` for
    networks that transformers does not have.
    """
    _require_videomae(module.config)
    folder = Path(folder)
    num_classes = module.head.out_features if isinstance(module, Classifier) else None
    _write_json(huggingface_config(module.config, num_classes), folder / CONFIG_NAME)
    _write_json(preprocessor_config(module.config), folder / "preprocessor_config.json")
    with _written_whole(folder / "model.safetensors") as partial:
        tensors = to_huggingface(_float32(official_state(module)))
        save_file(tensors, partial, metadata={"format": "pt"})


def export_videomae(module: Autoencoder | Classifier, path: str | Path) -> None:
    """Writes a .pth that VideoMAE's scripts take: `{"model": tensors by its names, "args": ...}`.

    `args` says on which clips they learned; a plain dict, which torch loads as mere data. Raises
    `UserError` for networks that VideoMAE does not have.
    """
    config = module.config
    _require_videomae(config)
    arguments = {"num_frames": config.num_frames, "input_size": config.image_size}
    if isinstance(module, Autoencoder):
        arguments["decoder_depth"] = config.decoder_depth
    with _written_whole(Path(path)) as partial:
        torch.save({"model": _float32(module.state_dict()), "args": arguments}, partial)


def official_state(module: Autoencoder | Classifier) -> dict[str, Tensor]:
    """The network's own tensors by VideoMAE's pretraining names; `fc_norm`, `head` as they are."""
    state: dict[str, Tensor] = module.state_dict()
    if isinstance(module, Autoencoder):
        return state
    new = ("fc_norm.", "head.")
    return {n if n.startswith(new) else f"encoder.{n}": tensor for n, tensor in state.items()}


def _require_videomae(config: ModelConfig) -> None:
    keep = "keep it as safetensors of ours: `mgm-dali export --to safetensors`, or `save_weights`"
    if BACKBONES[config.name].learned_positions:
        raise UserError(f"{config.name}: VideoMAE and transformers have no such network; {keep}")
    if position_grid(config) != token_grid(config):
        frames, pixels = config.position_clip
        raise UserError(
            f"{config.name}: its positions are those of {frames} frames of {pixels} pixels, "
            f"stretched to {config.num_frames} of {config.image_size}, and transformers and "
            f"VideoMAE compute their own; {keep}"
        )


def _float32(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().to("cpu", torch.float32).contiguous() for n, t in state.items()}


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """A file that appears whole; the writers' own errors become the `OSError` that they stand for.

    Of a full disk safetensors says `SafetensorError` and torch `RuntimeError`.
    """
    try:
        with whole_file(path, synced=True) as partial:
            partial.touch()
            mode = partial.stat().st_mode
            yield partial
            partial.chmod(mode)  # safetensors lets its owner alone read what it writes
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise OSError(errno.EIO, f"cannot be written ({reason})", str(path)) from None


def _write_json(tree: dict[str, Any], path: Path) -> None:
    with whole_file(path, synced=True) as partial:
        partial.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
