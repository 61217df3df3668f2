"""What `end_to_end.py` times: whole trainings, each in a process of its own with its workers.

    stdin    {"task": "ours", "arguments": {"stretch": {...}, "clips": [...], "threads": 2, ...}}
    stdout   {"cpu_seconds": 41.0, "wall_seconds": 23.1, "waited_share": 0.02, "frames": 256}

Some steps warm up; then the clocks run from one batch's arrival to a later one's, so that between
them lie whole steps, each with the wait for the batch that comes next.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loader_worker import CLIP_FRAMES, IMAGE_SIZE, Clips, Stretch
from peer_worker import answer_orders

sys.path.append(str(Path(__file__).parents[1]))  # as in loader_worker.py


class Enough(Exception):
    """All that is measured has been done; what ends a run would take time and disk."""


class Clock:
    """Looks at the time where batches arrive."""

    def __init__(self, stretch: Stretch) -> None:
        self._begin, self._end = stretch.num_warm_up, stretch.num_warm_up + stretch.num_batches
        self._arrived = 0
        self.wall_seconds = self.cpu_seconds = 0.0

    def arrived(self) -> None:
        """A step's batch is there. Raises `Enough` behind the last step that is measured."""
        from mgm_dali.profiling.clocks import cpu_seconds

        if self._arrived == self._begin:
            self.wall_seconds, self.cpu_seconds = -time.perf_counter(), -cpu_seconds()
        if self._arrived == self._end:
            self.wall_seconds += time.perf_counter()
            self.cpu_seconds += cpu_seconds()
            raise Enough
        self._arrived += 1

    def waited_share(self, waits: Sequence[float]) -> float:
        """Of the time; `waits` has the seconds of each step, the first ones included."""
        return sum(waits[self._begin : self._end]) / self.wall_seconds


def ours(stretch: Stretch, clips: Clips, clock: Clock, config: dict[str, Any]) -> list[float]:
    """`mgm-dali pretrain` as it is; raises `ValueError` if it shows other clips than planned.

    Seconds that each step waited for its batch, as the run itself has written them down.
    """
    from mgm_dali.config import RunConfig
    from mgm_dali.pipelines.placement import choose_device
    from mgm_dali.training.loop import train
    from mgm_dali.training.metrics import read_steps
    from mgm_dali.training.pretrain import prepared_pretraining
    from mgm_dali.training.supervision import supervised
    from mgm_dali.training.world import join_world

    rows = iter([clip["row"] for clip in clips])
    with TemporaryDirectory(prefix="mgm-dali-bench-") as folder:
        run = RunConfig.model_validate({**config, "output_dir": folder})
        world = join_world(choose_device(run))
        with supervised(world, run) as supervision, suppress(Enough):
            run, task = prepared_pretraining(run, world)
            plain_loss = task.loss

            def loss(network: Any, batch: Any) -> Any:
                clock.arrived()
                found = batch.index.tolist()
                if found != list(islice(rows, len(found))):
                    raise ValueError(f"shows other clips than planned: rows {found}")
                return plain_loss(network, batch)

            train(run, replace(task, loss=loss), world, supervision)
        steps = read_steps(Path(folder) / "metrics.jsonl")
    each = stretch.batch_size
    return [step["data_wait_share"] * each / step["clips_per_second"] for step in steps]


def peer(
    stretch: Stretch, clips: Clips, clock: Clock, config: dict[str, Any], network: str
) -> list[float]:
    """decord, Pillow, PyTorch's loader and tubes made by it; one of the plain networks."""
    import decord  # noqa: F401  # before workers start: if it is missing, that is the reason
    from peer_loaders import read_with_decord, torch_batches
    from step_contenders import Setup, plain_step

    from mgm_dali.config import RunConfig

    run, size = RunConfig.model_validate(config), stretch.batch_size
    setup = Setup(run.model, run.mask.ratio, run.training.precision, size, run.device)
    step = plain_step(network, setup)
    read = partial(read_with_decord, size=IMAGE_SIZE)
    pinned = run.device == "cuda"
    batches = torch_batches(clips, read, size, stretch.num_workers, pin_memory=pinned)
    waits = []
    with suppress(Enough):
        while True:
            asked = time.perf_counter()
            video, mask = (each.to(run.device, non_blocking=True) for each in next(batches))
            waits.append(time.perf_counter() - asked)
            clock.arrived()
            float(step(video, mask))  # VideoMAE looks at each step's loss, and so waits for it
    return waits


TASKS: dict[str, Callable[..., list[float]]] = {"ours": ours, "peer": peer}


def measure(task: str, arguments: dict[str, Any]) -> dict[str, float]:
    """CPU and wall seconds of the steps that are measured, and the share of waiting for data."""
    import torch

    torch.set_num_threads(arguments.pop("threads"))
    stretch = Stretch(**arguments.pop("stretch"))
    clock = Clock(stretch)
    waits = TASKS[task](stretch, clock=clock, **arguments)
    return {
        "cpu_seconds": clock.cpu_seconds,
        "wall_seconds": clock.wall_seconds,
        "waited_share": clock.waited_share(waits),
        "frames": stretch.num_batches * stretch.batch_size * CLIP_FRAMES,
    }


if __name__ == "__main__":
    answer_orders(measure)
