"""DeepSpeed's engine: one optimiser step of all ranks. The only file that imports it."""

import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.training.deepspeed_options import deepspeed_options
from mgm_dali.training.engine_state import EngineState
from mgm_dali.training.world import World

__all__ = ["Engine", "Network"]

Network = Callable[..., Any]
"""Computes a network's output of its inputs: an `Engine`, or what stands before one."""


class Engine:
    """A network that all ranks train together."""

    def __init__(
        self,
        network: Autoencoder | Classifier,
        groups: list[dict[str, Any]],
        config: RunConfig,
        world: World,
        average: ModelEmaV3 | None = None,
    ) -> None:
        """`groups` are AdamW's parameter groups, with an `lr_scale` where layers differ.

        `average` follows the weights from step to step.
        """
        self.network, self.average = network, average
        self.world = world
        assert config.training.zero_stage != "auto", "with_precision decides"
        self._stage = config.training.zero_stage
        optimizer = torch.optim.AdamW(
            groups,
            lr=0.0,  # set before every step
            betas=config.training.betas,
            fused=True,
        )
        self._optimizer, self._num_spoilt = optimizer, torch.zeros((), device=world.device)
        deepspeed = _import_deepspeed(world.device)
        from deepspeed.runtime.config import DeepSpeedConfigError

        options = deepspeed_options(config, world)
        try:
            self._engine, *_ = deepspeed.initialize(
                model=network, optimizer=optimizer, config=options
            )
        except (ValueError, AssertionError, DeepSpeedConfigError) as error:
            if not config.deepspeed:
                raise
            reason = " ".join(str(error).split())
            raise UserError(f"deepspeed: DeepSpeed refuses this section: {reason}") from error
        if world.size == 1 and self._stage == 0:
            self._engine.enable_backward_allreduce = False  # it would copy all gradients twice
        # Where DeepSpeed keeps float32 copies itself, it makes AdamW's state by a step of zeros.
        # That one must not count: the true first steps would be too short by a quarter.
        for state in optimizer.state.values():
            state["step"].zero_()
        self.state = EngineState(deepspeed, self._engine, optimizer, self._stage)

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups: the schedule writes `lr` into them."""
        groups: list[dict[str, Any]] = self._engine.optimizer.param_groups
        return groups

    @property
    def skipped_steps(self) -> int:
        """Steps since this process began that changed nothing: their gradients were not finite."""
        return int(self._engine.skipped_steps + self._num_spoilt)

    def close(self) -> None:
        """Frees what DeepSpeed keeps beside the network; not all of it with ZeRO 3."""
        self._engine.destroy()

    def __call__(self, *inputs: Any) -> Any:
        """The network's output."""
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of one forward pass; the last one of a step also averages ranks."""
        self._engine.backward(loss)

    def step(self) -> float | Tensor:
        """Ends a forward pass; the step's last one updates the weights. The gradient's norm."""
        own_norm: float | Tensor = 0.0
        is_last_pass = self._engine.is_gradient_accumulation_boundary()
        if self._stage == 0 and is_last_pass:
            # Asked before the step: without ZeRO and in float32 DeepSpeed keeps no norm.
            gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
            own_norm = torch.nn.utils.get_total_norm(gradients).float()
            if self._engine.optimizer is self._optimizer:
                # With ZeRO or low precision DeepSpeed leaves out such a step; else AdamW does, if
                # it is told to, without the host waiting for the norm.
                spoilt = (~own_norm.isfinite()).float()
                self._optimizer.found_inf = spoilt
                self._num_spoilt += spoilt
        try:
            self._engine.step()
        except Exception as error:
            if "loss scale already at minimum" not in str(error):
                raise
            raise UserError(
                "training.precision: fp16 overflows at every step, however small the loss is "
                "scaled; the last checkpoint is intact. In a new output_dir, try "
                "training.precision=bf16 or a lower training.base_lr"
            ) from None
        if is_last_pass and self.average is not None:
            self.average.update(self.network)
        norm: float | Tensor | None = self._engine.get_global_grad_norm()
        return own_norm if norm is None else norm


def _import_deepspeed(device: torch.device) -> Any:
    """The package, told which device it is for and to be quiet."""
    os.environ["DS_ACCELERATOR"] = device.type  # read once, at the first import
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # It calls functions of PyTorch by their old names.
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)
    import deepspeed

    deepspeed.utils.logging.logger.setLevel(logging.WARNING)
    if device.type == "cpu":
        # No compiled operators: the one for CPUs, an all-reduce in shared memory, waits for ever
        # for a rank that was killed, where gloo notices within a second; and probing which others
        # would compile takes seconds and prints the linker's complaints.
        deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    return deepspeed
