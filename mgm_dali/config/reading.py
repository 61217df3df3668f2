"""From YAML and `key=value` overrides to a checked configuration, and back to YAML.

An unknown key, a wrong type or a value out of range is a `UserError` that names the file or the
override it stands in, the key, what was found and the nearest known key.
"""

import difflib
import math
import reprlib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mgm_dali.config.layers import Layer, merge_layers, read_layers, read_override
from mgm_dali.config.schema import RunConfig
from mgm_dali.errors import UserError

__all__ = ["dump_config", "load_config", "override_config"]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file and its bases, applies `a.b=value` overrides (values are YAML), checks all.

    Raises `UserError` naming the file or override, the key, what was found and what is expected.
    """
    return _checked(read_layers(Path(path)), overrides)


def override_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The configuration with `a.b=value` overrides, checked as a file's are.

    Raises `UserError` naming the key, what was found and what is expected.
    """
    return _checked([Layer("KEY=VALUE", config.model_dump(mode="json"))], overrides)


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal value."""
    tree = config.model_dump(mode="json")
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _checked(files: Sequence[Layer], overrides: Sequence[str]) -> RunConfig:
    """`files`: layers of which the last one is what was asked for."""
    layers = [*files, *map(read_override, overrides)]
    try:
        return RunConfig.model_validate(merge_layers(layers))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = _layer_of(problem["loc"], layers) or files[-1].name
            lines.append(f"{where}: {_explain(dict(problem))}")
        raise UserError("\n".join(lines)) from None


def _layer_of(keys: Sequence[int | str], layers: Sequence[Layer]) -> str | None:
    """The name of the layer that a value comes from, or the section that holds it."""
    for depth in range(len(keys), 0, -1):
        for layer in layers[::-1]:
            if _says(layer.values, keys[:depth]):
                return layer.name
    return None


def _says(tree: Any, keys: Sequence[int | str]) -> bool:
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def _explain(problem: Mapping[str, Any]) -> str:
    keys = [str(part) for part in problem["loc"]]
    dotted = ".".join(keys)
    found = problem["input"]
    if keys == ["base"]:  # that of a file has been read already
        return "base: stands in a YAML file; write one with `base: OTHER.yaml` at its top"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        close = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        guess = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key {dotted!r}; {guess}"
    message: str = problem["msg"].removeprefix("Value error, ")
    if not dotted:
        return message
    if isinstance(found, dict):
        return f"{dotted}: {message}"
    hint = ""
    if isinstance(found, str) and _is_number(found):
        hint = f" (YAML reads it as text; write {float(found):.1e} with a dot, as 1.0e-4)"
    elif problem["type"] in ("path_type", "string_type") and isinstance(found, float | int | date):
        kind = type(found).__name__
        hint = f" (YAML reads it as {kind}, not as text; quote it: '{dotted}=\"...\"')"
    return f"{dotted}: {message}, found {_shown(found)}{hint}"


def _shown(value: object) -> str:
    """As `repr`, but short: aliases of YAML make a few lines a value of billions of entries."""
    shorter = reprlib.Repr()
    shorter.maxlevel = 2
    shorter.maxstring = shorter.maxother = 200
    try:
        return shorter.repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _known_keys(parents: Sequence[str]) -> list[str]:
    node: type[BaseModel] = RunConfig
    for parent in parents:
        annotation = node.model_fields[parent].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        node = annotation
    return list(node.model_fields)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
