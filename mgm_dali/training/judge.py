"""Judges a run every so many steps, and remembers which step was best."""

import logging
import math
from collections.abc import Callable

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.runs.checkpoint_files import Best, best_of, write_best
from mgm_dali.training.engine import Engine
from mgm_dali.training.judging import Judgement, Watcher
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.progress import Progress
from mgm_dali.training.schedule import is_due

__all__ = ["Judge", "require_judged_data"]

logger = logging.getLogger(__name__)


def require_judged_data(config: RunConfig, share: Share, *, needs_motion: bool) -> None:
    """Raises `UserError` if the run would not find what it is to be judged on, hours later."""
    if config.training.evaluate_every_steps is None:
        return
    if config.data.val is None:
        raise UserError(
            "training.evaluate_every_steps: there is nothing to judge on; set data.val to a "
            "manifest, or leave it out"
        )
    ClipLoader(config, "evaluate", share, needs_motion=needs_motion).close()


class Judge:
    """What `training.evaluate_every_steps` asks for; called with a step that has a checkpoint."""

    def __init__(
        self,
        config: RunConfig,
        judgement: Judgement,
        engine: Engine,
        progress: Progress,
        doing: Callable[[str], None],
    ) -> None:
        """What is judged are the engine's weights, or their average if it has one."""
        self._config, self._judgement = config, judgement
        self._engine, self._progress = engine, progress
        self._watcher = Watcher(progress.log.line, lambda: doing("judging"))

    def is_due(self, step: int) -> bool:
        return is_due(self._config.training.evaluate_every_steps, step)

    def was_cut_off(self, step: int) -> bool:
        """Whether a run was ended between this step's checkpoint and its judgement."""
        if step == 0 or not self.is_due(step):
            return False
        lacks = False
        if self._engine.world.is_first:
            path = self._config.output_dir / "metrics.jsonl"
            known = read_metrics(path) if path.exists() else []
            measure = self._judgement.measure
            lacks = not any(line["step"] == step and measure in line for line in known)
        return bool(self._engine.world.of_first(lacks))

    def __call__(self, step: int) -> None:
        """Judges the newest weights, or their average. All ranks must call it."""
        self._watcher.goes_on()
        if self._engine.average is not None:
            weights = dict(self._engine.average.module.state_dict())
        else:
            weights = self._engine.state.read("weights", keep=True)
        world = self._engine.world
        numbers = self._judgement.judge(self._config, world, weights, self._watcher)
        self._progress.metrics.write({"step": step, **numbers})
        if world.is_first:
            self._keep_if_best(step, numbers[self._judgement.measure])
        self._progress.open()

    def _keep_if_best(self, step: int, value: float) -> None:
        """What is no number is never the best; another measure or list of videos begins anew."""
        if not math.isfinite(value):
            return
        run, measure = self._config.output_dir, self._judgement.measure
        new = Best(step, measure, value, str(self._config.data.val))
        best = best_of(run)
        sign = 1 if self._judgement.higher_is_better else -1
        if best and (best.measure, best.data) == (new.measure, new.data):
            if sign * value <= sign * best.value:
                return
        try:
            write_best(run, new)
        except OSError as error:
            logger.warning("best.json cannot be written (%s)", error)
            return
        self._progress.log.line(f"step {step}  {measure} {value:.4f}: the best so far, kept")
