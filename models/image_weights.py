"""An image network's weights (timm's vision transformers, DINOv2) as the start of a video encoder.

Letters: D width, p side of their patches, n their positions. Tokens of a clip that stands still are
those of its picture, but for the class token and the positions: every change is exact.
"""

import math
from dataclasses import replace

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES, ModelConfig
from mgm_dali.models.patches import CHANNELS
from mgm_dali.models.position import position_grid
from mgm_dali.models.vit import BACKBONES
from mgm_dali.models.weight_files import FoundWeights
from mgm_dali.models.written_for import WeightsError

__all__ = ["from_image_network"]

EMBEDDING = "encoder.patch_embed.proj.weight"
POSITIONS = "encoder.pos_embed"
MAX_PATCH_PIXELS = 64
NOT_TAKEN = {
    "cls_token": "clips have no class token",
    "dist_token": "clips have no class token",
    "reg_token": "clips have no register tokens",
    "register_tokens": "clips have no register tokens",
    "mask_token": "of images",
    "head": "of images",
    "fc_norm": "of images",
    "decoder": "of images",
}
"""What is left, by how its name begins, and why."""


def from_image_network(found: FoundWeights, config: ModelConfig) -> FoundWeights:
    """The same weights by VideoMAE's names, as the network of `config` takes them.

    The patch embedding is resized and spread over the frames of a tubelet, LayerScale is folded
    into the layers that it scales, `qkv.bias` becomes the biases of queries and values. Raises
    `WeightsError` if the network is of another kind.
    """
    start = _Conversion(found)
    start.require_known_layers()
    start.leave_what_is_of_images(config)
    start.embed_tubelets()
    start.split_biases()
    for name in [name for name in start.tensors if name.endswith((".ls1.gamma", ".ls2.gamma"))]:
        start.fold_scale(name)
    if POSITIONS not in start.left and POSITIONS in start.tensors:
        start.resample_positions(config)
    if config.attention == "divided":
        start.copy_to_time()
    return start.result()


