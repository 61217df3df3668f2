"""The recipes in configs/, and what their heads say."""

import re
import shlex
from functools import cache
from pathlib import Path

from mgm_dali.config import RunConfig, load_config

__all__ = [
    "DETECTING",
    "FIELDS",
    "FINETUNING",
    "PRETRAINING",
    "PROBE_FIELDS",
    "PROBING",
    "RECIPES",
    "ROOT",
    "command_of",
    "config_of",
    "data_of",
    "head_of",
    "overrides_of",
]

ROOT = Path(__file__).parents[1]
FOLDERS = ("pretrain", "finetune", "presets", "ablation")
RECIPES = {
    f"{folder}/{path.stem}": path
    for folder in FOLDERS
    for path in sorted((ROOT / "configs" / folder).glob("*.yaml"))
}
PRETRAINING = [name for name in RECIPES if not name.startswith("finetune/")]
FINETUNING = [name for name in RECIPES if name.startswith("finetune/")]
DETECTING = ["finetune/ava_vitb"]
PROBING = {
    f"probe/{path.stem}": path
    for path in sorted((ROOT / "configs" / "probe").glob("*.yaml"))
    if path.stem != "smoke"
}
"""No trainings, and on no page; their heads are held to the same."""
FIELDS = ("Run", "Data", "Hardware", "Batch", "Cost", "Expected", "Status")
PROBE_FIELDS = ("Run", "Data", "Hardware", "Disk", "Cost", "Expected", "Status")
_PATHS = RECIPES | PROBING


@cache
def config_of(name: str) -> RunConfig:
    """The recipe as it stands, without overrides."""
    return load_config(_PATHS[name])


@cache
def head_of(name: str) -> dict[str, str]:
    """The fields of a recipe's head, each in one line; around them stand "Title" and "Notes"."""
    lines = _PATHS[name].read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines), name
    fields, field = {"Title": ""}, "Title"
    for line in (line[1:] for line in lines):
        start = re.match(r" (\w+): +(.*)", line)
        if start and start[1] in (*FIELDS, *PROBE_FIELDS):
            field, line = start[1], start[2]
        elif not line and field == FIELDS[-1]:
            field = "Notes"
        fields[field] = f"{fields.get(field, '')} {line.strip()}".strip()
    return fields


def command_of(name: str) -> list[str]:
    return shlex.split(head_of(name)["Run"].replace("\\ ", ""))


def overrides_of(name: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in command_of(name) if "=" in word)


def data_of(name: str) -> str:
    """The data set that a recipe learns from, by the name of its manifest or folder."""
    return re.match("(.+?)(-train/videos)?.csv", overrides_of(name)["data.train"])[1]
