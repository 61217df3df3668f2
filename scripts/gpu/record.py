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

    def path_of(self, name: str) -> Path:
        """Where a section writes what it finds as long as it runs."""
        return self.path.absolute().with_name(f"{self.path.stem}.{name}.json")

    def put(self, name: str, outcome: dict[str, Any]) -> None:
        """Keeps what became of a section, and writes both files.

        If an earlier call found more, that stays, with a note on this one.
        """
        before = self.content["sections"].get(name, {"state": "not run"})
        if _worth(before) > _worth(outcome):
            failed = [check["what"] for check in outcome.get("checks", ()) if not check["passed"]]
            said = f"another call: {outcome['state']} {outcome['reason']}".strip()
            said += f"; failed there: {', '.join(failed)}" if failed else ""
            outcome = {**before, "notes": [*before["notes"], said]}
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


def _worth(outcome: dict[str, Any]) -> tuple[bool, int]:
    """What came to its end is worth more, then what has more checks and figures."""
    rows = sum(map(len, outcome.get("figures", {}).values()))
    return outcome["state"] == "done", len(outcome.get("checks", [])) + rows
