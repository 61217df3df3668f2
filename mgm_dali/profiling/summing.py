"""From what was measured to what a clip costs."""

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import RunConfig
from mgm_dali.masking import decoded_count, hidden_per_slice
from mgm_dali.models.flops import forward_gflops
from mgm_dali.profiling.advice import Facts
from mgm_dali.profiling.computing import Computing
from mgm_dali.profiling.costs import Costs, StepTime
from mgm_dali.profiling.feeding import Graph
from mgm_dali.profiling.prepared import Prepared
from mgm_dali.profiling.reading import Reading

__all__ = ["costs_of", "facts_of", "train_gflops"]


def costs_of(
    reading: Reading,
    graph: Graph,
    computing: Computing,
    batch_size: int,
    config: RunConfig,
    accumulated: int,
) -> Costs:
    """Everything by the clip; `batch_size` clips are in a batch of the graph.

    The optimiser's part is shared by the `accumulated` forward passes of a step.
    """
    repeats = config.augment.repeats
    seconds, cpu_seconds = (value / batch_size for value in graph.whole.each())
    graph_steps = _graph_steps(graph, batch_size)
    scale = seconds / sum(graph_steps.values())
    clips = computing.num_clips
    steps = {name: _divided(time, clips) for name, time in computing.parts.items()}
    saved = steps["optimiser"].seconds * (1 - 1 / accumulated)
    steps["optimiser"] = _divided(steps["optimiser"], accumulated)
    step, step_cpu = (value / clips for value in computing.whole.each())
    kept = 1 - saved / step
    return Costs(
        worker_steps={name: _divided(time, repeats) for name, time in reading.steps.items()},
        worker=_divided(reading.whole, repeats),
        graph_steps={name: time * scale for name, time in graph_steps.items()},
        graph=StepTime(seconds, cpu_seconds),
        network_steps=steps,
        network=StepTime(step * kept, step_cpu * kept),
    )


def facts_of(
    config: RunConfig,
    stage: str,
    prepared: Prepared | None,
    accumulated: int,
    motion_source: str | None,
) -> Facts:
    """What advice depends on beside the costs."""
    return Facts(
        repeats=config.augment.repeats,
        batch_size=config.training.batch_size,
        accumulate_steps=accumulated,
        motion_source=motion_source,
        prepared=_left_by(prepared) if prepared else None,
        half_decoded=_half_decoded(config) if stage == "pretrain" else None,
    )


def train_gflops(config: RunConfig, stage: str) -> float:
    """GFLOP of one clip's training step by formula, the backward pass as two forward passes."""
    if stage == "pretrain":
        visible, hidden = _token_counts(config)
        decoded = decoded_count(hidden, config.mask.decoded_share)
        return 3 * forward_gflops(config.model, visible, decoded)
    return 3 * forward_gflops(config.model, token_grid(config.model).num_tokens)


def _graph_steps(graph: Graph, batch_size: int) -> dict[str, float]:
    """Seconds a clip of what the graph does, as far as they can be told apart.

    On a CPU by CPU time, because there the stages overlap.
    """
    place = 0 if graph.on_gpu else 1
    handed = graph.hand_over.each()[place] / batch_size
    decoded = graph.decode.each()[place] / batch_size if graph.decode else handed
    whole = graph.whole.each()[place] / batch_size
    copied = graph.copy_seconds / batch_size
    return {
        "hand over": handed,
        "decode": max(decoded - handed, 0.0),
        "copy": copied,
        "augment": max(whole - decoded - copied, 0.0),
    }


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


def _left_by(prepared: Prepared) -> tuple[float, float]:
    before, after = prepared.before, prepared.after
    return after.seconds / before.seconds, after.cpu_seconds / before.cpu_seconds


def _divided(time: StepTime, number: int) -> StepTime:
    return StepTime(time.seconds / number, time.cpu_seconds / number)