class _Conversion:
    """The weights on their way: what is there by now, of what it was made, and how."""

    def __init__(self, found: FoundWeights) -> None:
        self.found = found
        self.tensors = dict(found.tensors)
        self.origins = dict(found.origins)
        self.changed: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.notes: list[str] = []

    def result(self) -> FoundWeights:
        return replace(
            self.found,
            tensors=self.tensors,
            origins=self.origins,
            changed=self.changed,
            left=self.left,
            notes=self.notes,
            learned_on_images=True,
        )

    def require_known_layers(self) -> None:
        if any(".mlp.w12." in name for name in self.tensors):
            raise WeightsError(
                f"{self.found.path}: its perceptrons are gated (SwiGLU, mlp.w12), ours are plain; "
                "take a model of the same family that is not (DINOv2: S, B or L)"
            )
        known = ("encoder.", *NOT_TAKEN)
        for name in self.tensors:
            if not name.startswith(known):
                raise WeightsError(
                    f"{self.found.path}: has {self.origins[name]}, which no vision transformer of "
                    "timm's or DINOv2's has that we know; save the parameters alone that it has"
                )

    def leave_what_is_of_images(self, config: ModelConfig) -> None:
        self.left = {
            name: why
            for name in self.tensors
            for start, why in NOT_TAKEN.items()
            if name.startswith(start)
        }
        if POSITIONS in self.tensors and not BACKBONES[config.name].learned_positions:
            self.left[POSITIONS] = f"{config.name} has a fixed table of places and times"

    def embed_tubelets(self) -> None:
        """`[D, 3, p, p]` to `[D, 3, 2, 16, 16]`; another normalisation of pixels is folded in."""
        bias_name = EMBEDDING.replace("weight", "bias")
        weight, bias = self.tensors[EMBEDDING].float(), self._tensor(bias_name).float()
        shape, side = list(weight.shape), weight.shape[-1]
        width = bias.numel()
        fits = shape == [width, CHANNELS, side, side] and bias.ndim == 1
        if not fits or not 1 <= side <= MAX_PATCH_PIXELS:
            raise WeightsError(
                f"{self.found.path}: {EMBEDDING} is {shape}; expected square patches of RGB, "
                f"[{width}, {CHANNELS}, p, p] with p up to {MAX_PATCH_PIXELS}"
            )
        steps = [f"inflated from {shape}"]
        if side != PATCH_PIXELS:
            weight = resample_patch_embed(weight, [PATCH_PIXELS, PATCH_PIXELS])
            steps.insert(0, f"resized from {side} x {side} pixels")
        if change := self._change_of_pixels():
            scale, shift = change
            bias = bias + torch.einsum("dchw,c->d", weight, shift)
            weight = weight * scale[:, None, None]
            self.changed[bias_name] = "its pixels' mean folded in"
            steps.append("its pixels' deviation folded in")
        halves = weight.unsqueeze(2) / TUBELET_FRAMES
        self.tensors[EMBEDDING] = halves.repeat(1, 1, TUBELET_FRAMES, 1, 1)
        self.tensors[bias_name] = bias
        self.changed[EMBEDDING] = ", ".join(steps)

    def _change_of_pixels(self) -> tuple[Tensor, Tensor] | None:
        """Of `theirs = scale * ours + shift`, for normalised pixels: `[3]` each; None: the same."""
        written = self.found.written_for
        if written is None or written.pixel_mean is None or written.pixel_std is None:
            self.notes.append(
                "the file does not say how pixels were normalised: taken for ImageNet's"
            )
            return None
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        their_mean, their_std = torch.tensor(written.pixel_mean), torch.tensor(written.pixel_std)
        if torch.allclose(mean, their_mean) and torch.allclose(std, their_std):
            return None
        return std / their_std, (mean - their_mean) / their_std

    def split_biases(self) -> None:
        """Every block's `qkv.bias` to those of queries and values, which some files have as such.

        Raises `WeightsError` unless all blocks have the one, all the other, or none any.
        """
        qkv = [name for name in self.tensors if name.endswith(".attn.qkv.weight")]
        blocks = [name.removesuffix("qkv.weight") for name in qkv]
        joint = [each for each in blocks if f"{each}qkv.bias" in self.tensors]
        apart = [e for e in blocks if {f"{e}q_bias", f"{e}v_bias"} & self.tensors.keys()]
        if len(joint) not in (0, len(blocks)) or len(apart) not in (0, len(blocks) - len(joint)):
            raise WeightsError(
                f"{self.found.path}: of {len(blocks)} blocks {len(joint)} have qkv.bias and "
                f"{len(apart)} q_bias or v_bias, which no vision transformer of timm's has; save "
                "all its parameters again"
            )
        for block in blocks if not apart else []:
            self._split_bias(block)

    def _split_bias(self, attention: str) -> None:
        """`[3D]` to q_bias and v_bias; that of keys has no effect."""
        width = self.tensors[EMBEDDING].shape[0]
        name = f"{attention}qkv.bias"
        bias, how = self.tensors.pop(name, None), "of qkv.bias; that of keys has no effect"
        origin = self.origins.pop(name, "")
        if bias is None:
            bias, how = torch.zeros(3 * width), "0, for the file has no qkv.bias"
        if list(bias.shape) != [3 * width]:
            raise WeightsError(
                f"{self.found.path}: {name} is {list(bias.shape)}, expected [{3 * width}]; "
                "this is no vision transformer of timm's"
            )
        for part, place in (("q_bias", 0), ("v_bias", 2)):
            self.tensors[attention + part] = bias[place * width : (place + 1) * width]
            self.origins[attention + part], self.changed[attention + part] = origin, how

    def fold_scale(self, name: str) -> None:
        """LayerScale's `[D]` into the linear map whose output it scales."""
        gamma, origin = self.tensors.pop(name).float(), self.origins.pop(name)
        block = name.removesuffix(".ls1.gamma").removesuffix(".ls2.gamma")
        layer = f"{block}.attn.proj" if name.endswith(".ls1.gamma") else f"{block}.mlp.fc2"
        for key in (f"{layer}.weight", f"{layer}.bias"):
            tensor = self._tensor(key).float()
            if gamma.shape != tensor.shape[:1] or tensor.ndim > 2:
                raise WeightsError(
                    f"{self.found.path}: {name} is {list(gamma.shape)} and scales {key}, which is "
                    f"{list(tensor.shape)}; this is no vision transformer of timm's"
                )
            self.tensors[key] = tensor * (gamma[:, None] if tensor.ndim == 2 else gamma)
            self.origins[key] += f" + {origin}"
            self.changed[key] = "LayerScale folded in"

    def resample_positions(self, config: ModelConfig) -> None:
        """`[1, n, D]` to the grid of the clips' places; class and register tokens have none."""
        table, grid = self.tensors[POSITIONS].float(), position_grid(config)
        count = table.shape[1] if table.ndim == 3 else 0
        num_registers = sum(
            self.tensors[name].shape[1]
            for name in ("reg_token", "register_tokens")
            if name in self.tensors and self.tensors[name].ndim == 3
        )
        num_class = 2 if "dist_token" in self.tensors else 1
        for num_prefix in (0, num_class, num_registers, num_class + num_registers):
            side = math.isqrt(max(count - num_prefix, 0))
            if side > 0 and side**2 == count - num_prefix:
                break
        else:
            raise WeightsError(
                f"{self.found.path}: pos_embed is {list(table.shape)}, which is no square of places"
            )
        table, steps = table[:, num_prefix:], []
        if num_prefix:
            steps.append(f"without its first {num_prefix}, which no place has")
        if (side, side) != grid[1:]:
            table = resample_abs_pos_embed(table, list(grid[1:]), num_prefix_tokens=0)
            steps.append(f"resized from {side} x {side} places")
        self.tensors[POSITIONS] = table
        if steps:
            self.changed[POSITIONS] = ", ".join(steps)

    def copy_to_time(self) -> None:
        """Attention over time begins as a copy of that over space (as TimeSformer's does)."""
        for name in list(self.tensors):
            for space in (".attn.", ".norm1."):
                if name.startswith("encoder.blocks.") and space in name:
                    copy = name.replace(space, f".temporal_{space[1:]}")
                    self.tensors[copy] = self.tensors[name].clone()
                    self.origins[copy] = self.origins[name]
                    self.changed[copy] = "; ".join(
                        filter(None, (self.changed.get(name), f"copied from {space[1:-1]}"))
                    )

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise WeightsError(
                f"{self.found.path}: lacks {self.found.origins.get(name, name)}; this is no vision "
                "transformer of timm's"
            )
        return self.tensors[name]
