"""Pretrained weights into a network.

A network and a file agree part by part: trunk, time, norm, decoder, fc_norm, head. A part is taken
whole or not at all, and the report says which; half a part or another shape is an error.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES
from mgm_dali.models.agreement import compare_networks, require_biases
from mgm_dali.models.autoencoder import Autoencoder
from mgm_dali.models.classifier import Classifier
from mgm_dali.models.detector import Detector
from mgm_dali.models.image_weights import from_image_network
from mgm_dali.models.load_report import KeyFate, LoadReport, collapse
from mgm_dali.models.recognise import fitting_backbones, measure
from mgm_dali.models.saving import official_state
from mgm_dali.models.vit import BACKBONES
from mgm_dali.models.weight_files import FoundWeights, read_weights
from mgm_dali.models.written_for import WeightsError

__all__ = ["LoadReport", "load_pretrained", "take_weights"]


def load_pretrained(module: Autoencoder | Classifier, source: str | Path) -> LoadReport:
    """Copies weights into `module` in place.

    Takes a run folder (its newest weights), a .safetensors file, a folder of Hugging Face or timm,
    or a .pth; of an autoencoder or of a classifier, whichever `module` is, or of an image network.
    Raises `WeightsError`, and changes nothing, if the file cannot be read, lacks the trunk, or does
    not fit.
    """
    return take_weights(module, read_weights(Path(source)))


def take_weights(module: Autoencoder | Classifier, found: FoundWeights) -> LoadReport:
    """Copies weights that were read into `module` in place, as `load_pretrained` does."""
    require_biases(found)
    if found.is_of_images:
        found = from_image_network(found, module.config)
    state = official_state(module)
    taken, notes = _choose_parts(module, state, found)
    parts = {_part_of(name) for name in taken}
    notes += compare_networks(
        module.config, found, takes_decoder="decoder" in parts, takes_head="head" in parts
    )
    with torch.no_grad():
        for name in taken:
            state[name].copy_(found.tensors[name])
    fates = _fates(module, state, set(taken), found)
    return LoadReport(found.path, fates, found.notes + notes, found.learned_on_images)


def _choose_parts(
    module: Autoencoder | Classifier, state: dict[str, Tensor], found: FoundWeights
) -> tuple[list[str], list[str]]:
    """What is taken, checked, and notes on parts that are not."""
    taken: list[str] = []
    notes: list[str] = []
    for part in dict.fromkeys(map(_part_of, state)):
        wanted = [name for name in state if _part_of(name) == part]
        present = [n for n in found.tensors if _part_of(n) == part and n not in found.left]
        reason = _why_not_taken(part, module, found)
        if reason:
            notes.append(reason)
        elif present or part == "trunk":
            _check_names(part, wanted, present, module, found)
            _check_tensors({name: state[name] for name in wanted}, module, found)
            taken += wanted
    return taken, notes


def _fates(
    module: Autoencoder | Classifier,
    state: dict[str, Tensor],
    taken: set[str],
    found: FoundWeights,
) -> list[KeyFate]:
    """One line for each parameter of the network, then for what else is in the file."""
    prefix = "encoder." if isinstance(module, Classifier) else ""
    fates = []
    for name, tensor in state.items():
        key, shape = name.removeprefix(prefix), tuple(tensor.shape)
        if name in taken:
            how = found.changed.get(name, "")
            fates.append(KeyFate(key, shape, "taken", found.origins[name], how))
        else:
            fates.append(KeyFate(key, shape, "new"))
    for name, tensor in found.tensors.items():
        if name not in taken:
            why = found.left.get(name, "")
            fates.append(KeyFate(name, tuple(tensor.shape), "not taken", found.origins[name], why))
    return fates + [KeyFate(name, (), "ignored", name, why) for name, why in found.ignored.items()]


def _part_of(name: str) -> str:
    if name.startswith("encoder.norm."):
        return "norm"
    if name == "encoder.time_embed" or ".temporal_fc." in name:
        return "time"
    if name.startswith("encoder."):
        return "trunk"
    if name.startswith(("decoder.", "encoder_to_decoder.")) or name == "mask_token":
        return "decoder"
    if name.startswith(("fc_norm.", "head.")):
        return name.split(".")[0]
    return "other"


def _why_not_taken(part: str, module: Autoencoder | Classifier, found: FoundWeights) -> str | None:
    """The head is left new, and that is said, where the file's one is another."""
    weight = found.tensors.get("head.weight")
    if part != "head" or weight is None or "head.weight" in found.left:
        return None
    if not isinstance(module, Classifier):
        return None
    if found.of_detector != isinstance(module, Detector):
        theirs = "boxes of people" if found.of_detector else "whole clips"
        return f"head reads {theirs} in the file, and not here"
    if weight.ndim == 2 and weight.shape[0] != module.head.out_features:
        return f"head has {weight.shape[0]} classes in the file, {module.head.out_features} here"
    return None


