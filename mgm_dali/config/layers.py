"""What a configuration is made of: a YAML file, those it is based on, and overrides, in layers.

    base: other.yaml      # or a list of files; each counts from the folder of the file it stands in

Later layers win: sections are merged key by key, everything else is replaced. A file's bases come
before it, in their order, and a file that is reached twice counts once, where it came first.
"""

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mgm_dali.errors import UserError
from mgm_dali.files import require_file

__all__ = ["MOST_FILES_DEEP", "Layer", "merge_layers", "read_layers", "read_override"]

MOST_FILES_DEEP = 8
"""How many files may be based on each other in a row: more are a mistake, or not to be read."""


class Layer(NamedTuple):
    """What one file or one override says."""

    name: str
    """For messages: the file's path, or the override itself."""
    values: dict[str, Any]


def read_layers(path: Path) -> list[Layer]:
    """The layers of a YAML file's bases, and last its own, without `base`.

    Raises `UserError` naming the file that cannot be read, whose base is none, or which is based on
    itself.
    """
    layers: dict[Path, Layer] = {}
    _add_file(path, (), layers)
    return list(layers.values())


def read_override(text: str) -> Layer:
    """The layer of `a.b=value`, the value being YAML. Raises `UserError` if there is no `=`."""
    name = f"override {text!r}"
    dotted, separator, value = text.partition("=")
    if not separator or not dotted:
        raise UserError(f"{name}: expected key=value, such as mask.ratio=0.9")
    try:
        values = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):  # of a month 13, for one, YAML says ValueError
        values = value  # a path may hold characters that mean something to YAML
    for key in reversed(dotted.split(".")):
        values = {key: values}
    return Layer(name, values)


def merge_layers(layers: Iterable[Layer]) -> dict[str, Any]:
    """One tree of what all layers say; none of theirs is changed."""
    tree: dict[str, Any] = {}
    for layer in layers:
        try:
            tree = _merge(tree, layer.values)
        except RecursionError:  # an alias of YAML can hold itself
            raise UserError(f"{layer.name}: sections are nested without an end") from None
    return tree


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            value = _merge(known, value)
        merged[key] = value
    return merged


def _add_file(path: Path, asked_by: tuple[Path, ...], layers: dict[Path, Layer]) -> None:
    """Adds the layers of the file's bases, then its own; `asked_by`: the files based on it."""
    row = (*asked_by, path)
    if len(row) > MOST_FILES_DEEP:
        raise UserError(
            f"{row[0]}: base: more than {MOST_FILES_DEEP} files in a row are based on each other, "
            f"down to {path}; put them into fewer"
        )
    values = _read_yaml(path)
    for base in _bases_of(path, values.pop("base", ())):
        if base.resolve() in (file.resolve() for file in row):
            raise UserError(
                f"{path}: base: {base} is this file, or based on it: "
                f"{' -> '.join(map(str, (*row, base)))}; leave one of them out"
            )
        if base.resolve() not in layers:
            _add_file(base, row, layers)
    layers[path.resolve()] = Layer(f"{path}", values)


def _bases_of(path: Path, named: Any) -> list[Path]:
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path}: base: expected the path of a YAML file, or a list of them, "
            f"found {reprlib.repr(named)}"
        )
    bases = [path.parent / name for name in names]
    for base in bases:
        if problem := _why_no_file(base):
            raise UserError(
                f"{path}: base: {base} {problem}; paths count from the folder of {path}"
            )
    return bases


def _why_no_file(path: Path) -> str | None:
    """A folder cannot be read, and a device or a pipe might never end."""
    try:
        if path.is_file():
            return None
        return "is no file" if path.exists() else "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


class _OnceLoader(yaml.SafeLoader):
    """Plain data, as `yaml.safe_load`, which takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        require_file(path)
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; see configs/ for ready ones") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # of a month 13, for one, YAML says ValueError
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: is not valid YAML: nested too deeply") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        found = reprlib.repr(tree)
        raise UserError(f"{path}: expected a mapping of keys at the top, found {found}")
    return tree
