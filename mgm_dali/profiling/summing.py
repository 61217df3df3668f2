"""From what was measured to what a clip costs."""

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import RunConfig
from mgm_dali.masking import decoded_count, hidden_per_slice
from mgm_dali.models.flops import forward_gflops
from mgm_dali.pipelines.placement import Placement
from mgm_dali.profiling.advice import Facts
from mgm_dali.profiling.computing import Computing
from mgm_dali.profiling.costs import Costs
from mgm_dali.profiling.feeding import Graph
from mgm_dali.profiling.prepared import MADE_ANEW, Prepared
from mgm_dali.profiling.reading import Reading
from mgm_dali.profiling.step_time import StepTime, total_time
from mgm_dali.profiling.tasks import StepAsked

__all__ = ["costs_of", "facts_of", "train_gflops"]

SLOWER = 1.05
"""A stage that takes so much longer than those before it is what holds the graph up."""
BY_THE_STEP = ("optimiser", "averaging")
"""What computing does once a step, however many clips that has."""
WORTH_PREPARING = 0.85
"""More than this share of the time left is within the noise of a few clips."""


def costs_of(
    config: RunConfig, asked: StepAsked, reading: Reading, graph: Graph, computing: Computing
) -> Costs:
    """Everything by the clip, of a run whose steps are as asked."""
    repeats, batch = config.augment.repeats, config.training.batch_size
    clips_here = computing.num_clips * computing.passes_a_step
    steps = _computing_steps(computing, clips_here)
    here = Costs(
        worker_steps={name: time * (1 / repeats) for name, time in reading.steps.items()},
        worker=reading.whole * (1 / repeats),
        file_bytes=reading.file_bytes / repeats,
        graph_steps={name: time * (1 / batch) for name, time in _graph_steps(graph).items()},
        graph=graph.whole.each * (1 / batch),
        computing_steps=steps,
        computing=computing.whole.each * (1 / computing.num_clips),
    )
    share = clips_here / (batch * asked.passes)  # here a step may have fewer clips than in the run
    return here.computed_otherwise({name: steps[name] * share for name in BY_THE_STEP})


def facts_of(
    config: RunConfig,
    stage: str,
    asked: StepAsked,
    placement: Placement,
    costs: Costs,
    prepared: Prepared | None,
) -> Facts:
    """What advice depends on beside the costs."""
    return Facts(
        repeats=config.augment.repeats,
        batch_size=config.training.batch_size,
        accumulate_steps=asked.passes,
        has_global_batch=asked.global_batch is not None,
        motion_source=placement.motion_source,
        to_store=_to_store(config, placement),
        prepared=_left_by(prepared, costs) if prepared else None,
        prepared_bytes=prepared.bytes_share if prepared else 1.0,
        half_decoded=_half_decoded(config) if stage == "pretrain" else None,
    )


def train_gflops(config: RunConfig, stage: str) -> float:
    """GFLOP of one clip's training step by formula, the backward pass as two forward passes."""
    if stage == "pretrain":
        visible, hidden = _token_counts(config)
        decoded = decoded_count(hidden, config.mask.decoded_share)
        return 3 * forward_gflops(config.model, visible, decoded)
    return 3 * forward_gflops(config.model, token_grid(config.model).num_tokens)


def _computing_steps(computing: Computing, clips_a_step: int) -> dict[str, StepTime]:
    """What computing does for a clip, with averaging told from the step that it is a part of."""
    steps = {name: time * (1 / computing.num_clips) for name, time in computing.parts.items()}
    holder = max(("backward", "optimiser"), key=lambda name: steps[name].seconds)
    # It was timed alone, perhaps while others kept the machine busy: it is no more than its holder.
    averaging = computing.averaging * (1 / clips_a_step)
    averaging = StepTime(
        min(averaging.seconds, steps[holder].seconds),
        min(averaging.cpu_seconds, steps[holder].cpu_seconds),
    )
    return {**steps, holder: steps[holder] + averaging * -1, "averaging": averaging}


def _graph_steps(graph: Graph) -> dict[str, StepTime]:
    """What the graph does with a batch, as far as it can be told apart."""
    handed, whole = graph.hand_over.each, graph.whole.each
    if not graph.on_gpu:  # one stage's CPU time is not another's, even where they overlap
        share = min(handed.cpu_seconds / max(whole.cpu_seconds, 1e-9), 1.0)
        return {"hand over": whole * share, "augment": whole * (1 - share)}
    steps, slowest = {"hand over": handed}, handed.seconds
    copied = StepTime(graph.copy_seconds, 0.0)
    stages = {"decode": graph.decode.each if graph.decode else None, "copy": copied}
    for name, time in {**stages, "augment": whole}.items():
        if time is not None and time.seconds > SLOWER * slowest:
            steps[name], slowest = time, time.seconds
    return steps


def _to_store(config: RunConfig, placement: Placement) -> str:
    """What takes the same motion from a store, and leaves all else as it is."""
    extract, overrides = "mgm-dali extract", ["data.motion_store=STORE"]
    if config.motion.source != "auto":
        extract += f" --source {config.motion.source}"
        overrides.insert(0, "motion.source=store")
    if placement.device.type == "cuda" and config.decode == "auto":
        overrides.append("decode=cpu")  # else NVDEC would decode, and nobody knows how fast
    return f"{extract}, then {' '.join(overrides)}"


def _left_by(prepared: Prepared, costs: Costs) -> StepTime | None:
    """What is left of a worker's time for a clip, as shares."""
    after = prepared.after["index"] + prepared.after["decode"]
    before = prepared.before["index"] + prepared.before["decode"]
    if after.seconds > WORTH_PREPARING * before.seconds:
        return None
    ratio = after.seconds / before.seconds, after.cpu_seconds / before.cpu_seconds
    coded = total_time(costs.worker_steps[name] for name in MADE_ANEW)
    read = costs.worker_steps["read"]
    spared = [
        getattr(coded, kind) * (1 - left) + getattr(read, kind) * (1 - prepared.bytes_share)
        for kind, left in zip(("seconds", "cpu_seconds"), ratio, strict=True)
    ]
    return StepTime(1 - spared[0] / costs.worker.seconds, 1 - spared[1] / costs.worker.cpu_seconds)


def _half_decoded(config: RunConfig) -> float | None:
    """The share of forward and backward that is left when half of the hidden tokens are decoded."""
    if config.mask.decoded_share < 1:
        return None
    visible, hidden = _token_counts(config)
    half = forward_gflops(config.model, visible, decoded_count(hidden, 0.5))
    return half / forward_gflops(config.model, visible, hidden)


def _token_counts(config: RunConfig) -> tuple[int, int]:
    """Tokens of a clip that are visible and hidden."""
    grid = token_grid(config.model)
    hidden = grid.t * hidden_per_slice(config.mask.ratio, grid)
    return grid.num_tokens - hidden, hidden
