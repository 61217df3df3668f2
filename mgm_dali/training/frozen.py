"""The frozen encoder of a probe: which network the weights are, and what it says of a clip.

Letters: B clips, N = t * h * w tokens, D width, S tokens that are kept.
"""

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models import Autoencoder, Classifier, LoadReport, build_autoencoder, build_classifier
from mgm_dali.models.recognise import is_classifier, measure
from mgm_dali.models.vit import BACKBONES
from mgm_dali.models.weight_files import read_weights
from mgm_dali.training.loading import load_on_all_ranks
from mgm_dali.training.world import World

__all__ = ["FrozenEncoder", "open_encoder", "pool_tokens"]

_KEPT_FIELDS = {
    *("name", "attention", "num_frames", "image_size", "position_frames", "position_size"),
}
"""What of `model` the features depend on, besides the weights."""


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder that no longer learns."""

    network: Autoencoder | Classifier
    report: LoadReport

    @property
    def width(self) -> int:
        return BACKBONES[self.network.config.name].width

    def num_tokens(self, tokens_per_side: int) -> int:
        """Tokens of a clip that are kept. Raises `UserError` if a slice has fewer per side."""
        t, h, w = self.network.grid
        if tokens_per_side > min(h, w):
            raise UserError(
                f"probe.attentive.tokens_per_side: {tokens_per_side}, but a slice of this network "
                f"has {h} x {w} tokens; take {min(h, w)} for all of them"
            )
        return t * tokens_per_side**2

    def __call__(self, video: Tensor, num_tokens: int = 0) -> tuple[Tensor, Tensor | None]:
        """Of `[B, C, T, H, W]` the mean feature `[B, D]` float32, and tokens `[B, S, D]` float16.

        Of an autoencoder the mean of the encoder's normed tokens; of a classifier what its head
        reads, the norm of the mean, and its tokens before that norm.
        """
        tokens = self.network.encode(video)
        if isinstance(self.network, Classifier):
            mean = self.network.pool(tokens).float()
        else:
            mean = tokens.float().mean(dim=1)
        if not num_tokens:
            return mean, None
        per_side = math.isqrt(num_tokens // self.network.grid.t)
        return mean, pool_tokens(tokens.float(), self.network.grid, per_side).half()

    def identity(self) -> dict[str, Any]:
        """What the features depend on: a checksum of the weights, and the network's shape."""
        prefix = "encoder." if isinstance(self.network, Autoencoder) else ""
        digest = blake2b(digest_size=8)
        for name, tensor in sorted(self.network.state_dict().items()):
            if name.startswith(prefix) and not name.startswith("head."):
                digest.update(name.encode())
                digest.update(
                    tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                )
        shape = self.network.config.model_dump(mode="json", include=_KEPT_FIELDS)
        return {"weights": digest.hexdigest(), **{f"model.{k}": v for k, v in shape.items()}}


def open_encoder(config: RunConfig, world: World) -> FrozenEncoder:
    """The encoder of `model.init` on this rank's device. All ranks must call it.

    Weights that end in a classifier's head give a classifier, all others an autoencoder, whose
    decoder nobody asks. Raises `UserError`, on all ranks, if they cannot be read or do not fit.
    """
    source = config.model.init
    if source is None:
        raise UserError(
            "model.init: not set, and a probe looks at the features of weights; set it to a run "
            "folder, or to weights of anyone"
        )

    def look() -> tuple[bool, int]:
        found = read_weights(source)
        return is_classifier(found), measure(found)[2]

    with_head, decoder_depth = world.only_first(look, (False, 0))
    with_head, decoder_depth = bool(world.of_first(with_head)), world.of_first(decoder_depth)
    torch.manual_seed(config.seed)  # of a part that the weights lack
    network: Autoencoder | Classifier
    if with_head:
        network = build_classifier(config.model)
    else:
        depth = decoder_depth or config.model.decoder_depth
        network = build_autoencoder(config.model.model_copy(update={"decoder_depth": depth}))
    report = load_on_all_ranks(network, source, world)
    return FrozenEncoder(network.to(world.device).eval().requires_grad_(False), report)


def pool_tokens(tokens: Tensor, grid: tuple[int, int, int], per_side: int) -> Tensor:
    """`[B, t * h * w, D]` to `[B, t * per_side ** 2, D]`: means over parts of each slice."""
    t, h, w = grid
    batch, _, width = tokens.shape
    slices = tokens.reshape(batch * t, h, w, width).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(slices, per_side)
    return pooled.permute(0, 2, 3, 1).reshape(batch, t * per_side**2, width)
