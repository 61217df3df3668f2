"""Pretrained weights into a network.

A network and a file agree part by part: trunk, norm, decoder, fc_norm, head. A part is taken whole
or not at all, and the report says which; half a part or another shape is an error.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mgm_dali.config import ModelConfig
from mgm_dali.models.autoencoder import Autoencoder
from mgm_dali.models.classifier import Classifier
from mgm_dali.models.saving import official_state
from mgm_dali.models.vit import BACKBONES
from mgm_dali.models.weight_files import (
    CONFIG_NAME,
    FoundWeights,
    WeightsError,
    newest_weights,
    read_model_config,
    read_weights,
)

__all__ = [
    "LoadReport",
    "WeightsError",
    "load_pretrained",
    "load_run_model_config",
    "newest_weights",
]


@dataclass(frozen=True)
class LoadReport:
    """What became of every parameter; `str(report)` is a short summary."""

    source: Path
    """The file that was read."""
    used: list[str]
    """The network's parameters that come from the file."""
    missing: list[str]
    """The network's parameters that the file lacks: they stay as they were, that is, new."""
    unused: list[str]
    """The file's parameters that the network has no place for, by VideoMAE's names."""
    notes: list[str]
    """What is permitted and worth knowing, such as another number of frames."""

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.used)} parameters taken"]
        lines += [f"new: {_shortened(self.missing)}"] if self.missing else []
        lines += [f"not taken: {_shortened(self.unused)}"] if self.unused else []
        return "\n  ".join(lines + self.notes)


def load_pretrained(module: Autoencoder | Classifier, source: str | Path) -> LoadReport:
    """Copies weights into `module` in place.

    Takes a run folder (its newest weights), a .safetensors file, a Hugging Face folder or an
    official .pth; of an autoencoder or of a classifier, whichever `module` is. Raises
    `WeightsError` if the file cannot be read, lacks the trunk, or does not fit.
    """
    found = read_weights(Path(source))
    state = official_state(module)
    taken: list[str] = []
    notes = _compare_networks(module, found)
    for part in dict.fromkeys(map(_part_of, state)):
        wanted = [name for name in state if _part_of(name) == part]
        present = [name for name in found.tensors if _part_of(name) == part]
        reason = _why_not_taken(part, module, found)
        if reason:
            notes.append(reason)
        elif present or part == "trunk":
            _check_names(part, wanted, present, module, found)
            _check_tensors({name: state[name] for name in wanted}, module, found)
            taken += wanted
    with torch.no_grad():
        for name in taken:
            state[name].copy_(found.tensors[name])
    prefix = "encoder." if isinstance(module, Classifier) else ""
    return LoadReport(
        found.path,
        used=[name.removeprefix(prefix) for name in state if name in taken],
        missing=[name.removeprefix(prefix) for name in state if name not in taken],
        unused=[name for name in found.tensors if name not in taken],
        notes=notes,
    )


def load_run_model_config(run_folder: str | Path) -> ModelConfig:
    """The configuration of the network whose weights a run folder holds; raises `WeightsError`."""
    return read_model_config(Path(run_folder) / "weights" / CONFIG_NAME)


def _part_of(name: str) -> str:
    if name.startswith("encoder.norm."):
        return "norm"
    if name.startswith("encoder."):
        return "trunk"
    if name.startswith(("decoder.", "encoder_to_decoder.")) or name == "mask_token":
        return "decoder"
    if name.startswith(("fc_norm.", "head.")):
        return name.split(".")[0]
    return "other"


