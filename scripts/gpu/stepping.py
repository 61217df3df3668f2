"""Pretraining steps as `mgm-dali pretrain` takes them, alone in their world, on a batch at rest."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu.configs import model_for
from gpu.setting import Setting
from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig, RunConfig
from mgm_dali.masking import hidden_per_slice, make_mask
from mgm_dali.models import build_autoencoder
from mgm_dali.models.flops import attention_shapes, forward_gflops
from mgm_dali.models.kernels import measure_kernels
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.training.computing import DTYPES, prepare, with_kernel, with_precision
from mgm_dali.training.engine import Engine
from mgm_dali.training.world import join_world

__all__ = ["Stepper", "free_memory"]


@dataclass
class Stepper:
    """A network with its optimiser, and steps of any batch size and mask ratio."""

    setting: Setting
    config: RunConfig
    engine: Engine
    kernel: str
    """What computes attention, and why."""
    kernels: dict[str, float | str]
    """Milliseconds of a step's attention by each kernel, or why it cannot be used."""

    @classmethod
    def of(
        cls,
        setting: Setting,
        name: str,
        *,
        deepspeed: Mapping[str, object] | None = None,
        **training: object,
    ) -> "Stepper":
        """The network of that name, in bf16 on a GPU; `training` is laid over the defaults."""
        from timm.optim import param_groups_weight_decay  # behind mgm_dali.models, never before

        tree = {
            "device": setting.device,
            "output_dir": setting.folder / "never written",
            "model": model_for(setting, name),
            "training": {"batch_size": setting.pick(32, 2), **training},
            "deepspeed": dict(deepspeed or {}),
        }
        config = RunConfig.model_validate(tree)
        world = join_world(choose_device(config))
        config, _ = with_precision(config, world)
        torch.manual_seed(0)
        network = build_autoencoder(config.model)
        visible = token_grid(config.model).num_tokens - _num_hidden(config.model, 0.75)
        shapes = attention_shapes(config.model, config.training.batch_size, visible)
        dtype = DTYPES[config.training.precision]
        config, kernel = with_kernel(config, shapes, world, dropped_tokens=True)
        prepare(network, config)
        kept = tuple(network.no_weight_decay())
        groups = param_groups_weight_decay(network, 0.05, no_weight_decay_list=kept)
        _, kernels = measure_kernels(tuple(shapes), dtype, world.device)  # remembered
        return cls(setting, config, Engine(network, groups, config, world), kernel, kernels)

    def step(self, batch: int, ratio: float) -> Callable[[], Tensor]:
        """A step on the same noise again and again, with masks of its own motion."""
        model, device = self.config.model, self.engine.world.device
        grid, size = token_grid(model), model.image_size
        video = torch.randn(batch, 3, model.num_frames, size, size, device=device)
        motion = torch.randn(batch, model.num_frames, size // 8, size // 8, 2, device=device)
        valid = torch.ones(batch, model.num_frames, dtype=torch.bool, device=device)
        known = valid[:, :, None, None].expand(motion.shape[:-1])
        seed = torch.arange(batch, device=device)
        masking = self.config.mask.model_copy(update={"ratio": ratio})
        num_hidden = _num_hidden(model, ratio)

        def step() -> Tensor:
            mask = make_mask(motion, valid, seed, grid, masking, known)
            loss: Tensor = self.engine(video, mask, num_hidden, None, num_hidden)
            self.engine.backward(loss)
            self.engine.step()
            return loss.detach()

        return step

    def close(self) -> None:
        """Frees what its engine keeps; its steps are over."""
        self.engine.close()

    def step_gflops(self, ratio: float) -> float:
        """Of one clip, as VideoMAE computes it; a backward pass counts as two forward passes."""
        model = self.config.model
        return 3 * forward_gflops(model, token_grid(model).num_tokens - _num_hidden(model, ratio))


def free_memory() -> None:
    """Gives back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _num_hidden(model: ModelConfig, ratio: float) -> int:
    grid = token_grid(model)
    return grid.t * hidden_per_slice(ratio, grid)
