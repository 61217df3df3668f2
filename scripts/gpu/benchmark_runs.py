"""The figures of benchmarks/masking.py and benchmarks/model.py, which are run as they are."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from gpu.findings import Findings
from gpu.mask_checks import same_masks
from gpu.programs import run_program
from gpu.setting import ROOT, CannotRun, Setting

__all__ = [
    "flattened",
    "mask_rows",
    "masks",
    "step_rows",
    "steps_vit_base",
    "steps_vit_large",
]

CLIP = "clip"
OFFICIAL, PEAK = "VideoMAE's own", "the device's peak"


def masks(setting: Setting, findings: Findings) -> None:
    """Are they the CPU's; then milliseconds for those of 64 clips, plain and compiled."""
    same_masks(setting, findings)
    tiny = ["--batch", "2", "--rounds", "1", "--no-compile"]
    numbers = _run(setting, findings, "masking", setting.pick([], tiny))
    _keep(findings, "masks of a batch", list(mask_rows(numbers)), numbers)


def _steps(size: str, setting: Setting, findings: Findings) -> None:
    """A pretraining step of ours, of transformers and of VideoMAE's own network."""
    full = ["--sizes", size, "--ratios", "0.75", "0.9", "--precisions", "bf16", "--batch", "32"]
    tiny = ["--sizes", "vit_micro", "--ratios", "0.9", "--precisions", "fp32", "--batch", "1"]
    # Memory by batch is measured elsewhere, and every contender would need a process for it.
    wanted = setting.pick([*full, "--no-memory"], [*tiny, "--no-memory", "--no-compile"])
    numbers = _run(setting, findings, "model", wanted)
    _keep(findings, "pretraining steps", list(step_rows(numbers)), numbers)


steps_vit_base = partial(_steps, "vit_base")
steps_vit_large = partial(_steps, "vit_large")


def mask_rows(numbers: Mapping[str, Any], name: str = "") -> Iterator[dict[str, object]]:
    """A row for each device and contender: from wherever in the file there are milliseconds."""
    times = numbers.get("milliseconds")
    device = str(numbers.get("device", name))
    for label, taken in _mapping(times).items():
        yield {"device": device, "masks": label, **_spread(taken, 1.0)}
    if isinstance(times, Mapping) and numbers.get("compiled_kernels") is not None:
        yield {"device": device, "compiled kernels": numbers["compiled_kernels"]}
    for inner, value in numbers.items():
        if isinstance(value, Mapping):
            yield from mask_rows(value, inner)


def step_rows(numbers: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """A row for each setup and contender, if the file is as it is known to be."""
    memory = _mapping(numbers.get("memory_megabytes"))
    for setup, measured in _mapping(numbers.get("measured")).items():
        seconds = _mapping(_mapping(_mapping(measured).get("wall")).get("seconds"))
        official, peak = (_list(_mapping(seconds.get(one)).get(CLIP)) for one in (OFFICIAL, PEAK))
        for label, jobs in seconds.items():
            times = _list(_mapping(jobs).get(CLIP))
            row: dict[str, object] = {"setup": setup, "network": label, **_spread(times, 1e3)}
            if times:
                row["clips/s"] = 1 / median(times)
            if times and official:
                row["times VideoMAE's own"] = median(official) / median(times)
            if times and peak:
                row["share of the peak"] = median(peak) / median(times)
            held = _mapping(memory.get(setup)).get(label)
            yield {**row, **dict(flattened({"MB": held} if held is not None else {}))}
        for label, reason in _mapping(_mapping(measured).get("failures")).items():
            yield {"setup": setup, "network": label, "not measured": reason}


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every leaf of a tree, named by its path."""
    for name, value in tree.items():
        path = f"{prefix} {name}".strip()
        if isinstance(value, Mapping):
            yield from flattened(value, path)
        else:
            yield path, json.dumps(value) if isinstance(value, list) else value


def _keep(
    findings: Findings, table: str, rows: Sequence[Mapping[str, object]], numbers: Mapping[str, Any]
) -> None:
    """The rows; of a file that is not as it is known to be, every number that it holds."""
    for row in rows:
        findings.figure(table, row)
    for ratio in _list(numbers.get("ratios")):
        findings.figure(f"{table}: {numbers.get('about', 'ratios')}", dict(flattened(ratio)))
    for reason in _list(numbers.get("not_measured")):
        findings.note(f"not measured: {reason}")
    if not rows:
        findings.note("the benchmark's file has another form than is known here: all it holds")
        for path, value in flattened(numbers):
            findings.figure(table, {"number": path, "found": value})


def _run(setting: Setting, findings: Findings, name: str, wanted: Sequence[str]) -> dict[str, Any]:
    """What the script writes, called with those of the options that it has."""
    script = ROOT / "benchmarks" / f"{name}.py"
    if not script.exists():
        raise CannotRun(f"benchmarks/{name}.py is not there")
    usage = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True
    ).stdout
    options = _known(wanted, usage)
    path = setting.folder / f"{name}-{'-'.join(options[:2]).strip('-')}.json"
    findings.doing(" ".join([f"benchmarks/{name}.py", *options]))
    findings.note(f"Command: `python benchmarks/{name}.py {' '.join(options)}`")
    run_program(f"benchmarks/{name}.py", [str(script), *options, "--json", str(path)])
    numbers: dict[str, Any] = json.loads(path.read_bytes())
    return numbers


def _known(wanted: Sequence[str], usage: str) -> list[str]:
    """Without the options that this version of the script does not have, and their values."""
    kept, keeps = [], True
    for word in wanted:
        keeps = word in usage if word.startswith("--") else keeps
        if keeps:
            kept.append(word)
    return kept


def _spread(times: Any, scale: float) -> dict[str, object]:
    known = [scale * float(each) for each in _list(times)]
    return {"median ms": median(known), "least ms": min(known)} if known else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
