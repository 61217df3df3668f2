"""What is hoped of a pretraining step, and what was found."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from contenders import Goal, Verdict, judge
from rounds import Timings
from step_contenders import COMPILED, DECODED, OFFICIAL, OURS, Setup

__all__ = [
    "CLIP",
    "PEAK",
    "Measured",
    "add_peak",
    "goals_of",
    "judged_time",
    "peak_tflops",
    "verdicts_of",
]

CLIP = "clip"
"""The one job of these timings: seconds a clip."""
PEAK = "the device's peak"
PEAK_TFLOPS = {
    "NVIDIA H200": 989,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 NVL": 835,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA L40S": 362,
    "NVIDIA L4": 121,
}
"""bfloat16 products without sparsity, by torch's name of the device, from NVIDIA's data sheets
(which give those with sparsity, twice as many, for H100, H200 and L4)."""


@dataclass
class Measured:
    """What one setup gave."""

    wall: Timings
    cpu: Timings
    """Of all threads of this process."""
    losses: dict[str, float] = field(default_factory=dict)
    """Of the first step."""
    failures: dict[str, str] = field(default_factory=dict)
    rounds: int = 0

    def add(self, label: str, wall: float, cpu: float, clips: int) -> None:
        """Keeps the seconds of a step."""
        for timings, seconds in ((self.wall, wall), (self.cpu, cpu)):
            timings.seconds.setdefault(label, {}).setdefault(CLIP, []).append(seconds / clips)

    def fail(self, label: str, error: Exception) -> None:
        """Keeps why a contender is not measured, and nothing else of it."""
        self.failures[label] = str(error).splitlines()[0]
        self.losses.pop(label, None)
        for timings in (self.wall, self.cpu):
            timings.seconds.pop(label, None)


def goals_of(setup: Setup) -> list[Goal]:
    """How many times as fast as others ours shall be; none for sizes of which nothing is hoped."""
    bounds = _gpu_bounds(setup) if setup.device == "cuda" else _cpu_bounds(setup)
    return [
        Goal(setup.name, over, under, at_least=bound) for (over, under), bound in bounds.items()
    ]


def _cpu_bounds(setup: Setup) -> dict[tuple[str, str], float]:
    if setup.model.name not in ("vit_small", "vit_base"):
        return {}
    bounds = {(OFFICIAL, OURS): 1.25 if setup.precision == "fp32" else 1.2}
    if setup.precision == "bf16" and setup.model.name == "vit_small":
        bounds[OFFICIAL, COMPILED] = 1.4
    if setup.ratio in (0.75, 0.9):
        bounds[OFFICIAL, DECODED] = 1.5 if setup.ratio == 0.75 else 1.9
    return bounds


def _gpu_bounds(setup: Setup) -> dict[tuple[str, str], float]:
    if setup.precision != "bf16":
        return {}
    bounds = {(OFFICIAL, OURS): 1.5}
    if setup.model.name == "vit_base":
        bounds[PEAK, OURS] = 0.4
    return bounds


def peak_tflops() -> float | None:
    """Of this machine's GPU in bfloat16; None if it is not known."""
    return PEAK_TFLOPS.get(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def add_peak(setup: Setup, measured: Measured) -> None:
    """Adds the time that this GPU would take at its peak, as a contender, if that is known."""
    peak = peak_tflops()
    if peak is not None and setup.precision == "bf16":
        seconds = setup.step_gflops(OURS) / (peak * 1e3)
        for _ in range(measured.rounds):
            measured.add(PEAK, seconds, seconds, clips=1)


def judged_time(setup: Setup, measured: Measured) -> Timings:
    """CPU time on a CPU, which says more than wall time if others work there too."""
    return measured.wall if setup.device == "cuda" else measured.cpu


def verdicts_of(setups: Iterable[Setup], found: Mapping[str, Measured]) -> list[Verdict]:
    """By the time that counts on each device."""
    verdicts: list[Verdict] = []
    for setup in setups:
        timings = judged_time(setup, found[setup.name])
        verdicts += judge(goals_of(setup), {setup.name: timings}, {setup.name: [CLIP]})
    return verdicts
