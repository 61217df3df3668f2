"""What evaluations say: what is judged, which result is replaced, that there is none, and why."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.files import read_whole
from mgm_dali.in_words import printable
from mgm_dali.models import LoadReport
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.video.manifest import Manifest

__all__ = [
    "first_lines",
    "listed_videos",
    "nothing_judged",
    "replaced_judgement",
    "require_any",
]


def first_lines(
    config: RunConfig,
    loader: ClipLoader,
    notes: Sequence[str],
    loaded: LoadReport,
    how: Mapping[str, object],
) -> list[str]:
    """What is judged, where, with which weights; `how` is that of `replaced_judgement`."""
    replaced = replaced_judgement(config.output_dir, how)
    return [
        f"evaluating on {loader.manifest.path}; {loader.placement.reason}",
        *notes,
        f"weights    {loaded}",
        *([replaced] if replaced else []),
    ]


def listed_videos(manifest: Manifest, reasons: Mapping[int, str]) -> list[dict[str, str]]:
    """`path` and `reason` of videos by row."""
    return [{"path": str(manifest[row].path), "reason": why} for row, why in reasons.items()]


def replaced_judgement(run: Path, now: Mapping[str, object]) -> str | None:
    """In words which judgement RUN/evaluation.json holds, if it is another than `now`'s.

    `now` are the entries that make two judgements differ; `data` is one of them.
    """
    try:
        before = json.loads(read_whole(run / "evaluation.json"))
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


def require_any(
    is_any: bool, data: Path | None, what: str, unreadable: Sequence[Mapping[str, str]]
) -> None:
    """Raises `UserError` if nothing of a set could be judged: that is no result."""
    if not is_any:
        raise UserError(
            f"{nothing_judged(data, what, unreadable)}. No result was written; mend that, and give "
            "the same command"
        )
