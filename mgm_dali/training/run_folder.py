"""The configuration a run folder belongs to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgm_dali.config import RunConfig, dump_config, load_config
from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.training.engine import World

__all__ = ["keep_config"]

MAY_CHANGE = (
    *("training.checkpoint_every_steps", "training.keep_checkpoints", "training.log_every_steps"),
    *("data.num_workers", "data.prefetch_batches", "data.max_skipped", "data.val", "evaluation"),
)
"""What a resumed run may have otherwise: it changes none of the numbers that come."""


def keep_config(run: Path, config: RunConfig, world: World) -> None:
    """Writes RUN/config.yaml; all ranks must call it.

    Raises `UserError` if the folder belongs to a run whose numbers would be others.
    """
    path = run / "config.yaml"
    if path.exists():
        before = load_config(path).model_dump(mode="json")
        changes = _differences(before, config.model_dump(mode="json"))
        fixed = sorted(change for change in changes if not change.startswith(MAY_CHANGE))
        if fixed:
            raise UserError(
                f"{run}: holds a run with another configuration ({'; '.join(fixed)}); use another "
                "output_dir, or the same configuration to resume it"
            )
    world.barrier()  # nobody writes before all have read
    if world.is_first:
        write_whole(path, dump_config(config))


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in before.keys() | now.keys():
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old} -> {new}"
