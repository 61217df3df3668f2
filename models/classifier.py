"""The classifier that pretrained weights are finetuned into.

Letters: B clips, C = 3 channels, T frames, H W pixels, N = t * h * w tokens, D width.

    video -> tokens -> trunk -> mean over tokens -> norm -> dropout -> linear -> logits
"""

from timm.layers import trunc_normal_
from torch import Tensor, nn

from mgm_dali.config import ModelConfig
from mgm_dali.errors import UserError
from mgm_dali.models.block import NORM_EPSILON
from mgm_dali.models.linear import Linear
from mgm_dali.models.patches import patchify
from mgm_dali.models.timesformer import start_without_time
from mgm_dali.models.vit import BACKBONES, TokenTrunk, check_video

__all__ = ["Classifier", "build_classifier"]

HEAD_SCALE = 0.001
"""Shrinks the new head, so that finetuning starts from nearly equal logits (VideoMAE's scripts)."""


class Classifier(TokenTrunk):
    """`classifier(video)` gives logits; parameters are named as in VideoMAE's finetuned files."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config)
        width = BACKBONES[config.name].width
        self.config = config
        self.fc_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.head_dropout = nn.Dropout(config.head_dropout)
        self.head = Linear(width, num_classes)
        self.apply(_initialise_linear)
        start_without_time(self.blocks)
        self.head.weight.data.mul_(HEAD_SCALE)

    def forward(self, video: Tensor) -> Tensor:
        """`[B, C, T, H, W]` (RGB, ImageNet mean and deviation) to logits `[B, num_classes]`.

        Raises ValueError for a video of another size than the configuration's.
        """
        logits: Tensor = self.head(self.head_dropout(self.features(video)))
        return logits

    def encode(self, video: Tensor) -> Tensor:
        """All tokens behind the last block, `[B, N, D]`."""
        return self.encode_tokens(patchify(check_video(video, self.config)))

    def pool(self, tokens: Tensor) -> Tensor:
        """Of `encode`'s tokens what the head reads: the normalised mean, `[B, D]`."""
        pooled: Tensor = self.fc_norm(tokens.mean(dim=1))
        return pooled

    def features(self, video: Tensor) -> Tensor:
        """What the head reads: the normalised mean of all tokens, `[B, D]`."""
        return self.pool(self.encode(video))

    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that must not decay, for timm's optimisers."""
        return {"pos_embed", "time_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, str | list[tuple[str, None]]]:
        """Layers for timm's layer-wise learning rates (BEiT's rule).

        Embedding and positions are layer 0, block i is layer i + 1, `fc_norm` and `head` are the
        last layer: timm puts what matches nothing there. `coarse` makes all blocks one layer.
        """
        stem = r"^patch_embed|^pos_embed|^time_embed"
        return {"stem": stem, "blocks": r"^blocks" if coarse else r"^blocks\.(\d+)"}


def build_classifier(config: ModelConfig) -> Classifier:
    """A new classifier of this size; its weights follow from torch's global random state.

    Raises `UserError` when `config.num_classes` is not set.
    """
    if config.num_classes is None:
        raise UserError(
            "model.num_classes: not set, and a classifier needs it; "
            "set model.num_classes to the number of classes of the labelled videos"
        )
    return Classifier(config, config.num_classes)


def _initialise_linear(module: nn.Module) -> None:
    """Truncated normal as in VideoMAE's finetuning; the embedding keeps torch's default."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
