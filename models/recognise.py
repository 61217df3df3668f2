"""Which network weights are of, from their shapes and what is known about them."""

import json
from collections.abc import Sequence
from typing import Any

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig, RunConfig, override_config
from mgm_dali.errors import UserError
from mgm_dali.models.load_report import collapse
from mgm_dali.models.position import position_grid
from mgm_dali.models.vit import BACKBONES
from mgm_dali.models.weight_files import FoundWeights
from mgm_dali.models.written_for import WeightsError

__all__ = ["count_classes", "fitting_backbones", "is_classifier", "measure", "recognise"]

MAX_TOKENS = 2**17
MAX_DECODER_DEPTH = 2**7
"""More is taken for a mistake in a config.json, not for a network to be built."""


def recognise(found: FoundWeights, overrides: Sequence[str] = ()) -> ModelConfig:
    """The network that the weights are of; `model.key=value` overrides win.

    Raises `UserError` where nothing tells the backbone or the clips, with the settings that do.
    """
    for override in overrides:
        if not override.startswith("model."):
            raise UserError(
                f"{override!r}: weights have keys of the model alone, such as model.name=vit_base"
            )
    told = [f"model.{key}={json.dumps(value)}" for key, value in _settings(found).items()]
    _require_told(found, [*told, *overrides])
    config = override_config(RunConfig(), [*told, *overrides]).model
    tokens = max(token_grid(config).num_tokens, position_grid(config).num_tokens)
    if tokens > MAX_TOKENS or config.decoder_depth > MAX_DECODER_DEPTH:
        raise UserError(
            f"{found.path}: is said to be for clips of {tokens} tokens and {config.decoder_depth} "
            f"decoder blocks, more than is built ({MAX_TOKENS} and {MAX_DECODER_DEPTH}); set "
            "model.num_frames, model.image_size and model.decoder_depth to what is right"
        )
    _require_same_task(found, config)
    return config


def count_classes(found: FoundWeights) -> int | None:
    """Rows of a classifier's head; None: it has none. Raises `WeightsError` for a head of less."""
    head = found.tensors.get("head.weight")
    if head is None or found.is_of_images:
        return None
    if head.ndim != 2 or len(head) < 2:
        raise WeightsError(
            f"{found.path}: head.weight is {list(head.shape)}, expected [classes, width] of at "
            "least 2 classes; take weights of a classifier, or save them without their head"
        )
    return len(head)


def is_classifier(found: FoundWeights) -> bool:
    """Whether the weights end in a head: a classifier's, or a detector's, whose names are equal."""
    return {"fc_norm.weight", "head.weight"} <= found.tensors.keys() and not found.is_of_images


def measure(found: FoundWeights) -> tuple[int, int, int]:
    """Width and blocks of the encoder, and blocks of the decoder."""
    embedding = found.tensors.get("encoder.patch_embed.proj.bias")
    width = 0 if embedding is None else embedding.numel()
    return width, _count_blocks("encoder", found), _count_blocks("decoder", found)


def fitting_backbones(found: FoundWeights) -> list[str]:
    """The names of all backbones that have such an encoder."""
    width, depth, _ = measure(found)
    learned = "encoder.pos_embed" in found.tensors and not found.is_of_images
    return [
        name
        for name, size in BACKBONES.items()
        if (size.width, size.depth, size.learned_positions) == (width, depth, learned)
    ]


def _settings(found: FoundWeights) -> dict[str, Any]:
    """What the shapes tell, and what is known beside; what is not told is left out."""
    written, names = found.written_for, fitting_backbones(found)
    settings: dict[str, Any] = {"attention": None, "decoder_depth": None}  # by the name
    if written is not None and written.config is not None:
        settings |= written.config.model_dump(mode="json", exclude={"init", "num_classes"})
    elif written is not None and written.clip is not None:
        settings |= {"num_frames": written.clip[0], "image_size": written.clip[1]}
    elif found.is_of_images:
        settings |= {key: ModelConfig.model_fields[key].default for key in _CLIP}
    if names:
        settings["name"] = names[0]
        if BACKBONES[names[0]].learned_positions:
            divided = any(".temporal_attn." in name for name in found.tensors)
            settings["attention"] = "divided" if divided else "joint"
    if decoder_depth := _count_blocks("decoder", found):
        settings["decoder_depth"] = decoder_depth
    if is_classifier(found):
        settings["num_classes"] = count_classes(found)
    return settings


_CLIP = ("num_frames", "image_size")


def _require_told(found: FoundWeights, settings: Sequence[str]) -> None:
    given = {setting.partition("=")[0] for setting in settings}
    if "model.name" not in given:
        width, depth, _ = measure(found)
        if not width:
            some = collapse(found.origins.values()) or "nothing of it"
            raise UserError(
                f"{found.path}: lacks encoder.patch_embed.proj.bias; it holds {some:.200}. "
                "Expected weights of VideoMAE, of Hugging Face's, or of an image network"
            )
        raise UserError(
            f"{found.path}: has {depth} blocks of width {width}, as no backbone of ours "
            f"({', '.join(BACKBONES)}); if it is of one, set model.name"
        )
    if lacking := [key for key in _CLIP if f"model.{key}" not in given]:
        hint = " ".join(f"model.{key}={ModelConfig.model_fields[key].default}" for key in lacking)
        raise UserError(
            f"{found.path}: does not say on which clips it learned; add what they were, as {hint}"
        )


def _require_same_task(found: FoundWeights, config: ModelConfig) -> None:
    """Refuses settings of other clips or classes than the weights have learned, where it is known.

    To name them anew would hide from whoever takes them that they learned something else.
    """
    written = found.written_for
    is_of_images = found.is_of_images or found.learned_on_images
    known: list[tuple[str, Any, Any]] = []
    if written is not None and written.clip is not None and not is_of_images:
        known = [("positions of", written.clip, config.position_clip)]
        clip = written.clip
        if written.config is not None:
            clip = (written.config.num_frames, written.config.image_size)
        known.append(("clips of", clip, (config.num_frames, config.image_size)))
    if is_classifier(found):
        known.append(("number of classes", count_classes(found), config.num_classes))
    for what, theirs, ours in known:
        if theirs != ours:
            raise UserError(
                f"{found.path}: learned {what} {_spell(theirs)}, and the settings say "
                f"{_spell(ours)}; give them to the run that takes the folder"
            )


def _spell(value: Any) -> str:
    return "{} frames of {} pixels".format(*value) if isinstance(value, tuple) else str(value)


def _count_blocks(side: str, found: FoundWeights) -> int:
    prefix = f"{side}.blocks."
    return len({name.split(".")[2] for name in found.tensors if name.startswith(prefix)})
