"""The detector of actions: what the people in given boxes do.

Letters: B clips, C = 3 channels, T frames, H W pixels, D width, t h w the grid of tokens, P people.

    video -> tokens -> trunk -> norm -> mean over time -> RoIAlign -> maximum -> linear -> logits

As VideoMAE and SlowFast do it for AVA: the boxes are given, and cut what is known of the clip.
"""

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mgm_dali.config import PATCH_PIXELS, ModelConfig
from mgm_dali.models.classifier import Classifier

__all__ = ["Detector"]


class Detector(Classifier):
    """`detector(video, boxes)` gives logits of each box; parameters are named as a classifier's.

    So it takes the weights of one that was finetuned, all but its head, and of pretraining.
    """

    def __init__(self, config: ModelConfig, num_actions: int, box_cells: int) -> None:
        """Each box is read at `box_cells` by `box_cells` places."""
        super().__init__(config, num_actions)
        self.box_cells = box_cells

    def forward(self, video: Tensor, boxes: Tensor) -> Tensor:  # type: ignore[override]
        """`[B, C, T, H, W]` and `[P, 5]` to `[P, actions]`.

        A box is the number of its clip, then x1, y1, x2, y2 in the clip's pixels, float32. Raises
        ValueError for a video of another size than the configuration's.
        """
        pooled = self.box_features(self.encode(video), boxes)
        logits: Tensor = self.head(self.head_dropout(pooled))
        return logits

    def box_features(self, tokens: Tensor, boxes: Tensor) -> Tensor:
        """The strongest of what the normed tokens say in each box, `[P, D]`."""
        t, h, w = self.grid
        plane = self.fc_norm(tokens).unflatten(1, (t, h, w)).mean(dim=1)  # [B, h, w, D]
        # Where its operators do not load, torchvision would compile a stand-in for minutes.
        with torch.compiler.set_stance("force_eager"):
            cells: Tensor = roi_align(
                plane.permute(0, 3, 1, 2).float(),  # it does not know bfloat16
                boxes,
                self.box_cells,
                spatial_scale=1 / PATCH_PIXELS,
                aligned=True,
            )
        return cells.amax(dim=(2, 3)).to(tokens.dtype)
