"""From YAML and `key=value` overrides to a checked configuration, and back to YAML.

An unknown key, a wrong type or a value out of range is a `UserError` that names the key, what was
found and the nearest known key.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mgm_dali.config.schema import RunConfig
from mgm_dali.errors import UserError

__all__ = ["dump_config", "load_config", "override_config"]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file, applies `a.b=value` overrides (values are YAML) and checks everything.

    Raises `UserError` naming the file or override, the key, what was found and what is expected.
    """
    return _checked(_read_yaml(Path(path)), overrides, f"{path}")


def override_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The configuration with `a.b=value` overrides, checked as a file's are.

    Raises `UserError` naming the key, what was found and what is expected.
    """
    return _checked(config.model_dump(mode="json"), overrides, "KEY=VALUE")


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal value."""
    tree = config.model_dump(mode="json")
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _checked(tree: dict[str, Any], overrides: Sequence[str], where: str) -> RunConfig:
    for override in overrides:
        _apply_override(tree, override)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, where)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; see configs/ for ready ones") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of keys at the top, found {tree!r:.60}")
    return tree


def _apply_override(tree: dict[str, Any], override: str) -> None:
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise UserError(f"override {override!r}: expected key=value, such as mask.ratio=0.9")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text  # a path may hold characters that mean something to YAML
    *parents, last = dotted.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise UserError(f"override {override!r}: {parent!r} is a value, not a section")
        node = child
    node[last] = value


def _explain(error: ValidationError, where: str) -> str:
    """All problems of one configuration, one line each."""
    return "\n".join(f"{where}: {_explain_one(dict(problem))}" for problem in error.errors())


def _explain_one(problem: Mapping[str, Any]) -> str:
    keys = [str(part) for part in problem["loc"]]
    dotted = ".".join(keys)
    found = problem["input"]
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
        hint = f" (YAML reads {found} as text; write {float(found):.1e} with a dot, as 1.0e-4)"
    return f"{dotted}: {message}, found {found!r}{hint}"


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
        float(text)
    except ValueError:
        return False
    return True
