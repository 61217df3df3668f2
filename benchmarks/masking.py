"""Milliseconds to make the masks of a batch, of every strategy and of others, in one run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/masking.py --json numbers.json

Contenders take turns, a few calls each, so that a busy moment hits all. On a machine with other
work the least says more than the median. MGMAE's optical flow is given: the network that computes
it, at every step of a training, is not in the time.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from command import add_number_options, parse, run
from mask_peers import mgmae_warp, smooth_flows, videomae_tubes
from ratios import Row, ratio_row, summary
from rich.console import Console
from rich.table import Table
from rounds import Timings
from torch import Tensor
from torch._inductor import metrics
from torch._inductor.utils import fresh_cache

from mgm_dali.config import MaskConfig
from mgm_dali.masking import MASKS, PatchGrid, hidden_per_slice, make_mask

GRID = PatchGrid(8, 14, 14)
GOAL_MS, GOAL_OF = 3.0, "ours: motion_guided"
CENTERS = ("top_k", "vote")
QUICK = {"rounds": 3, "no_compile": True}
WARP_RATIO = 0.9
"""Of MGMAE, and of VideoMAE's tubes."""


@dataclass
class Contender:
    """One way to make the masks of a batch."""

    label: str
    make: Callable[[], Tensor]
    calls: int = 5
    """In a turn."""
    share: float = 1.0
    """Of the clips, where all take too long; the time is scaled."""
    milliseconds: list[float] = field(default_factory=list)
    same_rule: str = ""
    """The label of ours that makes masks of the same kind; empty for ours."""

    @property
    def rounds(self) -> list[float]:
        """The median of each, in milliseconds."""
        starts = range(0, len(self.milliseconds), self.calls)
        return [median(self.milliseconds[start : start + self.calls]) for start in starts]


def main() -> None:
    """Measures, prints a table, and writes all numbers to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--batch", type=int, default=64, help="clips")
    add("--rounds", type=int, default=7, help="beside a first one that is not counted")
    add("--threads", type=int, default=2, help="of torch, on the CPU")
    add("--no-compile", action="store_true", help="without torch.compile, which takes a while")
    add_number_options(parser)
    run(parse(parser, ("batch", "rounds", "threads"), QUICK), _measure)


def _measure(console: Console, options: argparse.Namespace, _folder: Path) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    console.print(
        f"{options.batch} clips of {GRID.t}x{GRID.h}x{GRID.w} tokens; {options.threads} threads, "
        f"OMP_WAIT_POLICY {policy}\n"
    )
    devices: dict[str, Any] = {}
    rows: list[Row] = []
    names = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
    for name in names:
        device = torch.device(name)
        where = torch.cuda.get_device_name() if name == "cuda" else "CPU"
        contenders = list(contenders_on(device, options.batch))
        kernels = None
        if not options.no_compile and name == names[-1]:
            compiled, kernels = compiled_contender(device, options.batch)
            contenders.append(compiled)
        take_turns(contenders, options.rounds, device)
        console.print(_table(where, contenders))
        if kernels is not None:
            console.print(f"  compiled: {kernels} kernels {_of_what(name)}", markup=False)
        console.print()
        rows += _rows(where, contenders)
        times = {contender.label: contender.milliseconds for contender in contenders}
        devices[name] = {"device": where, "milliseconds": times, "compiled_kernels": kernels}
    about = "time of a batch's masks, the other's / ours"
    return {"devices": devices, **summary(about, others=rows)}


def _rows(where: str, contenders: Sequence[Contender]) -> Iterator[Row]:
    """Others against our masks of the same kind and against `GOAL_OF`; a round's median counts."""
    timings = Timings({each.label: {"batch": each.rounds} for each in contenders})
    for other in contenders:
        for label in (GOAL_OF, other.same_rule) if other.same_rule else ():
            ratio = timings.ratio(other.label, label, ["batch"])
            assert ratio is not None, "all have done the one job"
            yield ratio_row(f"on {where}: {label}", other.label, ratio)


