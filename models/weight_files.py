"""Reading weights from anywhere into one form: VideoMAE's pretraining names, on the CPU, as data.

`encoder.patch_embed`, `encoder.blocks.i`, `encoder.norm`, `encoder_to_decoder`, `mask_token`,
`decoder.*`, and of a finetuned network `fc_norm` and `head`. Nothing a file holds is executed.
"""

import argparse
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mgm_dali.models.huggingface import (
    KEY_BIAS,
    from_huggingface,
    huggingface_origins,
    is_huggingface,
)
from mgm_dali.models.written_for import (
    WeightsError,
    WrittenFor,
    escaped,
    read_arguments,
    read_description,
)

__all__ = [
    "CONFIG_NAME",
    "LEARNED_ON",
    "FoundWeights",
    "newest_weights",
    "read_weights",
]

CONFIG_NAME = "config.json"
LEARNED_ON = "learned_on"
"""Key of a .safetensors' metadata that says `images` where no clip's positions were learned."""
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
_CONTAINERS = ("model", "module", "state_dict")
_WRAPPERS = re.compile(r"^((module|_orig_mod|backbone)\.)+")
"""What DistributedDataParallel, torch.compile and detection frameworks put before a name."""
_ONE_TOKEN = "reads one token in the file (it has no fc_norm), the mean of all here"
_PLAIN_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TRUNK = ("patch_embed.", "blocks.", "norm.", "pos_embed", "time_embed")


@dataclass(frozen=True)
class FoundWeights:
    """One file's tensors by VideoMAE's pretraining names, and what is known about them."""

    path: Path
    tensors: dict[str, Tensor]
    origins: dict[str, str]
    """The names in the file that each tensor was made of."""
    ignored: dict[str, str]
    """Entries of the file that no network reads, by their names there, and why."""
    written_for: WrittenFor | None
    learned_on_images: bool = False
    """Whether they know of no clip's positions."""
    of_detector: bool = False
    """Whether the head reads boxes of people, not whole clips."""
    changed: dict[str, str] = field(default_factory=dict)
    """What was done to those tensors that are not as they stand in the file."""
    left: dict[str, str] = field(default_factory=dict)
    """Tensors that are never taken, and why."""
    notes: list[str] = field(default_factory=list)

    @property
    def is_of_images(self) -> bool:
        """Whether these are an image network's, whose patch embedding is `[D, 3, p, p]`."""
        embedding = self.tensors.get("encoder.patch_embed.proj.weight")
        return embedding is not None and embedding.ndim == 4


@dataclass(frozen=True)
class _Content:
    """What one file holds, as it stands there."""

    tensors: dict[str, Tensor]
    others: dict[str, str]
    """Entries that are no tensors of the network, and what they are."""
    written_for: WrittenFor | None = None
    learned_on_images: bool = False
    of_detector: bool = False


def read_weights(source: Path) -> FoundWeights:
    """Reads a run folder (`newest_weights`), a folder of Hugging Face or timm, or a file.

    Raises `WeightsError` if there is nothing, or nothing that can be read as plain tensors.
    """
    path = newest_weights(source)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    described = path.with_name(CONFIG_NAME)
    written_for = content.written_for
    # Official .pth files come alone: a config.json that lies beside one is of something else.
    if path.suffix in (".safetensors", ".bin") and described.is_file():
        written_for = read_description(described)
    plain = {name: tensor for name, tensor in content.tensors.items() if _is_plain(tensor)}
    bare = _unwrapped(plain, path)
    origins = {name: [name] for name in bare}
    tensors = {name: plain[key] for name, key in bare.items()}
    if is_huggingface(tensors):
        try:
            origins, tensors = huggingface_origins(tensors), from_huggingface(tensors)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
    used = {bare[name] for parts in origins.values() for name in parts}
    unused = {
        key: KEY_BIAS if key.endswith(".key.bias") else "unknown here"
        for key in plain
        if key not in used
    }
    unread = dict.fromkeys(content.tensors.keys() - plain.keys(), "no plain floating-point tensor")
    found = FoundWeights(
        path,
        {_official(name): tensor for name, tensor in tensors.items()},
        {_official(name): " + ".join(bare[part] for part in origins[name]) for name in tensors},
        unused | unread | content.others,
        written_for,
        content.learned_on_images,
        content.of_detector,
    )
    if not found.is_of_images and "fc_norm.weight" not in found.tensors:
        found.left.update({n: _ONE_TOKEN for n in found.tensors if n.startswith("head.")})
    return found


