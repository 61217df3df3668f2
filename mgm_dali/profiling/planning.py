"""How long a training will take elsewhere, and what it needs: a profile, and arithmetic.

The formulas stand in docs/performance.md. What a profile has not measured is assumed, in the tables
below, and is called so in every plan.
"""

import re
from dataclasses import dataclass

from mgm_dali.errors import UserError
from mgm_dali.profiling.costs import Machine, find_bound
from mgm_dali.profiling.profile import Profile

__all__ = ["DATA_SETS", "PEAK_TFLOPS", "Asked", "Plan", "make_plan", "plan_in_words", "read_plan"]

DATA_SETS = {
    # name: training videos, mean frames of each
    "k400": (240_258, 300),
    "ssv2": (168_913, 46),
    "ucf101": (9_537, 187),
    "hmdb51": (3_570, 95),
    "diving48": (15_027, 160),
    "mini-k200": (80_000, 300),
}
PEAK_TFLOPS = {"h100": 989, "h200": 989, "a100": 312, "l40s": 362, "a10g": 70, "v100": 125}
"""Dense, in bfloat16 (V100: float16), by NVIDIA's data sheets."""
ASSUMED_SHARE_OF_PEAK = 0.4
ASSUMED_BYTES_PER_SECOND = {"gpu": 50e9, "cpu": 1e9}
"""Each rank sends and receives so many while gradients are averaged."""


@dataclass(frozen=True)
class Asked:
    """What is planned."""

    num_devices: int
    device: str
    """A name of `PEAK_TFLOPS`, or `cpu`."""
    data: str
    num_videos: int
    mean_frames: int
    epochs: float


@dataclass(frozen=True)
class Plan:
    """What it takes."""

    asked: Asked
    clips: float
    """That the network sees in all."""
    clips_per_second: float
    """Of all devices."""
    hours: float
    cores_a_device: float
    """That must read, so that the device need not wait; without NVDEC."""
    store_bytes: float | None
    """Of the motion store; None if no motion was read."""
    video_bytes: float
    communication_share: float
    """Of a step, if none of it is hidden behind computing."""
    assumed: list[str]
    """What was not measured."""


def read_plan(text: str) -> Asked:
    """`8xH100 K400 800 epochs`, or `2xcpu 5000 videos 1 epoch`. Raises `UserError`."""
    found = re.fullmatch(r"(\d+) *x *([\w-]+) +(.+?) +([\d.]+) *epochs?", text.strip().lower())
    if not found:
        raise UserError(f'--plan: found {text!r}, expected something like "8xH100 K400 800 epochs"')
    count, device, data, epochs = found.groups()
    if device != "cpu" and device not in PEAK_TFLOPS:
        raise UserError(f"--plan: no device {device!r}; there are cpu, {', '.join(PEAK_TFLOPS)}")
    own = re.fullmatch(r"(\d+) *videos?(?: of (\d+) frames)?", data)
    if own:
        videos, frames = int(own[1]), int(own[2] or 300)
    elif data in DATA_SETS:
        videos, frames = DATA_SETS[data]
    else:
        raise UserError(
            f"--plan: no data set {data!r}; there are {', '.join(DATA_SETS)}, or say "
            '"5000 videos of 300 frames"'
        )
    try:
        return Asked(max(int(count), 1), device, data, videos, frames, float(epochs))
    except ValueError:
        raise UserError(f"--plan: {epochs!r} is no number of epochs") from None


