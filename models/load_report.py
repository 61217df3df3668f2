"""What became of every parameter of a network, and of every entry of the file that it was given."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mgm_dali.files import csv_text

__all__ = ["KeyFate", "LoadReport", "collapse"]


@dataclass(frozen=True)
class KeyFate:
    """One parameter of the network, or one entry of the file that the network has no place for."""

    key: str
    shape: tuple[int, ...]
    fate: Literal["taken", "new", "not taken", "ignored"]
    """`taken` and `new` are the network's, the other two the file's; `ignored` has no effect."""
    origin: str = ""
    """The names in the file, as they stand there; empty for what is new."""
    how: str = ""
    """Why it is not taken, or how it was changed on the way; empty where there is nothing."""


@dataclass(frozen=True)
class LoadReport:
    """What became of every parameter; `str(report)` is a short summary, `as_csv` the whole."""

    source: Path
    """The file that was read."""
    fates: list[KeyFate]
    """Every parameter of the network and every entry of the file, once."""
    notes: list[str]
    """What is permitted and worth knowing, such as positions of other clips."""
    of_images: bool = False
    """Whether the weights were learned on images and know of no clip's positions."""

    @property
    def used(self) -> list[str]:
        """The network's parameters that come from the file."""
        return self._keys("taken")

    @property
    def missing(self) -> list[str]:
        """The network's parameters that the file lacks: they stay as they were, that is, new."""
        return self._keys("new")

    @property
    def unused(self) -> list[str]:
        """The file's parameters that the network does not take, by VideoMAE's names."""
        return self._keys("not taken")

    @property
    def changed(self) -> dict[str, str]:
        """What was done to those of `used` that are not as they stand in the file."""
        return {each.key: each.how for each in self.fates if each.fate == "taken" and each.how}

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.used)} parameters taken"]
        network = self.used + self.missing
        for title, keys in (("taken", self.used), ("new", self.missing)):
            lines += [f"{title}: {collapse(keys, network)}"] if keys else []
        in_file = [*self.unused, *self.used, *(f"encoder.{key}" for key in self.used)]
        for title in ("not taken", "ignored"):
            reasons = [(each.key, each.how) for each in self.fates if each.fate == title]
            lines += [f"{title}: {_by_reason(reasons, in_file)}"] if reasons else []
        lines += [f"changed: {_by_reason(self.changed.items(), network)}"] if self.changed else []
        return "\n  ".join(lines + self.notes)

    def as_csv(self) -> str:
        """A line for each parameter: key, shape, fate, from (the names in the file)."""
        rows = []
        for each in self.fates:
            shape = "x".join(map(str, each.shape))
            fate = f"{each.fate}: {each.how}" if each.how else each.fate
            rows.append((each.key, shape, fate, each.origin))
        return csv_text(("key", "shape", "fate", "from"), rows)

    def _keys(self, fate: str) -> list[str]:
        return [each.key for each in self.fates if each.fate == fate]


def collapse(keys: Iterable[str], universe: Iterable[str] | None = None) -> str:
    """Names of parameters, shortened: `patch_embed (2), blocks.0-11 (156), mask_token`.

    A prefix stands for all of `universe` (default: of the keys) that begin with it, and only where
    all of them are among the keys.
    """
    keys = list(keys)
    mine = _count_prefixes(keys)
    whole = mine if universe is None else _count_prefixes(universe)
    shown: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        prefixes = _prefixes(key)
        short = next((prefix for prefix in prefixes if mine[prefix] == whole[prefix]), prefixes[-1])
        if mine[short] == mine[f"{short}.#"]:
            short += ".#"  # blocks.0-11 says more than blocks
        shown[prefixes[-1] if mine[short] == 1 else short].append(key)
    return ", ".join(_spell(short, members) for short, members in shown.items())


def _count_prefixes(keys: Iterable[str]) -> Counter[str]:
    return Counter(prefix for key in keys for prefix in _prefixes(key))


def _prefixes(key: str) -> list[str]:
    """`blocks`, `blocks.#`, `blocks.#.norm1`, `blocks.#.norm1.bias`: any block's number is #."""
    parts = ["#" if part.isdigit() else part for part in key.split(".")]
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _spell(short: str, members: list[str]) -> str:
    """One prefix with the numbers of its blocks and how many names it stands for."""
    if "#" in short:
        place = short.split(".").index("#")
        numbers = sorted({int(member.split(".")[place]) for member in members})
        short = short.replace("#", _ranges(numbers), 1)
    return f"{short} ({len(members)})" if len(members) > 1 else short


def _ranges(numbers: list[int]) -> str:
    """Rising numbers as `0-3,5`."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in groups)


def _by_reason(keys: Iterable[tuple[str, str]], universe: Iterable[str]) -> str:
    """Names with the same reason together: `head (2): why; decoder (60)`."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for key, reason in keys:
        by_reason[reason].append(key)
    return "; ".join(
        collapse(group, universe) + (f": {reason}" if reason else "")
        for reason, group in by_reason.items()
    )
