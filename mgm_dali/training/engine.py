"""DeepSpeed: joining the other ranks, and the engine that steps. The only file that imports it."""

import atexit
import logging
import os
import socket
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models import Autoencoder, Classifier

__all__ = ["Engine", "World", "deepspeed_options", "join_world"]


_NOT_DEEPSPEEDS = {"amp", "optimizer", "scheduler"}


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.size > 1:
            torch.distributed.barrier()

    def require(self, problem: str | None) -> None:
        """Raises `UserError` on all ranks if one of them has a problem. All ranks must call it.

        A rank that raised alone would leave the others waiting for it.
        """
        if self.sum(torch.tensor([float(problem is not None)], device=self.device)):
            raise UserError(problem or "stopped: another rank cannot go on, see its message")

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the ranks, in place, on all of them."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value


def join_world(device: torch.device) -> World:
    """Joins the other ranks, for the rest of this process's life.

    Ranks come from the launcher's environment (deepspeed, torchrun); without one, this process is
    the whole world. A second call gives the same world: DeepSpeed cannot join twice.
    """
    deepspeed = _import_deepspeed(device)
    distributed = torch.distributed
    if not distributed.is_initialized():
        if "RANK" not in os.environ:
            os.environ.update({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
            os.environ.update(LOCAL_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=_free_port())
        if device.type == "cuda":
            torch.cuda.set_device(device)
        deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", verbose=False)
        atexit.register(distributed.destroy_process_group)
    return World(distributed.get_rank(), distributed.get_world_size(), device)


def deepspeed_options(config: RunConfig, world: World) -> dict[str, Any]:
    """DeepSpeed's configuration: what ours says, and the user's `deepspeed:` section around it.

    Raises `UserError` if the two say different things of one option.
    """
    training = config.training
    if taken := sorted(_NOT_DEEPSPEEDS & config.deepspeed.keys()):
        raise UserError(
            f"deepspeed.{taken[0]}: is not DeepSpeed's to choose here; the training section says "
            "precision, optimiser and schedule"
        )
    batch = training.batch_size * training.accumulate_steps * world.size
    ours = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": training.batch_size,
        "gradient_accumulation_steps": training.accumulate_steps,
        "gradient_clipping": training.gradient_clipping,
        "zero_optimization": {"stage": training.zero_stage},
        "bf16": {"enabled": training.precision == "bf16"},
        "fp16": {"enabled": training.precision == "fp16"},
    }
    defaults = {"steps_per_print": 10**9, "zero_force_ds_cpu_optimizer": False}
    return _merge(ours, {**defaults, **config.deepspeed}, "deepspeed")


class Engine:
    """A network that all ranks train together."""

    def __init__(
        self,
        network: Autoencoder | Classifier,
        groups: list[dict[str, Any]],
        config: RunConfig,
        world: World,
    ) -> None:
        """`groups` are AdamW's parameter groups, with an `lr_scale` where layers differ."""
        self.network = network
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
        self._skipped_before = 0
        self._deepspeed = _import_deepspeed(world.device)
        self._engine, *_ = self._deepspeed.initialize(
            model=network,
            optimizer=optimizer,
            config=deepspeed_options(config, world),
        )
        if world.size == 1 and self._stage == 0:
            self._engine.enable_backward_allreduce = False  # it would copy all gradients twice
        # Where DeepSpeed keeps float32 copies itself, it makes AdamW's state by a step of zeros.
        # That one must not count: the true first steps would be too short by a quarter.
        for state in optimizer.state.values():
            state["step"].zero_()

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups: the schedule writes `lr` into them."""
        groups: list[dict[str, Any]] = self._engine.optimizer.param_groups
        return groups

    @property
    def skipped_steps(self) -> int:
        """Steps since this process began that changed nothing: their gradients were not finite."""
        return int(self._engine.skipped_steps - self._skipped_before + self._num_spoilt)

    def __call__(self, *inputs: Any) -> Any:
        """The network's output."""
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of one forward pass; the last one of a step also averages ranks."""
        self._engine.backward(loss)

    def step(self) -> float | Tensor:
        """Ends a forward pass; the step's last one updates the weights. The gradient's norm."""
        own_norm: float | Tensor = 0.0
        if self._stage == 0 and self._engine.is_gradient_accumulation_boundary():
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
        norm: float | Tensor | None = self._engine.get_global_grad_norm()
        return own_norm if norm is None else norm

    def full_weights(self) -> dict[str, Tensor]:
        """The float32 weights by name, on the host of every rank. All ranks must call it."""
        optimizer, get_sharded = (
            self._engine.optimizer,
            self._deepspeed.utils.safe_get_full_fp32_param,
        )
        masters: dict[int, Tensor] = {}
        if hasattr(optimizer, "fp32_groups"):  # bf16 without ZeRO: whole float32 copies
            for low_group, full_group in zip(
                optimizer.fp16_groups, optimizer.fp32_groups, strict=True
            ):
                masters.update(zip(map(id, low_group), full_group, strict=True))
        weights = {}
        for name, parameter in self.network.named_parameters():
            full = get_sharded(parameter) if self._stage else masters.get(id(parameter))
            weights[name] = (parameter if full is None else full).detach().float().cpu().clone()
        return weights

    def save(self, folder: Path) -> None:
        """Writes the state of all ranks into a folder. All ranks must call it."""
        self._engine.save_checkpoint(str(folder), tag="state", save_latest=False)

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote. Raises `UserError` if nothing is found there."""
        path, _ = self._engine.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise UserError(f"{folder}: holds no DeepSpeed state; remove this checkpoint folder")
        self._skipped_before = self._engine.skipped_steps
        for group in self.parameter_groups:
            group["fused"] = True  # what was saved may say otherwise, and would win


def _import_deepspeed(device: torch.device) -> Any:
    """The package, told which device it is for and to be quiet."""
    os.environ["DS_ACCELERATOR"] = device.type  # read once, at the first import
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed

    deepspeed.utils.logging.logger.setLevel(logging.WARNING)
    if device.type == "cpu":
        # No compiled operators: the one for CPUs, an all-reduce in shared memory, waits for ever
        # for a rank that was killed, where gloo notices within a second; and probing which others
        # would compile takes seconds and prints the linker's complaints.
        deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    return deepspeed


def _merge(ours: dict[str, Any], users: dict[str, Any], where: str) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in users.items():
        if isinstance(value, dict) and isinstance(ours.get(key), dict):
            merged[key] = _merge(ours[key], value, f"{where}.{key}")
        elif key in ours and ours[key] != value:
            raise UserError(
                f"{where}.{key}: {value!r} contradicts {ours[key]!r}, which follows from the "
                "training section; change it there and remove it here"
            )
        else:
            merged[key] = value
    return merged


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