def contenders_on(device: torch.device, batch: int) -> Iterator[Contender]:
    """Every strategy, and the others' masks at their own ratio."""
    motion, valid, seed, known = inputs_of(batch, device)
    configs = {f"ours: {name}": MaskConfig(strategy=name) for name in MASKS}
    configs |= {f"{GOAL_OF}, {name}": MaskConfig(center=name) for name in CENTERS}
    for label, config in configs.items():
        yield Contender(label, _making(motion, valid, seed, config, known))
    hidden = hidden_per_slice(WARP_RATIO, GRID)
    rng = np.random.default_rng(0)
    yield Contender(
        "VideoMAE's tubes, one by one in numpy",
        lambda: videomae_tubes(batch, GRID, hidden, rng).to(device),
        same_rule="ours: tube",
    )
    generator = torch.Generator(device).manual_seed(0)
    part = batch if device.type == "cuda" else -(-batch // 8)
    flows = smooth_flows(part, GRID, generator)
    yield Contender(
        "MGMAE's warp, flow given" + (f" ({part} clips, scaled)" if part < batch else ""),
        lambda: mgmae_warp(flows, GRID, hidden, generator),
        calls=1,
        share=part / batch,
        same_rule="ours: flow_warp",
    )


def inputs_of(batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Motion `[B, T, H, W, 2]`, valid `[B, T]`, seeds `[B]` and known `[B, T, H, W]`."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 2 * GRID.t, 2 * GRID.h, 2 * GRID.w)
    valid = torch.rand(shape[:2], generator=generator) > 0.1
    known = (torch.rand(shape, generator=generator) > 0.1) & valid[:, :, None, None]
    motion = 3 * torch.randn(*shape, 2, generator=generator) * known[..., None]
    motion, valid, seed, known = (
        tensor.to(device) for tensor in (motion, valid, torch.arange(batch), known)
    )
    return motion, valid, seed, known


def compiled_contender(device: torch.device, batch: int) -> tuple[Contender, int]:
    """`motion_guided` as one graph, and of how many kernels it is made."""
    motion, valid, seed, known = inputs_of(batch, device)
    metrics.reset()
    whole = torch.compile(make_mask, fullgraph=True)
    contender = Contender(
        f"{GOAL_OF}, compiled", _making(motion, valid, seed, MaskConfig(), known, whole)
    )
    with fresh_cache():  # a graph of the cache counts no kernels
        contender.make()
    return contender, metrics.generated_kernel_count


def _making(
    motion: Tensor,
    valid: Tensor,
    seed: Tensor,
    config: MaskConfig,
    known: Tensor,
    make: Callable[..., Tensor] = make_mask,
) -> Callable[[], Tensor]:
    return lambda: make(motion, valid, seed, GRID, config, known)


def take_turns(contenders: Sequence[Contender], rounds: int, device: torch.device) -> None:
    """Fills in the milliseconds of each contender; the first round is not counted."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for number in range(rounds + 1):
        for contender in contenders:
            for _ in range(contender.calls):
                wait()
                start = time.perf_counter()
                contender.make()
                wait()
                if number:
                    seconds = time.perf_counter() - start
                    contender.milliseconds.append(seconds * 1e3 / contender.share)


def _of_what(device: str) -> str:
    return "on this GPU" if device == "cuda" else "on this CPU, which says nothing about a GPU"


def _table(where: str, contenders: Sequence[Contender]) -> Table:
    """Ratios are of the least, to the strategy that has the goal."""
    times: Mapping[str, list[float]] = {each.label: each.milliseconds for each in contenders}
    table = Table(title=f"{where}: milliseconds a batch", title_justify="left")
    for name in ("", "median", "least", f"x {GOAL_OF}", "goal"):
        table.add_column(name, justify="right" if name else "left", no_wrap=not name)
    for label, of_label in times.items():
        goal = ""
        if label == GOAL_OF:
            goal = f"{GOAL_MS:g} ms: " + ("met" if median(of_label) <= GOAL_MS else "NOT MET")
        table.add_row(
            label,
            f"{median(of_label):.2f}",
            f"{min(of_label):.2f}",
            f"{min(of_label) / min(times[GOAL_OF]):.2f}",
            goal,
        )
    return table


if __name__ == "__main__":
    main()
