"""Features on disk: a folder for each thing they depend on, filled shard by shard.

    RUN/features/train-3f9a1c20/key.json             all that the numbers depend on
    RUN/features/train-3f9a1c20/00000.safetensors    the features of some videos, one behind another

A shard appears whole or not at all, so whoever is killed loses one at the most. A checksum in it
tells later whether it is still what was written. It is read through a memory map: what is not
looked at takes no memory.

Letters: N videos, V views of each, D width, S tokens of a view that are kept (0: none).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mgm_dali.errors import UserError
from mgm_dali.files import whole_file, write_whole

__all__ = [
    "FeatureSpec",
    "FeatureTable",
    "Shard",
    "Store",
    "differences",
    "find_store",
    "open_table",
    "write_shard",
]

VIEWS_PER_SHARD = 1024
BYTES_PER_SHARD = 2**28
"""A shard holds whole videos, as many as keep below both; one at the least."""
HELD_BYTES = 2**31
"""Features of one name that are copied into memory to be learned from: the means of 300,000 videos
with two views for ViT-B. Larger ones stay mapped, some ten times slower."""

Shard = dict[str, Tensor]
"""Tensors by the names of `FeatureSpec.layout`."""


@dataclass(frozen=True)
class FeatureSpec:
    """Which features these are, and how many."""

    split: str
    """train or val."""
    key: Mapping[str, Any]
    """All that the numbers depend on, by name; plain values."""
    num_rows: int
    num_views: int
    width: int
    num_tokens: int

    @property
    def name(self) -> str:
        """Of the folder."""
        return f"{self.split}-{self.digest}"

    @property
    def digest(self) -> str:
        text = json.dumps(self.key, sort_keys=True)
        return blake2b(text.encode(errors="surrogateescape"), digest_size=4).hexdigest()

    @property
    def layout(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape of one view and dtype, by name: `mean [D]`, `tokens [S, D]`, `state []`."""
        named = {
            "mean": ((self.width,), torch.float32),
            "state": ((), torch.uint8),  # 2 where the view was read, 1 where it could not be
        }
        tokens = {"tokens": ((self.num_tokens, self.width), torch.float16)}
        return named | tokens if self.num_tokens else named

    @property
    def bytes_per_view(self) -> int:
        return self.width * (4 + 2 * self.num_tokens) + 1

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.num_views * self.bytes_per_view

    @property
    def rows_per_shard(self) -> int:
        views = min(VIEWS_PER_SHARD, BYTES_PER_SHARD // self.bytes_per_view)
        return max(views // self.num_views, 1)

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.rows_per_shard)

    def rows_of(self, shard: int) -> range:
        """The manifest rows that a shard holds."""
        first = shard * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, self.num_rows))


@dataclass(frozen=True)
class Store:
    """Where features are kept, and which of them are not there."""

    folder: Path
    """It need not exist yet."""
    spec: FeatureSpec
    """Of what is in it."""
    missing: list[tuple[int, str]]
    """Shards to be made, and of each why; empty where it is not there."""