def make_plan(profile: Profile, asked: Asked) -> Plan:
    """The plan for a training like the one profiled."""
    assumed: list[str] = []
    settings = profile.settings
    clips = asked.num_videos * asked.epochs * settings["augment.repeats"]
    rate = _rate_of_a_device(profile, asked, assumed)
    batch = settings["training.batch_size"] * settings["training.accumulate_steps"]
    step_seconds = batch / rate
    communication = _communication_seconds(profile, asked, assumed)
    all_rate = asked.num_devices * batch / (step_seconds + communication)
    reading = profile.costs.worker.cpu_seconds + _handing_over_cpu_seconds(profile)
    frames = asked.num_videos * asked.mean_frames
    stored = profile.reading.motion_bytes_a_frame
    return Plan(
        asked=asked,
        clips=clips,
        clips_per_second=all_rate,
        hours=clips / all_rate / 3600,
        cores_a_device=rate * reading,
        store_bytes=None if stored is None else frames * stored,
        video_bytes=frames * profile.reading.video_bytes_a_frame,
        communication_share=communication / (step_seconds + communication),
        assumed=assumed,
    )


def plan_in_words(plan: Plan) -> list[str]:
    """Lines for people."""
    asked = plan.asked
    a_device = plan.clips_per_second / asked.num_devices
    stored = "" if plan.store_bytes is None else f"motion store {_gb(plan.store_bytes)}, "
    return [
        f"plan       {asked.num_devices} x {asked.device}, {asked.data}: {asked.num_videos:,} "
        f"videos, {asked.epochs:g} epochs, {plan.clips / 1e6:,.1f} M clips",
        f"time       {plan.hours:,.1f} hours at "
        f"{plan.clips_per_second:,.0f} clips/s, {a_device:,.0f} a device; averaging gradients "
        f"takes {plan.communication_share:.0%} of a step",
        f"cores      {plan.cores_a_device:.1f} a device read so many clips",
        f"storage    {stored}videos {_gb(plan.video_bytes)} if they are as large as those here",
        *(f"assumed    {line}" for line in plan.assumed),
    ]


def _rate_of_a_device(profile: Profile, asked: Asked, assumed: list[str]) -> float:
    """Clips a second, if clips come as fast as they are taken."""
    if asked.device == "cpu":
        if profile.device != "CPU":
            raise UserError("--plan: this profile is of a GPU; profile with device=cpu first")
        # All ranks share this machine's cores, and each has its own workers.
        machine = profile.machine
        cores = machine.cores * profile.ranks / asked.num_devices
        share = Machine(machine.num_workers, cores, is_gpu=False)
        costs = profile.costs
        return find_bound(costs, share).clips_per_second
    if asked.device in profile.device.lower():
        return 1 / profile.costs.network.seconds
    peak = 1e12 * PEAK_TFLOPS[asked.device]
    assumed.append(
        f"the network at {ASSUMED_SHARE_OF_PEAK:.0%} of the {asked.device.upper()}'s "
        f"{PEAK_TFLOPS[asked.device]} TFLOP/s ({profile.gflops_a_clip:.0f} GFLOP a clip): it was "
        f"profiled on another device, {profile.device}"
    )
    return ASSUMED_SHARE_OF_PEAK * peak / (1e9 * profile.gflops_a_clip)


def _communication_seconds(profile: Profile, asked: Asked, assumed: list[str]) -> float:
    """Of a step: every rank sends and receives all gradients but its own part, twice (a ring)."""
    if asked.num_devices == 1:
        return 0.0
    ring = 2 * (asked.num_devices - 1) / asked.num_devices
    computing = profile.computing
    if profile.ranks > 1:
        measured = 2 * (profile.ranks - 1) / profile.ranks
        return computing.communication_seconds * ring / measured
    kind = "cpu" if asked.device == "cpu" else "gpu"
    speed = ASSUMED_BYTES_PER_SECOND[kind]
    assumed.append(f"gradients are averaged at {speed / 1e9:.0f} GB/s: one rank was profiled")
    return ring * computing.gradient_bytes / speed


def _handing_over_cpu_seconds(profile: Profile) -> float:
    """What is left of the graph's CPU time where a GPU augments."""
    costs = profile.costs
    if profile.machine.is_gpu:
        return costs.graph.cpu_seconds
    share = costs.graph_steps["hand over"] / sum(costs.graph_steps.values())
    return costs.graph.cpu_seconds * share


def _gb(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e12 else f"{count / 1e12:,.2f} TB"
