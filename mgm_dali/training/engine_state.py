"""An engine's state by parameter name: alike for every ZeRO stage, precision and number of ranks.

DeepSpeed's own checkpoints are a set of pickles for each rank: as many ranks must read them again,
at the same stage, and reading a pickle runs what is in it. Here every parameter has three whole
float32 tensors, as in DeepSpeed's universal format, and nothing is run.

    weights      what AdamW updates: the float32 weights, not the rounded ones the network may have
    exp_avg      AdamW's mean of the gradients
    exp_avg_sq   AdamW's mean of their squares
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["KINDS", "MOMENTS", "Counters", "EngineState"]

MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("weights", *MOMENTS)

_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What a dynamic loss scaler (fp16) remembers."""


@dataclass(frozen=True)
class Counters:
    """Everything of an engine's state that is not a tensor."""

    adamw_step: int
    global_steps: int
    """DeepSpeed's own count, for what it prints and profiles."""
    loss_scaler: dict[str, int | float]


class EngineState:
    """Reads and writes the state of a DeepSpeed engine around an AdamW.

    At stage 0 AdamW holds whole tensors: the parameters themselves, or float32 copies of them. From
    stage 1 on each rank holds its part, and DeepSpeed puts the parts together.
    """

    def __init__(
        self, deepspeed: Any, engine: Any, adamw: torch.optim.Optimizer, stage: int
    ) -> None:
        self._deepspeed, self._engine, self._adamw, self._stage = deepspeed, engine, adamw, stage

    def shapes(self) -> dict[str, torch.Size]:
        """Of every parameter, whole: at stage 3 a rank holds a part only."""
        named = self._engine.module.named_parameters()
        return {name: getattr(p, "ds_shape", p.shape) for name, p in named}

    def read(self, kind: str, *, keep: bool) -> dict[str, Tensor]:
        """One of `KINDS`, of every parameter: float32, on the host; empty unless `keep`.

        All ranks must call it.
        """
        self._make_room()
        found = {}
        masters = self._masters()
        for name, parameter in self._engine.module.named_parameters():
            whole = self._read(parameter, kind, masters)
            if keep:
                found[name] = whole.detach().to("cpu", torch.float32, copy=True)
        return found

    def write(self, kind: str, tensor_of: Callable[[str, torch.Size], Tensor]) -> None:
        """Sets one of `KINDS` from whole float32 tensors by name and shape. All ranks must call it.

        They lie on the engine's device and are the same on all ranks.
        """
        self._make_room()
        masters, shapes = self._masters(), self.shapes()
        for name, parameter in self._engine.module.named_parameters():
            self._write(parameter, kind, tensor_of(name, shapes[name]), masters)

    def counters(self) -> Counters:
        """What `set_counters` takes."""
        self._make_room()
        scaler = self._loss_scaler()
        return Counters(
            adamw_step=int(max(state["step"] for state in self._adamw.state.values())),
            global_steps=self._engine.global_steps,
            loss_scaler={key: getattr(scaler, key) for key in _SCALER} if scaler else {},
        )

    def set_counters(self, counters: Counters) -> None:
        """Sets what `counters` gave."""
        self._make_room()
        for state in self._adamw.state.values():
            state["step"].fill_(counters.adamw_step)
        self._engine.global_steps = counters.global_steps
        self._engine.global_samples = counters.global_steps * self._engine.train_batch_size()
        if scaler := self._loss_scaler():
            for key in counters.loss_scaler.keys() & set(_SCALER):
                setattr(scaler, key, counters.loss_scaler[key])

    def _loss_scaler(self) -> Any:
        """fp16's; other numbers are not scaled, whatever DeepSpeed has for them."""
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        return scaler if getattr(scaler, "dynamic", False) else None

    def _make_room(self) -> None:
        """Makes AdamW's moments, which it makes itself only when it steps for the first time."""
        for tensor in self._updated_by_adamw():
            state = self._adamw.state[tensor]
            if state:
                continue
            state["step"] = torch.zeros((), device=tensor.device)
            for moment in MOMENTS:
                state[moment] = torch.zeros_like(tensor, requires_grad=False)
        optimizer = self._engine.optimizer
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            # DeepSpeed does it once, inside the first group's first step: the others' are missed.
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    def _updated_by_adamw(self) -> list[Tensor]:
        """Stage 3 lends AdamW its tensors for the moment of a step only."""
        if self._stage == 3:
            flat: list[Tensor] = self._engine.optimizer.fp32_partitioned_groups_flat
            return flat
        return [tensor for group in self._adamw.param_groups for tensor in group["params"]]

    def _masters(self) -> dict[int, Tensor]:
        """Without ZeRO and in low precision: AdamW's float32 copy of each parameter, by its id."""
        optimizer = self._engine.optimizer
        if self._stage or not hasattr(optimizer, "fp32_groups"):
            return {}
        groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        return {id(p): copy for low, full in groups for p, copy in zip(low, full, strict=True)}

    def _read(self, parameter: nn.Parameter, kind: str, masters: dict[int, Tensor]) -> Tensor:
        utils = self._deepspeed.utils
        if self._stage:
            if kind == "weights":
                whole: Tensor = utils.safe_get_full_fp32_param(parameter)
            else:
                whole = utils.safe_get_full_optimizer_state(parameter, kind)
            return whole
        master = masters.get(id(parameter), parameter)
        if kind == "weights":
            return master
        moment: Tensor = self._adamw.state[master][kind]
        return moment

    @torch.no_grad()
    def _write(
        self, parameter: nn.Parameter, kind: str, whole: Tensor, masters: dict[int, Tensor]
    ) -> None:
        utils = self._deepspeed.utils
        if kind != "weights":
            if self._stage:
                utils.safe_set_full_optimizer_state(parameter, whole, kind)
            else:
                self._adamw.state[masters.get(id(parameter), parameter)][kind].copy_(whole)
            return
        if self._stage:
            utils.safe_set_full_fp32_param(parameter, whole)
        elif id(parameter) in masters:
            masters[id(parameter)].copy_(whole)
        # Also what the network computes with: DeepSpeed copies it only behind a step.
        with self._deepspeed.zero.GatheredParameters(
            [parameter], modifier_rank=0, enabled=self._stage == 3
        ):
            parameter.copy_(whole)
