"""The attentive probe: one learned query looks at a clip's tokens, then a linear layer classifies.

As in V-JEPA (Bardes et al. 2024): one block of cross-attention with a perceptron. Theirs looks at
the tokens of all of a video's clips at once; ours at one clip's, and views are merged as usual.

Letters: B clips, S tokens, D width, C classes, G settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from mgm_dali.config.probe import ProbeConfig
from mgm_dali.models.block import MLP_RATIO, NORM_EPSILON
from mgm_dali.models.linear import Mlp
from mgm_dali.training.feature_store import FeatureTable
from mgm_dali.training.probe_data import (
    Classify,
    Examples,
    Fitting,
    cosine_factor,
    epoch_of_batches,
    mean_of_views,
    steps_per_epoch,
)

__all__ = ["AttentiveHead", "AttentiveSetting", "attentive_settings", "fit_attentive"]

INITIAL_STD = 0.02


@dataclass(frozen=True)
class AttentiveSetting:
    """One point of the grid."""

    learning_rate: float
    weight_decay: float


def attentive_settings(config: ProbeConfig) -> list[AttentiveSetting]:
    """Every learning rate with every weight decay."""
    options = config.attentive
    return [
        AttentiveSetting(rate, decay) for rate in options.rates for decay in options.weight_decays
    ]


class AttentiveHead(nn.Module):
    """`head(tokens)`: `[B, S, D]` to logits `[B, C]`."""

    def __init__(self, width: int, num_heads: int, num_classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = Mlp(width, MLP_RATIO * width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.query.expand(len(tokens), -1, -1)
        tokens = self.norm1(tokens)
        x = query + self.attention(query, tokens, tokens, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        logits: Tensor = self.head(x[:, 0])
        return logits


def fit_attentive(
    settings: Sequence[AttentiveSetting], train: Examples, fitting: Fitting
) -> Classify:
    """Trains a head for each setting on the same batches; they begin alike.

    The attention's heads must divide the width.
    """
    options, width = fitting.config.attentive, train.table.spec.width
    start = _initialised(AttentiveHead(width, options.num_heads, fitting.num_classes), fitting.seed)
    heads = nn.ModuleList(
        AttentiveHead(width, options.num_heads, fitting.num_classes) for _ in settings
    )
    for head in heads:
        head.load_state_dict(start.state_dict())
    heads.to(fitting.device)
    steps = steps_per_epoch(len(train), options.batch_size) * options.epochs
    optimiser = AdamW(
        [group for s, h in zip(settings, heads, strict=True) for group in _groups(s, h)]
    )
    schedule = LambdaLR(optimiser, partial(cosine_factor, steps=steps, warmup_steps=0))
    for epoch in range(options.epochs):
        for batch in epoch_of_batches(train, "tokens", options.batch_size, epoch, fitting):
            optimiser.zero_grad()
            for head in heads:  # one behind the other: only one's activations are kept
                F.cross_entropy(head(batch.features), batch.labels).backward()  # type: ignore[no-untyped-call]
                fitting.goes_on()
            optimiser.step()
            schedule.step()
    return partial(_probabilities, heads.eval())


def _initialised(head: AttentiveHead, seed: int) -> AttentiveHead:
    """Matrices and the query from a truncated normal, biases 0, as V-JEPA's."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in head.named_parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=INITIAL_STD, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return head


def _groups(setting: AttentiveSetting, head: nn.Module) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in head.parameters() if parameter.ndim == 1]
    return [
        {"params": matrices, "lr": setting.learning_rate, "weight_decay": setting.weight_decay},
        {"params": others, "lr": setting.learning_rate, "weight_decay": 0.0},
    ]


@torch.no_grad()
def _probabilities(heads: nn.ModuleList, table: FeatureTable, rows: NDArray[np.int64]) -> Tensor:
    device = next(heads.parameters()).device
    tokens = table.take("tokens", rows).float().to(device).flatten(0, 1)
    by_view = torch.stack([head(tokens).double().softmax(dim=-1) for head in heads])
    by_video = by_view.view(len(heads), len(rows), -1, by_view.shape[-1]).permute(1, 2, 0, 3)
    return mean_of_views(by_video, table.is_read[rows]).transpose(0, 1)
