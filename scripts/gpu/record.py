"""The record of a whole run: one JSON file, whole after every section, and tables beside it."""

import json
from pathlib import Path
from typing import Any

from gpu.running import BAD_STATES
from gpu.tables import markdown
from mgm_dali.errors import UserError
from mgm_dali.files import write_whole

__all__ = ["Record"]

FORMAT = 1


class Record:
    """Goes on with the file if there is one: a run may take several calls."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        """`facts` are what two calls must share. Raises `UserError` if the file has others."""
        self.path = path
        self.content: dict[str, Any] = {"format": FORMAT, **facts, "sections": {}}
        if not path.exists():
            return
        try:
            before = json.loads(path.read_bytes())
            found = {name: before[name] for name in ("format", *facts)}
            sections = dict(before["sections"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: is no record of this script; name another file") from None
        other = [name for name, value in found.items() if value != self.content[name]]
        if other:
            name = other[0]
            raise UserError(
                f"{path}: its {name} is {found[name]}, here it is {self.content[name]}; name "
                "another file with --output"
            )
        self.content["sections"] = sections

    def state(self, name: str) -> str:
        """Of a section; `not run` if it was never begun."""
        state: str = self.content["sections"].get(name, {}).get("state", "not run")
        return state

    def put(self, name: str, outcome: dict[str, Any]) -> None:
        """Keeps what became of a section, and writes both files."""
        self.content["sections"][name] = outcome
        self.write()

    def write(self) -> None:
        """Both files, each whole or as it was."""
        write_whole(self.path, json.dumps(self.content, indent=1) + "\n")
        write_whole(self.path.with_suffix(".md"), markdown(self.content))

    def failures(self) -> list[str]:
        """Checks that failed, and sections that broke off; a line each."""
        lines = []
        for name, outcome in self.content["sections"].items():
            if outcome["state"] in BAD_STATES:
                lines.append(f"{name}: {outcome['state']}: {outcome['reason']}")
            lines += [
                f"{name}: {check['what']}: {check['found']}"
                for check in outcome.get("checks", [])
                if not check["passed"]
            ]
        return lines
