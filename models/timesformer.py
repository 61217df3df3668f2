"""TimeSformer's divided attention (Bertasius et al., ICML 2021), also where tokens are dropped.

Letters: B clips, t slices of h x w tokens, N = t * h * w tokens, K of them present, D width.

First each token looks at those of its place in other slices, then at those of its own slice. Where
a mask hides tokens, both are attention over the K that are left, and each is allowed those alone:
groups are then of unequal size, and no shape waits for their counts.
"""

from dataclasses import dataclass

from timm.layers import DropPath
from torch import Tensor, nn

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.models.attention import Attention
from mgm_dali.models.block import MLP_RATIO, NORM_EPSILON
from mgm_dali.models.linear import Linear, Mlp

__all__ = ["DividedBlock", "Groups", "group_tokens", "start_without_time"]


@dataclass(frozen=True)
class Groups:
    """Which tokens look at each other over time, and which over space."""

    grid: PatchGrid
    same_place: Tensor | None
    """bool `[B, K, K]`; None: all tokens of the grid are there, in order."""
    same_slice: Tensor | None


def group_tokens(grid: PatchGrid, index: Tensor | None) -> Groups:
    """The groups of the tokens `index` `[B, K]`; None: of all."""
    if index is None:
        return Groups(grid, None, None)
    place, time = index % (grid.h * grid.w), index // (grid.h * grid.w)
    same_place, same_slice = (of.unsqueeze(2) == of.unsqueeze(1) for of in (place, time))
    return Groups(grid, same_place, same_slice)


class DividedBlock(nn.Module):
    """Pre-norm block: attention over time, then over space, then a two-layer perceptron."""

    def __init__(self, width: int, num_heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.temporal_norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.temporal_attn = Attention(width, num_heads)
        self.temporal_fc = Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = Mlp(width, MLP_RATIO * width)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """`[B, K, D]` to `[B, K, D]`."""
        over_time = self._over_time(self.temporal_norm1(x), groups)
        x = x + self.temporal_fc(self.drop_path(over_time))
        x = x + self.drop_path(self._over_space(self.norm1(x), groups))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x

    def _over_time(self, x: Tensor, groups: Groups) -> Tensor:
        if groups.same_place is not None:
            mixed: Tensor = self.temporal_attn(x, allowed=groups.same_place)
            return mixed
        t, h, w = groups.grid
        places = x.view(len(x), t, h * w, -1).transpose(1, 2)  # [B hw t D]
        mixed = self.temporal_attn(places.flatten(0, 1)).view(places.shape)
        return mixed.transpose(1, 2).flatten(1, 2)

    def _over_space(self, x: Tensor, groups: Groups) -> Tensor:
        if groups.same_slice is not None:
            mixed: Tensor = self.attn(x, allowed=groups.same_slice)
            return mixed
        mixed = self.attn(x.view(len(x) * groups.grid.t, -1, x.shape[-1]))
        return mixed.view(x.shape)


def start_without_time(blocks: nn.ModuleList) -> None:
    """Lets attention over time begin as nothing, in all blocks but the first (as TimeSformer's)."""
    for block in blocks[1:]:
        if isinstance(block, DividedBlock):
            nn.init.zeros_(block.temporal_fc.weight)
            nn.init.zeros_(block.temporal_fc.bias)
