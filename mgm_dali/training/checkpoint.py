"""Writes and reads a run's state: complete or invisible, and for any number of ranks.

A checkpoint is written beside its name, synced, and renamed; older ones go only after that. Before
one is read, every byte of it is checked, and if one has flipped, the checkpoint before is taken.
Only the first rank touches the files, and tells the others what it has read.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mgm_dali.config import RunConfig
from mgm_dali.models.saving import save_weights
from mgm_dali.runs.checkpoint_files import (
    Position,
    average_beside,
    checkpoint_folder,
    complete,
    complete_steps,
    partial_folder,
    prune,
    remove_partial,
    weights_file,
)
from mgm_dali.training.engine import Engine
from mgm_dali.training.engine_state import KINDS, Counters

__all__ = ["load_checkpoint", "save_checkpoint"]

logger = logging.getLogger(__name__)

EMA = "ema.safetensors"
_COUNTERS = TypeAdapter(Counters)
_REMOVE = "remove this checkpoint's folder to go on from the one before"


def save_checkpoint(engine: Engine, config: RunConfig, position: Position) -> None:
    """Writes checkpoint and weights of this step. All ranks must call it.

    Raises `UserError`, on all ranks, if the weights are no longer numbers or the disk is full;
    what was complete before stays.
    """
    run, world = config.output_dir, engine.world
    partial = partial_folder(run, position.step)
    copies = len(KINDS) + 1 + (2 if engine.average else 0)
    problem = None
    if world.is_first:
        problem = _problem_of(partial, _begin, partial, engine, copies)
    world.require(problem)
    for kind in KINDS:
        tensors = engine.state.read(kind, keep=world.is_first)
        if tensors and problem is None:
            problem = _problem_of(partial, _write, kind, tensors, engine, config, position.step)
    counters = engine.state.counters()
    if world.is_first and problem is None:
        problem = _problem_of(partial, _finish, engine, config, position, counters)
    if world.is_first:
        _tidy(run, config, position.step, saved=problem is None)
    world.require(problem)


def _tidy(run: Path, config: RunConfig, step: int, *, saved: bool) -> None:
    """Makes room: of what is old, or of a save that failed. What cannot be removed ends nothing."""
    try:
        if saved:
            prune(run, config.training)
            return
        remove_partial(run)
        if step not in complete_steps(run):
            weights = weights_file(run, step)
            for file in (weights, average_beside(weights)):
                file.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: old checkpoints cannot be removed (%s)", run, error)


def _begin(partial: Path, engine: Engine, copies: int) -> str | None:
    """Makes the folder; says if the disk has too little space for so many copies of the weights."""
    remove_partial(partial.parents[1])
    partial.mkdir(parents=True)
    shapes = engine.state.shapes().values()
    needed = copies * 4 * sum(shape.numel() for shape in shapes)
    free = shutil.disk_usage(partial).free
    if free >= needed:
        return None
    return (
        f"{partial}: a checkpoint needs about {needed / 2**20:.0f} MiB, {free / 2**20:.0f} are "
        "free; the checkpoints before are intact. Free some space and run the same command"
    )


def _write(
    kind: str, tensors: dict[str, Tensor], engine: Engine, config: RunConfig, step: int
) -> str | None:
    """One of `KINDS` into the partial checkpoint; weights also as a file for everybody."""
    if kind == "weights":
        if not all(bool(weight.isfinite().all()) for weight in tensors.values()):
            # Steps whose gradient is not finite are left out; but weights can grow too large.
            return (
                f"step {step}: the weights are no longer finite, so they were not saved; the "
                "checkpoint before is intact. In a new output_dir, try a lower training.base_lr or "
                "training.gradient_clipping=1.0"
            )
        named = weights_file(config.output_dir, step)
        save_weights(engine.network, config.model, named, tensors)
    save_file(tensors, partial_folder(config.output_dir, step) / f"{kind}.safetensors")
    return None


def _finish(engine: Engine, config: RunConfig, position: Position, counters: Counters) -> None:
    """The rest: average, counters and position, then checksums and the name."""
    run, step = config.output_dir, position.step
    partial, beside = partial_folder(run, step), average_beside(weights_file(run, step))
    if engine.average is not None:
        state = _average_of(engine)
        save_weights(engine.network, config.model, beside, state)
        save_file(state, partial / EMA)
    else:
        beside.unlink(missing_ok=True)  # of a former run over this step, which kept one
    (partial / "counters.json").write_text(json.dumps(asdict(counters)))
    (partial / "position.json").write_text(json.dumps(asdict(position)))
    complete(run, step)


def _problem_of(path: Path, write: Callable[..., str | None], *arguments: object) -> str | None:
    """What `write` says is wrong, or why it failed."""
    try:
        return write(*arguments)
    except (OSError, RuntimeError, SafetensorError) as error:
        return (
            f"{path}: could not be written ({error}); the checkpoints before it are intact. If it "
            "is for want of space, free some; the same command goes on"
        )


def load_checkpoint(engine: Engine, config: RunConfig, step: int) -> list[str]:
    """Reads a whole checkpoint; lines for the log on what is not as it was. All ranks must call it.

    Weights that somebody has removed from RUN/weights are written there again. Raises `UserError`,
    on all ranks, if the checkpoint belongs to another network.
    """
    world, folder = engine.world, checkpoint_folder(config.output_dir, step)
    world.require(_why_unfit(engine, folder) if world.is_first else None)
    for kind in KINDS:
        engine.state.write(kind, _reader(engine, folder / f"{kind}.safetensors"))
    text = (folder / "counters.json").read_text() if world.is_first else ""
    engine.state.set_counters(_COUNTERS.validate_json(world.text_of_first(text)))
    return [*_load_average(engine, folder), *_restore_weights(engine, config, step)]


def _load_average(engine: Engine, folder: Path) -> list[str]:
    has_average = bool(engine.world.of_first((folder / EMA).exists()))
    if engine.average is None:
        dropped = "average    is dropped: training.ema_decay is 0, the checkpoint has one"
        return [dropped] * has_average
    tensor_of = _reader(engine, folder / (EMA if has_average else "weights.safetensors"))
    for name, tensor in engine.average.module.state_dict().items():
        tensor.copy_(tensor_of(name, tensor.shape))
    if has_average:
        return []
    return ["average    begins with the resumed weights: the checkpoint has none"]


def _restore_weights(engine: Engine, config: RunConfig, step: int) -> list[str]:
    """What finetuning takes, and the run's own last judgement."""
    world, weights = engine.world, weights_file(config.output_dir, step)
    files = {weights: lambda: engine.state.read("weights", keep=world.is_first)}
    if engine.average is not None:
        files[average_beside(weights)] = lambda: _average_of(engine)
    gone = [path for path in files if not world.of_first(path.exists())]
    for path in gone:
        state, problem = files[path](), None
        if world.is_first:
            problem = _problem_of(path, save_weights, engine.network, config.model, path, state)
        world.require(problem)
    return [f"{path}: was gone, and is written again" for path in gone]