def newest_weights(source: Path) -> Path:
    """The file itself, a run folder's newest weights, or the only ones of another folder.

    Where a run keeps a moving average, the newest weights are that one: it is what the run itself
    is judged by. To take those beside it, name their file.

    Raises `WeightsError` if there is none.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise WeightsError(f"{source}: no such file or folder; check the path of the weights")
    for folder in (source / "weights", source):
        found = [
            (int(match[1]), match[2] is not None, path)
            for path in folder.glob("step-*.safetensors")
            if (match := re.fullmatch(r"step-(\d+)(-ema)?\.safetensors", path.name))
            and path.is_file()
        ]
        if found:
            return max(found)[-1]
    for name in _FOLDER_FILES:
        if (source / name).is_file():
            return source / name
        if (source / f"{name}.index.json").is_file():
            raise WeightsError(
                f"{source}: holds weights in several files, and only whole ones are read; save "
                "them in one: save_pretrained(folder, max_shard_size='50GB')"
            )
    if shards := sorted(source.glob("mp_rank_*_model_states.pt")):
        raise WeightsError(f"{source}: holds DeepSpeed's files; name the one to read: {shards[0]}")
    raise WeightsError(
        f"{source}: holds no weights; expected weights/step-N.safetensors (a run folder) or "
        f"{' or '.join(_FOLDER_FILES)} (a folder of Hugging Face or timm)"
    )


def _read_safetensors(path: Path) -> _Content:
    try:
        with safe_open(path, "pt") as file:
            tensors = {escaped(name): file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        reason = escaped(str(error))
        raise WeightsError(f"{path}: cannot be read: {reason}; copy or save it again") from None
    learned_on_images = metadata.get(LEARNED_ON) == "images"
    of_detector = metadata.get("network") == "detector"
    return _Content(tensors, {}, learned_on_images=learned_on_images, of_detector=of_detector)


def _read_pickle(path: Path) -> _Content:
    """A .pth file by torch's restricted unpickler, which builds plain data and runs nothing.

    Official checkpoints also hold their command line, an `argparse.Namespace`: a bag of values
    without behaviour, so that one class more is let through.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        found = (
            f"it asks for {escaped(culprit[1])}" if culprit else "it is not a checkpoint of torch"
        )
        raise WeightsError(
            f"{path}: refused, for {found}, and only plain tensors are read; nothing of it was "
            "executed. Save the state dict alone: torch.save(model.state_dict(), ...)"
        ) from None
    except Exception as error:  # broken bytes make the unpickler fail in every way there is
        reason = escaped((str(error).splitlines() or [type(error).__name__])[0])
        raise WeightsError(f"{path}: cannot be read: {reason}; copy or save it again") from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected named tensors, found a {type(content).__name__}")
    container = next((n for n in _CONTAINERS if isinstance(content.get(n), Mapping)), None)
    entries: Mapping[Any, Any] = content if container is None else content[container]
    arguments = content.get("args")
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    named = [(escaped(str(name)), value) for name, value in entries.items()]
    others = {name: "no tensor" for name, value in named if not isinstance(value, Tensor)}
    if container is not None:
        others |= {escaped(str(n)): "not the weights" for n in content if n != container}
    return _Content(
        {name: value for name, value in named if isinstance(value, Tensor)},
        others,
        read_arguments(arguments, path) if isinstance(arguments, Mapping) else None,
    )


def _unwrapped(names: Iterable[str], path: Path) -> dict[str, str]:
    """The name in the file of each tensor by its name without wrappers."""
    bare: dict[str, str] = {}
    for key in names:
        name = _WRAPPERS.sub("", key)
        if name in bare:
            raise WeightsError(f"{path}: {bare[name]} and {key} are the same parameter; keep one")
        bare[name] = key
    return bare


def _is_plain(tensor: Tensor) -> bool:
    """Whether every element is there, as a floating-point number in memory of its own."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.dtype in _PLAIN_TYPES and tensor.numel() <= stored


def _official(name: str) -> str:
    return f"encoder.{name}" if name.startswith(_TRUNK) else name
