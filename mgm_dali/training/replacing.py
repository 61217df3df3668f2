"""What an evaluation puts in the place of another: that is said, and never done for nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mgm_dali.in_words import printable

__all__ = ["nothing_judged", "replaced_judgement"]


def replaced_judgement(run: Path, now: Mapping[str, object]) -> str | None:
    """In words which judgement RUN/evaluation.json holds, if it is another than `now`'s.

    `now` are the entries that make two judgements differ; `data` is one of them.
    """
    try:
        before = json.loads((run / "evaluation.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(before, dict) or all(before.get(name) == now[name] for name in now):
        return None
    others = (name for name in now if name != "data")
    how = ", ".join(f"{name.replace('_', ' ')} {before.get(name) or 'none'}" for name in others)
    return printable(
        f"replaces   the judgement of {before.get('data')} ({how}) in {run}; to keep both, give "
        f"output_dir=NEW model.init={run}"
    )


def nothing_judged(data: Path | None, what: str, unreadable: Sequence[Mapping[str, str]]) -> str:
    """Of a set none of whose videos or moments, `what`, could be judged: the first, and why."""
    first = unreadable[0]
    where = first["path"] if "path" in first else f"second {first['second']} of {first['video']}"
    return printable(
        f"{data}: none of its {len(unreadable)} {what} could be judged; the first is {where}: "
        f"{first['reason']}"
    )
