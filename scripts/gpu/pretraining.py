"""Whole pretraining runs of ViT-B by the command line: clips a second, and waiting for data."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gpu.configs import config_for
from gpu.findings import Findings
from gpu.made_videos import NUM_VIDEOS, made, motion_store
from gpu.programs import run_program
from gpu.setting import NVDEC_LIBRARY, Setting, can_load
from mgm_dali.config import RunConfig, dump_config
from mgm_dali.training.metrics import read_steps

__all__ = ["Run", "columns_of", "pretraining", "run_command"]

REPORTS_LEFT_OUT = 2
"""The first: kernels are loaded, workers start."""
SECONDS_AROUND = 60.0
"""To start and to save."""


@dataclass(frozen=True)
class Run:
    """What differs from one run to the next."""

    decode: str
    motion: str = "store"
    repeats: int = 1
    workers: int = 8


def runs_of(setting: Setting) -> dict[str, Run]:
    """By name; how fast PyAV reads one clip of a decoding is told by the section `loading`."""
    if setting.tiny:
        return {"motion store": Run("cpu", workers=1)}
    cpu = setting.workers
    return {
        "NVDEC, motion store": Run("nvdec"),
        "PyAV, live motion, 4 clips of a decoding": Run("cpu", "codec", 4, cpu),
        "NVDEC, motion store, 4 clips of a decoding": Run("nvdec", repeats=4),
    }


def pretraining(setting: Setting, findings: Findings) -> None:
    """Each run for half a minute of steps; DeepSpeed, masks and logs as in any run."""
    manifest = made(setting, "prepared", setting.pick(NUM_VIDEOS, 4))
    store = motion_store(setting, manifest)
    for name, run in runs_of(setting).items():
        if run.decode == "nvdec" and not can_load(NVDEC_LIBRARY):
            findings.note(f"{name}: not run: there is no {NVDEC_LIBRARY}")
            continue
        data = {
            "num_workers": run.workers,
            "motion_store": store if run.motion == "store" else None,
        }
        training = {
            "batch_size": setting.pick(64, 4),
            "max_steps": setting.pick(100_000, 12),
            "max_minutes": setting.pick(0.5, 1.0),
            "log_every_steps": setting.pick(10, 2),
            "zero_stage": 1,
            "checkpoint_every_steps": 10**6,
        }
        config = config_for(
            setting,
            manifest,
            decode=run.decode,
            data=data,
            augment={"repeats": run.repeats},
            training=training,
        )
        known = {"run": name, "workers": run.workers, "batch": config.training.batch_size}
        with findings.row("pretraining", known) as row:
            row |= run_command(setting, "pretrain", config)
        _judge(findings, name, row)


def run_command(setting: Setting, command: str, config: RunConfig) -> dict[str, object]:
    """Columns for a run of `mgm-dali COMMAND`, whose folder is gone behind it.

    Raises `ProgramError` with the end of its output if it fails.
    """
    folder = config.output_dir
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(dump_config(config), encoding="utf-8")
    minutes = config.training.max_minutes
    assert minutes is not None, "else nothing would tell a run that hangs"
    try:
        arguments = ["-m", "mgm_dali", command, str(path)]
        run_program(f"mgm-dali {command}", arguments, 60 * minutes + SECONDS_AROUND)
        left_out = setting.pick(REPORTS_LEFT_OUT, 1)
        return {**columns_of(folder / "metrics.jsonl", left_out), **_opening(folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def columns_of(path: Path, left_out: int) -> dict[str, object]:
    """Speed, waiting and loss from a run's metrics, without its first reports.

    All steps of a report have its speed. Raises `RuntimeError` if no report is left.
    """
    steps = read_steps(path)
    reports: list[dict[str, float]] = []
    for step in steps:
        if not reports or step["clips_per_second"] != reports[-1]["clips_per_second"]:
            reports.append(step)
    counted = reports[left_out:]
    if not counted:
        raise RuntimeError(f"{len(steps)} steps in {len(reports)} reports are too few to measure")
    speeds = [report["clips_per_second"] for report in counted]
    return {
        "steps": len(steps),
        "clips/s": median(speeds),
        "low": min(speeds),
        "high": max(speeds),
        "data_wait_share": median(report["data_wait_share"] for report in counted),
        "first loss": steps[0]["loss"],
        "last loss": steps[-1]["loss"],
        "skipped clips": steps[-1]["skipped_clips"],
        "skipped steps": steps[-1]["skipped_steps"],
    }


def _opening(folder: Path) -> dict[str, object]:
    """What the log says of memory and attention."""
    found: dict[str, object] = {}
    for line in (folder / "train.log").read_text(encoding="utf-8").splitlines():
        for word in ("attention", "size"):
            if f"{word}  " in line and word not in found:
                found[word] = line.partition(f"{word}  ")[2].strip()
    return found


def _judge(findings: Findings, name: str, row: dict[str, object]) -> None:
    failed = row.get("not measured")
    findings.check(f"{name}: the run comes to its end", not failed, str(failed or ""))
    if failed:
        return
    losses = [float(str(row[f"{which} loss"])) for which in ("first", "last")]
    finite = all(map(math.isfinite, losses))
    lost = {word: row[f"skipped {word}"] for word in ("clips", "steps")}
    findings.check(
        f"{name}: the loss is finite, no clip and no step is lost",
        finite and not any(lost.values()),
        f"losses {losses[0]:.4f} and {losses[1]:.4f}; lost: {json.dumps(lost)}",
    )
