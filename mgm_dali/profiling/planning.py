"""How long a training will take elsewhere, and what it needs: a profile, and arithmetic.

The formulas stand in docs/performance.md. What a profile has not measured is assumed, in the tables
below, and is called so in every plan.
"""

import re
from dataclasses import dataclass, replace

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.profiling.costs import find_bound
from mgm_dali.profiling.profile import Profile
from mgm_dali.profiling.step_time import NO_TIME, StepTime

__all__ = [
    "DATA_SETS",
    "PEAK_TFLOPS",
    "Asked",
    "Plan",
    "make_plan",
    "plan_in_words",
    "read_plan",
    "why_not",
]

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
ASSUMED_FRAMES = 300
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
    mean_frames: int | None
    """None: not said."""
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
    """That are busy while it trains."""
    store_bytes: float | None
    """Of the motion store; None if no motion was read."""
    video_bytes: float
    averaging_share: float
    """Of a step, if none of it is hidden behind computing."""
    assumed: list[str]
    """What was not measured."""


def read_plan(text: str) -> Asked:
    """`8xH100 K400 800 epochs`, or `2xcpu 5000 videos 1 epoch`. Raises `UserError`."""
    found = re.fullmatch(r"([1-9]\d*) *x *([\w-]+) +(.+?) +([\d.]+) *epochs?", text.strip().lower())
    if not found:
        raise UserError(f'--plan: found {text!r}, expected something like "8xH100 K400 800 epochs"')
    count, device, data, epochs = found.groups()
    if device != "cpu" and device not in PEAK_TFLOPS:
        raise UserError(f"--plan: no device {device!r}; there are cpu, {', '.join(PEAK_TFLOPS)}")
    own = re.fullmatch(r"([1-9]\d*) *videos?(?: of (\d+) frames)?", data)
    if own:
        videos, frames = int(own[1]), int(own[2]) if own[2] else None
    elif data in DATA_SETS:
        videos, frames = DATA_SETS[data]
    else:
        raise UserError(
            f"--plan: no data set {data!r}; there are {', '.join(DATA_SETS)}, or say "
            '"5000 videos of 300 frames"'
        )
    try:
        return Asked(int(count), device, data, videos, frames, float(epochs))
    except ValueError:
        raise UserError(f"--plan: {epochs!r} is no number of epochs") from None


def why_not(asked: Asked, config: RunConfig, device: str) -> str | None:
    """Why a run profiled on a `device` ("cpu" or "cuda") cannot be planned so; None if it can."""
    if asked.device == "cpu" and device != "cpu":
        return "--plan: asks for CPUs, and this profile is of a GPU; give device=cpu too"
    training, count = config.training, asked.num_devices
    if training.global_batch and training.global_batch % (training.batch_size * count):
        return (
            f"--plan: training.global_batch {training.global_batch} cannot be shared by {count} "
            f"devices with training.batch_size={training.batch_size}"
        )
    return None