class FeatureTable:
    """All features of a split, mapped into memory."""

    def __init__(self, spec: FeatureSpec, shards: list[Shard], reasons: Mapping[int, str]) -> None:
        self.spec = spec
        self.reasons = reasons
        """Why not all views of a video could be read, by row."""
        self._tensors = {name: [shard[name] for shard in shards] for name in spec.layout}
        """Of each name consecutive stretches of `[rows, V, ...]`; all but the last are as long."""
        self.is_read: NDArray[np.bool_] = torch.cat(self._tensors["state"]).numpy() == 2
        """`[N, V]`, False where the view could not be read; its features are zeros."""

    def __len__(self) -> int:
        return self.spec.num_rows

    @property
    def readable_rows(self) -> NDArray[np.int64]:
        """The videos of which a view could be read."""
        return np.flatnonzero(self.is_read.any(axis=1))

    def hold(self) -> None:
        """Copies into memory what is small enough: there rows in any order are taken fast."""
        for name, stretches in self._tensors.items():
            if sum(stretch.nbytes for stretch in stretches) <= HELD_BYTES:
                self._tensors[name] = [torch.cat(stretches)]

    def take(
        self, name: str, rows: NDArray[np.int64], views: NDArray[np.int64] | None = None
    ) -> Tensor:
        """`mean` or `tokens` of `[n]` videos and `[n, v]` views (None: all), `[n, v, ...]`."""
        num_views = self.spec.num_views
        if views is None:
            views = np.broadcast_to(np.arange(num_views), (len(rows), num_views))
        stretches = self._tensors[name]
        shape, dtype = self.spec.layout[name]
        taken = torch.empty((*views.shape, *shape), dtype=dtype)
        numbers, places = np.divmod(rows, len(stretches[0]))
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            of_stretch = torch.from_numpy(places[here])[:, None]
            taken[here] = stretches[number][of_stretch, torch.from_numpy(views[here])]
        return taken

    def draw_views(self, rows: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """One readable view of each of `[n]` videos, `[n, 1]`, by `[n]` draws from [0, 1)."""
        is_read = self.is_read[rows]
        readable_first = np.argsort(~is_read, axis=1, kind="stable")
        chosen = (draws * is_read.sum(axis=1)).astype(np.int64)
        return np.take_along_axis(readable_first, chosen[:, None], axis=1)


def find_store(root: Path, spec: FeatureSpec, goes_on: Callable[[], None]) -> Store:
    """The folder of these features, and what is in it: with tokens too, where such are complete.

    Reads all that is there, against its checksums; `goes_on` is called behind every shard. What a
    killed process left half is removed.
    """
    own = root / spec.name
    if not spec.num_tokens and not own.exists():
        for folder, key in _stores(root, spec.split):
            tokens = key.get("tokens")
            if isinstance(tokens, int) and {**key, "tokens": 0} == spec.key:
                fuller = replace(spec, key=key, num_tokens=tokens)
                if not _missing_shards(folder, fuller, goes_on):
                    return Store(folder, fuller, [])
    for partial in own.glob(".*.partial"):
        partial.unlink(missing_ok=True)
    return Store(own, spec, _missing_shards(own, spec, goes_on))


def differences(root: Path, spec: FeatureSpec) -> str:
    """In words why none of the features that are there is what is asked for."""
    nearest: tuple[int, str] | None = None
    for folder, key in _stores(root, spec.split):
        names = sorted(n for n in spec.key.keys() | key.keys() if spec.key.get(n) != key.get(n))
        if not spec.num_tokens and len(names) > 1:  # more tokens than needed are no reason
            names = [name for name in names if name != "tokens"]
        what = "; ".join(f"{n}: {key.get(n)} -> {spec.key.get(n)}" for n in names)
        if names and (nearest is None or len(names) < nearest[0]):
            nearest = len(names), f"{folder.name} was made with another {what}"
    return nearest[1] if nearest else "none were there"


def write_shard(
    folder: Path, spec: FeatureSpec, number: int, tensors: Shard, reasons: Mapping[int, str]
) -> None:
    """Writes one shard, `[rows, V, ...]` on the CPU, whole or not at all. Raises `UserError`.

    `reasons` say by row why not all views of a video could be read.
    """
    path = _path(folder, number)
    try:
        if not (folder / "key.json").exists():
            write_whole(folder / "key.json", json.dumps(spec.key, indent=1))
        with whole_file(path, synced=True) as partial:
            # Not `save_file`: what that makes only its owner can read.
            partial.write_bytes(
                save(tensors, _metadata(spec, number, tensors, json.dumps(reasons)))
            )
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path}: cannot be written ({reason}); make room, and the same command goes on behind "
            "the shards that are there"
        ) from None


def open_table(folder: Path, spec: FeatureSpec) -> FeatureTable:
    """The features of a complete folder. Raises `UserError` if a shard is not as it was."""
    shards: list[Shard] = []
    reasons: dict[int, str] = {}
    for number in range(spec.num_shards):
        try:
            with safe_open(_path(folder, number), "pt") as file:
                shards.append({name: file.get_tensor(name) for name in spec.layout})
                unreadable = json.loads(file.metadata()["unreadable"])
                reasons |= {int(row): reason for row, reason in unreadable.items()}
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{_path(folder, number)}: cannot be read ({error}); the same command makes it anew"
            ) from None
    return FeatureTable(spec, shards, reasons)


def _missing_shards(
    folder: Path, spec: FeatureSpec, goes_on: Callable[[], None]
) -> list[tuple[int, str]]:
    missing = []
    for number in range(spec.num_shards):
        why = _why_damaged(folder, spec, number)
        if why is not None:
            missing.append((number, why))
        goes_on()
    return missing


def _why_damaged(folder: Path, spec: FeatureSpec, number: int) -> str | None:
    """Why a shard must be made: "" if it is not there, a reason if it is damaged, None if whole."""
    path = _path(folder, number)
    if not path.exists():
        return ""
    leading = [len(spec.rows_of(number)), spec.num_views]
    try:
        with safe_open(path, "pt") as file:
            for name, (shape, _) in spec.layout.items():
                if file.get_slice(name).get_shape() != [*leading, *shape]:
                    return f"{path}: {name} has another shape"
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in spec.layout}
        whole = _metadata(spec, number, tensors, said.get("unreadable", ""))
        if any(said.get(name) != whole[name] for name in ("key", "shard")):
            return f"{path}: is another shard, or of other features"
        if said != whole:
            return f"{path}: is not what was written"
    except (OSError, SafetensorError) as error:
        return f"{path}: {error}"
    return None


def _stores(root: Path, split: str) -> list[tuple[Path, dict[str, Any]]]:
    """All folders of a split with their keys; one whose key cannot be read is none."""
    found = []
    for path in sorted(root.glob(f"{split}-*/key.json")):
        try:
            key = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(key, dict):
            found.append((path.parent, key))
    return found


def _metadata(spec: FeatureSpec, number: int, tensors: Shard, unreadable: str) -> dict[str, str]:
    """What a shard says of itself; `unreadable` is JSON: the reason, by row."""
    digest = blake2b(unreadable.encode(), digest_size=16)
    for name in spec.layout:
        digest.update(f"{name} {tensors[name].dtype}".encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "key": spec.digest,
        "shard": str(number),
        "unreadable": unreadable,
        "checksum": digest.hexdigest(),
    }


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"
