"""Speed and memory of a pretraining step against VideoMAE's own and transformers', in one run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/model.py --json numbers.json

All start from the same weights and see the same clips and masks. A network whose gradient is not
that of VideoMAE's own in float32 is not timed; the others take turns, a step each.
What it does on a GPU has not been run yet.
"""

import argparse
import gc
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from command import add_number_options, parse, run
from ratios import peer_rows, summary
from rich.console import Console
from rounds import Timings
from step_checks import gradient_failures, reference_losses, require_same_loss
from step_contenders import (
    COMPILED,
    CONTENDERS,
    HUGGINGFACE,
    OFFICIAL,
    OURS,
    PRECISIONS,
    Inputs,
    Setup,
    Step,
)
from step_goals import CLIP, Measured, add_peak, judged_time, peak_tflops, verdicts_of
from step_memory import Memory, memory_of
from step_tables import print_setup
from tables import print_goals

from mgm_dali.config import ModelConfig
from mgm_dali.errors import UserError
from mgm_dali.models import BACKBONES
from mgm_dali.models.kernels import CPU_MULTIPLIES_BFLOAT16

SIZES = [name for name in BACKBONES if name.startswith("vit_")]
QUICK = {"sizes": ["vit_small"], "ratios": [0.75], "precisions": ["fp32"], "batch": 2, "rounds": 2}
BUSY_LOAD = 0.5


def main() -> None:
    """Measures, prints tables, and writes all numbers to a file if asked."""
    run(_options(), _measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=["vit_small", "vit_base"])
    add("--ratios", nargs="+", type=float, default=[0.75, 0.9], help="of the tokens, hidden")
    slow = "without it where a CPU has no instructions for bf16"
    add("--precisions", nargs="+", choices=list(PRECISIONS), help=f"default: fp32 and bf16, {slow}")
    add("--batch", type=int, default=4, help="clips in a step")
    add("--rounds", type=int, default=4, help="beside a first one that is not counted")
    add("--seconds", type=int, default=90, help="after which no further round of a table begins")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of torch, on the CPU")
    add("--no-compile", action="store_true", help="without torch.compile, which takes a while")
    add("--no-memory", action="store_true", help="without memory, for which all steps are repeated")
    add_number_options(parser)
    options = parse(parser, ("batch", "rounds", "seconds", "threads"), QUICK)
    if bad := [ratio for ratio in options.ratios if not 0 < ratio < 1]:
        parser.error(f"--ratios: found {bad[0]:g}, between 0 and 1")
    return options


def _measure(console: Console, options: argparse.Namespace, _folder: Path) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precisions = options.precisions or default_precisions(device)
    setups = [
        Setup(ModelConfig(name=size), ratio, precision, options.batch, device)
        for precision, size, ratio in product(precisions, options.sizes, options.ratios)
    ]
    for line in opening_lines(device, precisions, options.threads):
        console.print(line, markup=False)
    console.print()
    labels = [label for label in CONTENDERS if not (options.no_compile and label == COMPILED)]
    # Memory first: its processes must not find this one's place in the world of DeepSpeed.
    with console.status("memory"):
        memory = {} if options.no_memory else memory_of_all(setups, labels, options.threads)
    found: dict[str, Measured] = {}
    for setup in setups:
        with console.status(f"{setup.name}: gradients"):
            failures = gradient_failures(setup)
        alike = [label for label in labels if label not in failures]
        with console.status(f"{setup.name}: time"):
            measured = time_setup(setup, alike, options.rounds, options.seconds)
        measured.failures |= {label: failures[label] for label in labels if label in failures}
        found[setup.name] = measured
        print_setup(console, setup, measured, memory.get(setup.name, {}))
    verdicts = verdicts_of(setups, found)
    kind = "wall" if device == "cuda" else "CPU"
    print_goals(console, f"goals, by {kind} time", verdicts)
    timings = {setup.name: judged_time(setup, found[setup.name]) for setup in setups}
    rows = peer_rows(timings, (OFFICIAL, HUGGINGFACE), [OURS], CLIP)
    failed = [
        f"{name}: {label}: not measured: {reason}"
        for name, measured in found.items()
        for label, reason in measured.failures.items()
    ]
    return {
        "device": where(device),
        "measured": {name: asdict(measured) for name, measured in found.items()},
        "memory_megabytes": {
            name: {
                label: each if isinstance(each, str) else asdict(each) for label, each in of.items()
            }
            for name, of in memory.items()
        },
        "goals": [verdict.as_dict() for verdict in verdicts],
        **summary(f"{kind} time of a step's clip, the other's / ours", verdicts, rows, failed),
    }


