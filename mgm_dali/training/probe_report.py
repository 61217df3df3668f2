"""What probes found, as files: RUN/probe.json and RUN/probe.csv."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgm_dali.files import csv_text, write_whole
from mgm_dali.in_words import printable
from mgm_dali.training.evaluation_lines import listed_videos
from mgm_dali.training.feature_store import FeatureTable
from mgm_dali.training.features import Split
from mgm_dali.training.probe_choice import Choice
from mgm_dali.training.verdict import Verdict

__all__ = ["ProbeResult", "setting_in_words", "unreadable_in_words", "write_report"]


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found."""

    kind: str
    choice: Choice
    verdict: Verdict
    """On `data.val`, of the chosen setting trained on all training videos."""

    @property
    def setting(self) -> dict[str, Any]:
        """The chosen one, by name."""
        return asdict(self.choice.settings[self.choice.best])

    @property
    def held_out_top1(self) -> float:
        """Of the chosen setting."""
        return self.choice.held_out_top1[self.choice.best]


def write_report(
    run: Path,
    weights: Path,
    splits: Sequence[Split],
    tables: Sequence[FeatureTable],
    results: Sequence[ProbeResult],
) -> None:
    """Writes probe.json, all that is known, and probe.csv, every setting of every grid."""
    report = {
        "weights": str(weights),
        **{s.name: _facts(s, t) for s, t in zip(splits, tables, strict=True)},
        "probes": [_as_json(result) for result in results],
    }
    write_whole(run / "probe.json", json.dumps(report, indent=1))
    write_whole(run / "probe.csv", _grids(results))


def setting_in_words(setting: dict[str, Any]) -> str:
    """`optimiser lars, learning rate 6.4, weight decay 0`."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in setting.items()
    )


def _unreadable(split: Split, table: FeatureTable) -> list[dict[str, str]]:
    """`path` and `reason` of those of which no view could be read."""
    lost = np.flatnonzero(~table.is_read.any(axis=1))
    return _listed(split, table, lost)


def unreadable_in_words(run: Path, split: Split, table: FeatureTable) -> str | None:
    """How many they are, the first of them, why, and how to try again; None if there are none."""
    lost = _unreadable(split, table)
    if not lost:
        return None
    return (
        f"{len(lost)} of {len(table)} videos of {split.name} cannot be read, the first is "
        f"{printable(lost[0]['path'])}: {printable(lost[0]['reason'])}; to try them again, remove "
        f"{run / 'features' / table.spec.name}"
    )


def _listed(split: Split, table: FeatureTable, rows: NDArray[np.int64]) -> list[dict[str, str]]:
    return listed_videos(split.manifest, {row: table.reasons[row] for row in rows.tolist()})


def _facts(split: Split, table: FeatureTable) -> dict[str, Any]:
    partly = table.is_read.any(axis=1) & ~table.is_read.all(axis=1)
    return {
        "manifest": str(split.manifest.path),
        "videos": len(table),
        "views_per_video": table.spec.num_views,
        "features": table.spec.name,
        "unreadable": _unreadable(split, table),
        "incomplete": _listed(split, table, np.flatnonzero(partly)),
    }


def _as_json(result: ProbeResult) -> dict[str, Any]:
    pairs = zip(result.choice.settings, result.choice.held_out_top1, strict=True)
    return {
        "kind": result.kind,
        "setting": result.setting,
        "held_out_top1": result.held_out_top1,
        "held_out_videos": result.choice.num_held_out,
        "grid": [{**asdict(setting), "held_out_top1": top1} for setting, top1 in pairs],
        "val": asdict(result.verdict),
    }


def _grids(results: Sequence[ProbeResult]) -> str:
    """A line for each setting; what a kind has no use for is empty."""
    names = list(dict.fromkeys(name for result in results for name in result.setting))
    rows = []
    for result in results:
        choice = result.choice
        pairs = zip(choice.settings, choice.held_out_top1, strict=True)
        for place, (setting, top1) in enumerate(pairs):
            values = asdict(setting)
            cells = (values.get(name, "") for name in names)
            rows.append((result.kind, *cells, f"{top1:.6f}", int(place == choice.best)))
    return csv_text(("kind", *names, "held_out_top1", "chosen"), rows)