def make_plan(profile: Profile, asked: Asked) -> Plan:
    """The plan for a training like the one profiled."""
    assumed: list[str] = []
    settings, costs = profile.settings, profile.costs
    clips = asked.num_videos * asked.epochs * settings["augment.repeats"]
    batch = settings["training.batch_size"]
    if whole := settings["training.global_batch"]:
        a_step = whole / asked.num_devices
    else:
        a_step = batch * settings["training.accumulate_steps"]
    rate = _rate_of_a_device(profile, asked, a_step, assumed)
    averaging = _averaging_seconds(profile, asked, assumed)
    all_rate = asked.num_devices * a_step / (a_step / rate + averaging)
    busy = costs.worker.cpu_seconds + _handing_over_cpu_seconds(profile)
    if asked.device == "cpu":
        busy = costs.cpu_seconds
    else:
        assumed.append("cores as fast as here; decoding as in this profile")
    if asked.mean_frames is None:
        assumed.append(f"{ASSUMED_FRAMES} frames a video")
    frames = asked.num_videos * (asked.mean_frames or ASSUMED_FRAMES)
    stored = profile.reading.motion_bytes_a_frame
    assumed.append("videos, and their motion, as large a frame as those read here")
    return Plan(
        asked=asked,
        clips=clips,
        clips_per_second=all_rate,
        hours=clips / all_rate / 3600,
        cores_a_device=all_rate / asked.num_devices * busy,
        store_bytes=None if stored is None else frames * stored,
        video_bytes=frames * profile.reading.video_bytes_a_frame,
        averaging_share=averaging / (a_step / rate + averaging),
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
        f"time       {plan.hours:,.2f} hours at {plan.clips_per_second:,.0f} clips/s, "
        f"{a_device:,.0f} a device; averaging gradients takes {plan.averaging_share:.0%} of a step",
        f"cores      {plan.cores_a_device:.1f} a device are busy with that",
        f"storage    {stored}videos {_gb(plan.video_bytes)}",
        *(f"assumed    {line}" for line in plan.assumed),
    ]


def _rate_of_a_device(
    profile: Profile, asked: Asked, clips_a_step: float, assumed: list[str]
) -> float:
    """Clips a second, but for averaging; of a GPU, if clips come as fast as it takes them."""
    settings, steps = profile.settings, profile.costs.computing_steps
    profiled: int = settings["training.batch_size"] * settings["training.accumulate_steps"]
    costs = profile.costs.computed_otherwise(
        {"optimiser": steps["optimiser"] * (profiled / clips_a_step), "averaging": NO_TIME}
    )
    if asked.device == "cpu":
        # All ranks share this machine's cores and storage, and each has its own workers.
        part = profile.ranks / asked.num_devices
        share = replace(
            profile.machine,
            cores=profile.machine.cores * part,
            storage_bytes_per_second=profile.machine.storage_bytes_per_second * part,
        )
        return find_bound(costs, share).clips_per_second
    if asked.device in profile.device.lower():
        return 1 / costs.computing.seconds
    peak = 1e12 * PEAK_TFLOPS[asked.device]
    assumed.append(
        f"the network at {ASSUMED_SHARE_OF_PEAK:.0%} of the {asked.device.upper()}'s "
        f"{PEAK_TFLOPS[asked.device]} TFLOP/s ({profile.gflops_a_clip:.0f} GFLOP a clip): it was "
        f"profiled on another device, {profile.device}"
    )
    return ASSUMED_SHARE_OF_PEAK * peak / (1e9 * profile.gflops_a_clip)


def _averaging_seconds(profile: Profile, asked: Asked, assumed: list[str]) -> float:
    """Of a step: every rank sends and receives all gradients but its own part, twice (a ring)."""
    if asked.num_devices == 1:
        return 0.0
    ring = 2 * (asked.num_devices - 1) / asked.num_devices
    computing, kind = profile.computing, "cpu" if asked.device == "cpu" else "gpu"
    alike = profile.machine.is_gpu == (kind == "gpu")
    if alike and 1 < asked.num_devices <= profile.ranks:
        return computing.averaging.seconds * ring / (2 * (profile.ranks - 1) / profile.ranks)
    speed = ASSUMED_BYTES_PER_SECOND[kind]
    assumed.append(
        f"gradients are averaged at {speed / 1e9:.0f} GB/s: {profile.ranks} rank(s) were profiled"
    )
    return ring * computing.gradient_bytes / speed


def _handing_over_cpu_seconds(profile: Profile) -> float:
    """What is left of the graph's CPU time where a GPU augments."""
    if profile.machine.is_gpu:
        return profile.costs.graph.cpu_seconds
    handing: StepTime = profile.costs.graph_steps["hand over"]
    return handing.cpu_seconds


def _gb(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e12 else f"{count / 1e12:,.2f} TB"
