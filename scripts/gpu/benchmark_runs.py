"""The figures of benchmarks/masking.py and benchmarks/model.py, which are run as they are."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from gpu.findings import Findings
from gpu.mask_checks import same_masks
from gpu.programs import run_program
from gpu.setting import ROOT, Setting

__all__ = [
    "COMPILED_STEPS",
    "MASKS",
    "STEPS",
    "Call",
    "flattened",
    "mask_rows",
    "masks",
    "step_rows",
    "steps_vit_base",
    "steps_vit_large",
]

CLIP = "clip"
OFFICIAL, PEAK = "VideoMAE's own", "the device's peak"


@dataclass(frozen=True)
class Call:
    """One call of a benchmark, which keeps what it finds before the next.

    A benchmark that is killed leaves nothing: what takes long and may fail is called last.
    """

    about: str
    options: Sequence[str]
    seconds: float | None = None
    """After which it is killed."""


MASKS = (
    Call("not compiled", ["--no-compile"], 60.0),
    Call("compiled too", ["--rounds", "2"], 90.0),
)
TINY_MASKS = (Call("not compiled", ["--batch", "2", "--rounds", "1", "--no-compile"]),)
IN_BF16 = ("--precisions", "bf16", "--batch", "32", "--rounds", "15", "--seconds", "45")
# Memory by batch is measured elsewhere, and every contender would need a process for it.
PLAIN = (*IN_BF16, "--no-memory", "--no-compile")
STEPS = (
    Call("0.75 hidden", [*PLAIN, "--ratios", "0.75"], 150.0),
    Call("0.9 hidden", [*PLAIN, "--ratios", "0.9"], 150.0),
)
COMPILED_STEPS = (
    Call("0.75 hidden, compiled too", [*IN_BF16, "--no-memory", "--ratios", "0.75"], 180.0),
)
TINY = ("--precisions", "fp32", "--batch", "1", "--no-memory", "--no-compile", "--ratios", "0.9")
TINY_STEPS = (Call("0.9 hidden", TINY),)


def masks(setting: Setting, findings: Findings) -> None:
    """Are they the CPU's; then milliseconds for those of 64 clips."""
    same_masks(setting, findings)
    for call in setting.pick(MASKS, TINY_MASKS):
        if numbers := _measured(setting, findings, "masking", call):
            table = f"masks of a batch, {call.about}"
            _keep(findings, table, list(mask_rows(numbers)), numbers)


def _steps(size: str, calls: Sequence[Call], setting: Setting, findings: Findings) -> None:
    """A pretraining step of ours, of transformers and of VideoMAE's own network."""
    for call in setting.pick(calls, TINY_STEPS):
        of_size = ["--sizes", setting.pick(size, "vit_micro"), *call.options]
        if numbers := _measured(setting, findings, "model", replace(call, options=of_size)):
            table = f"pretraining steps, {call.about}"
            _keep(findings, table, list(step_rows(numbers)), numbers)


steps_vit_base = partial(_steps, "vit_base", STEPS + COMPILED_STEPS)
steps_vit_large = partial(_steps, "vit_large", STEPS)


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


def _measured(setting: Setting, findings: Findings, name: str, call: Call) -> dict[str, Any]:
    """What the script writes; empty if it fails, which is a check."""
    script = ROOT / "benchmarks" / f"{name}.py"
    command = f"benchmarks/{name}.py {' '.join(call.options)}"
    path = setting.folder / f"{name}-numbers.json"
    path.unlink(missing_ok=True)
    numbers: dict[str, Any] = {}
    with findings.claim(f"`python {command}` comes to its end"):
        run_program(command, [str(script), *call.options, "--json", str(path)], call.seconds)
        numbers = json.loads(path.read_bytes())
    return numbers


def _spread(times: Any, scale: float) -> dict[str, object]:
    known = [scale * float(each) for each in _list(times)]
    return {"median ms": median(known), "least ms": min(known)} if known else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