def _check_names(
    part: str,
    wanted: list[str],
    present: list[str],
    module: Autoencoder | Classifier,
    found: FoundWeights,
) -> None:
    lacking = [name for name in wanted if name not in present]
    surplus = [name for name in present if name not in wanted]
    if not present:
        some = collapse(found.origins.values()) or "nothing"
        raise WeightsError(
            f"{found.path}: lacks {wanted[0]} and all of the {part}; it holds {some:.200}. "
            "Expected weights of VideoMAE, of Hugging Face's VideoMAE classes, of a run, or of an "
            "image network of timm"
        )
    if lacking or surplus:
        what = f"lacks {lacking[0]}" if lacking else f"has {surplus[0]}, unknown to this network"
        if lacking and lacking[0] in found.ignored:
            what += f" ({found.ignored[lacking[0]]})"
        raise WeightsError(f"{found.path}: {what}; {_how_to_fit(module, found)}")


def _check_tensors(
    wanted: dict[str, Tensor], module: Autoencoder | Classifier, found: FoundWeights
) -> None:
    for name, ours in wanted.items():
        theirs = found.tensors[name]
        if theirs.shape != ours.shape:
            raise WeightsError(
                f"{found.path}: {name} is {list(theirs.shape)}, this network needs "
                f"{list(ours.shape)}; "
                + (_how_to_stretch(name, theirs, ours) or _how_to_fit(module, found))
            )
        if not torch.isfinite(theirs.float()).all():
            raise WeightsError(
                f"{found.path}: {name} holds numbers that are not finite in float32: the run that "
                "wrote it diverged. Take earlier weights"
            )


def _how_to_stretch(name: str, learned: Tensor, ours: Tensor) -> str:
    """The settings with which a table of positions that were learned on other clips is taken."""
    is_table = name in ("encoder.pos_embed", "encoder.time_embed")
    if not is_table or learned.ndim != 3 or learned.shape[-1] != ours.shape[-1]:
        return ""
    count = learned.shape[1]
    if name == "encoder.time_embed":
        setting = f"model.position_frames={count * TUBELET_FRAMES}"
    else:
        setting = f"model.position_size={math.isqrt(count) * PATCH_PIXELS}"
    return f"it was learned on other clips; set {setting} to stretch it to yours"


def _how_to_fit(module: Autoencoder | Classifier, found: FoundWeights) -> str:
    """Which network the file looks like, and the settings that make one."""
    config = module.config
    width, depth, decoder_depth = measure(found)
    names = fitting_backbones(found)
    looks = f"the file has {depth} blocks of width {width} and {decoder_depth} decoder blocks"
    ours = f"this is {config.name} with decoder_depth {config.decoder_depth}"
    divided = any(".temporal_attn." in name for name in found.tensors)
    attention = "divided" if divided else "joint"
    if config.name in names and attention != config.attention and not found.learned_on_images:
        return f"the file has {attention} attention; set model.attention={attention}"
    if not names:
        return f"{looks}, {ours}; no model.name ({', '.join(BACKBONES)}) fits"
    depths = (0, config.decoder_depth) if isinstance(module, Autoencoder) else (decoder_depth,)
    if names[0] == config.name and decoder_depth in depths:
        return f"{looks}, {ours}, so that it is no whole file of such a network; save it again"
    return f"{looks}, {ours}; set model.name={names[0]}" + (
        f" model.decoder_depth={decoder_depth}" if decoder_depth else ""
    )