def _compare_networks(module: Autoencoder | Classifier, found: FoundWeights) -> list[str]:
    """Notes on, or a `WeightsError` for, what config.json says and no shape would betray."""
    written, size = found.written_for, BACKBONES[module.config.name]
    if written is None:
        return []
    heads = [("num_attention_heads", written.num_heads, size.num_heads)]
    has_decoder = any(_part_of(name) == "decoder" for name in found.tensors)
    takes_decoder = has_decoder and isinstance(module, Autoencoder)
    if takes_decoder:
        heads.append(("decoder_num_attention_heads", written.decoder_heads, size.decoder_heads))
    for key, theirs, ours in heads:
        if theirs != ours:
            raise WeightsError(
                f"{written.path}: {key} is {theirs}, {module.config.name} has {ours}: no shape "
                "differs, but attention would. Choose a model.name with as many; if the file is "
                f"wrong (converted small models say 16 and have 6), correct {key} in it"
            )
    if written.activation != "gelu":
        raise WeightsError(f"{written.path}: hidden_act is {written.activation!r}; ours is 'gelu'")
    notes = []
    grid = (module.config.num_frames, module.config.image_size)
    if (written.num_frames, written.image_size) != grid:
        notes.append(
            f"learned on {written.num_frames} frames of {written.image_size} pixels, used on "
            f"{grid[0]} of {grid[1]}: positions mean other places and must be learned again"
        )
    if takes_decoder and not written.normalised_target:
        notes.append("the decoder learned plain pixels (norm_pix_loss false), ours are normalised")
    return notes


def _why_not_taken(part: str, module: Autoencoder | Classifier, found: FoundWeights) -> str | None:
    """The classifier's head is left new, and that is said, where the file's one is another."""
    weight = found.tensors.get("head.weight")
    if part != "head" or weight is None or not isinstance(module, Classifier):
        return None
    if weight.ndim == 2 and weight.shape[0] != module.head.out_features:
        return f"head has {weight.shape[0]} classes in the file, {module.head.out_features} here"
    if not any(_part_of(name) == "fc_norm" for name in found.tensors):
        return "head reads one token in the file (it has no fc_norm), the mean of all here"
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
        some = _shortened(list(found.tensors)) or "nothing"
        raise WeightsError(
            f"{found.path}: lacks {wanted[0]} and all of the {part}; it holds {some}. "
            "Expected weights of VideoMAE, of Hugging Face's VideoMAE classes, or of a run"
        )
    if lacking or surplus:
        what = f"lacks {lacking[0]}" if lacking else f"has {surplus[0]}, unknown to this network"
        raise WeightsError(f"{found.path}: {what}; {_how_to_fit(module, found)}")


def _check_tensors(
    wanted: dict[str, Tensor], module: Autoencoder | Classifier, found: FoundWeights
) -> None:
    for name, ours in wanted.items():
        theirs = found.tensors[name]
        if theirs.shape != ours.shape:
            raise WeightsError(
                f"{found.path}: {name} is {list(theirs.shape)}, this network needs "
                f"{list(ours.shape)}; {_how_to_fit(module, found)}"
            )
        if not torch.isfinite(theirs).all():
            raise WeightsError(
                f"{found.path}: {name} holds numbers that are not finite: the run that wrote it "
                "diverged. Take earlier weights"
            )


def _how_to_fit(module: Autoencoder | Classifier, found: FoundWeights) -> str:
    """Which network the file looks like, and the settings that make one."""
    embedding = found.tensors.get("encoder.patch_embed.proj.bias")
    width = 0 if embedding is None else embedding.shape[0]
    depth = _num_blocks("encoder", found)
    decoder_depth = _num_blocks("decoder", found)
    names = [n for n, size in BACKBONES.items() if (size.width, size.depth) == (width, depth)]
    config = module.config
    looks = f"the file has {depth} blocks of width {width} and {decoder_depth} decoder blocks"
    ours = f"this is {config.name} with decoder_depth {config.decoder_depth}"
    if not names:
        return f"{looks}, {ours}; no model.name ({', '.join(BACKBONES)}) fits"
    return f"{looks}, {ours}; set model.name={names[0]}" + (
        f" model.decoder_depth={decoder_depth}" if decoder_depth else ""
    )


def _num_blocks(side: str, found: FoundWeights) -> int:
    prefix = f"{side}.blocks."
    return len({n.split(".")[2] for n in found.tensors if n.startswith(prefix)})


def _shortened(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