def _average_of(engine: Engine) -> dict[str, Tensor]:
    assert engine.average is not None
    state = engine.average.module.state_dict()
    return {name: tensor.cpu().contiguous() for name, tensor in state.items()}


def _reader(engine: Engine, path: Path) -> Callable[[str, torch.Size], Tensor]:
    """Gives tensors of a file by name, on the engine's device, the same on all ranks."""
    world = engine.world
    file = safe_open(path, framework="pt") if world.is_first else None

    def tensor_of(name: str, shape: torch.Size) -> Tensor:
        tensor = torch.empty(shape) if file is None else file.get_tensor(name)  # type: ignore[no-untyped-call]
        return world.from_first(tensor.to(world.device))

    return tensor_of


def _why_unfit(engine: Engine, folder: Path) -> str | None:
    """Its bytes are those that were written, but who knows by what."""
    wanted = {f"{kind}.safetensors": engine.state.shapes() for kind in KINDS}
    if engine.average is not None and (folder / EMA).exists():
        wanted[EMA] = {n: t.shape for n, t in engine.average.module.state_dict().items()}
    try:
        _COUNTERS.validate_json((folder / "counters.json").read_bytes())
        for name, shapes in wanted.items():
            if problem := _why_another(folder / name, shapes):
                return problem
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]["msg"]
        return f"{folder / 'counters.json'}: is not what a run writes ({problem}); {_REMOVE}"
    except (OSError, SafetensorError) as error:
        return f"{folder / name}: cannot be read as safetensors ({error}); {_REMOVE}"
    return None


def _why_another(path: Path, shapes: Mapping[str, torch.Size]) -> str | None:
    with safe_open(path, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    names = sorted(found.keys() | shapes.keys())
    wrong = next((n for n in names if found.get(n) != shapes.get(n)), None)
    if wrong is None:
        return None
    there, here = (str(tuple(s[wrong])) if wrong in s else "not there" for s in (found, shapes))
    return (
        f"{path}: belongs to another network: {wrong} is {there}, here it is {here}; set the model "
        "section to what it was, or start a new run with model.init"
    )