def default_precisions(device: str) -> list[str]:
    """bf16 too, unless a step in it takes minutes."""
    slow = device == "cpu" and not CPU_MULTIPLIES_BFLOAT16
    return ["fp32"] if slow else list(PRECISIONS)


def where(device: str) -> str:
    """The GPU's name, or CPU."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def opening_lines(device: str, precisions: Sequence[str], threads: int) -> list[str]:
    """What is measured on, and how each contender computes."""
    lines = [f"{precision}: {PRECISIONS[precision]}" for precision in precisions]
    if device == "cuda":
        known = peak_tflops() is not None
        share = "" if known else "; its peak is not known here, so no share of it is given"
        return [f"on {where(device)}{share}", *lines]
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    lines.insert(0, f"on the CPU, {threads} threads, OMP_WAIT_POLICY {policy}")
    if "bf16" not in precisions:
        lines.append(
            "not bf16, as a CPU without instructions for it takes minutes for a step of others; "
            "--precisions bf16 --batch 1 --rounds 1 --no-memory measures it"
        )
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        lines.append(f"the machine is busy (load average {load:.1f}): CPU time says most")
    return lines


def memory_of_all(
    setups: Sequence[Setup], labels: Sequence[str], threads: int
) -> dict[str, dict[str, Memory | str]]:
    """By setup and label; the reason where it cannot be measured."""
    found: dict[str, dict[str, Memory | str]] = {}
    for setup, label in product(setups, labels):
        try:
            each: Memory | str = memory_of(setup, label, threads)
        except UserError as error:
            each = str(error)
        found.setdefault(setup.name, {})[label] = each
    return found


def time_setup(setup: Setup, labels: Sequence[str], rounds: int, seconds: float) -> Measured:
    """Rounds of a step each; no other begins after `seconds`. The first checks and is not counted.

    A contender whose loss is not what it must be is not timed, nor one that needs too much memory.
    """
    torch.compiler.reset()  # it compiles a function for so many networks only
    inputs = Inputs.of(setup)
    references = reference_losses(setup, inputs)
    steps: dict[str, Step] = {}
    measured = Measured(wall=Timings(), cpu=Timings())
    for label in labels:
        try:
            steps[label] = CONTENDERS[label](setup, inputs)
            loss = float(steps[label]())
            require_same_loss(setup, label, loss, references[label])
        except (UserError, torch.OutOfMemoryError) as error:
            measured.fail(label, error)
            _close(steps, label)
        else:
            measured.losses[label] = loss
    begin = time.perf_counter()
    while measured.rounds < rounds and (
        not measured.rounds or time.perf_counter() - begin < seconds
    ):
        measured.rounds += 1
        for label in list(steps):
            try:
                times = _time(steps[label], setup)
            except torch.OutOfMemoryError as error:
                measured.fail(label, error)
                _close(steps, label)
            else:
                measured.add(label, *times, setup.batch)
    for label in list(steps):
        _close(steps, label)
    add_peak(setup, measured)
    return measured


def _close(steps: dict[str, Step], label: str) -> None:
    """Frees the memory of a contender, if it came to be."""
    if label in steps:
        steps.pop(label).close()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _time(step: Step, setup: Setup) -> tuple[float, float]:
    """Wall and CPU seconds of a step."""
    wait = torch.cuda.synchronize if setup.device == "cuda" else lambda: None
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    wait()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
