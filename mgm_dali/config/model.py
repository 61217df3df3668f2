"""The network's section of a configuration.

What the name decides is filled in at once, so that it is kept with the weights.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from mgm_dali.config.section import Section

__all__ = ["PATCH_PIXELS", "TUBELET_FRAMES", "ModelConfig"]

PATCH_PIXELS = 16
TUBELET_FRAMES = 2


class ModelConfig(Section):
    """The network; sizes by name are in mgm_dali/models/vit.py."""

    name: Literal[
        "vit_micro",
        "vit_tiny",
        "vit_small",
        "vit_base",
        "vit_large",
        "vit_huge",
        "timesformer_base",
    ] = "vit_base"
    """The encoder; `vit_micro` is for the demo and the tests."""
    attention: Literal["joint", "divided"] = "joint"
    """Over all tokens of the clip at once, or over time and then over space. Empty is `divided` for
    `timesformer_base`, the one backbone that can, and `joint` for all others."""
    num_frames: int = Field(16, ge=2)
    """Frames in a clip; a multiple of 2, the tubelet's length."""
    image_size: int = Field(224, ge=32)
    """Height and width of a clip in pixels; a multiple of 16, the patch's side."""
    num_classes: int | None = Field(None, ge=2)
    """Classes of the classifier; empty takes the number named beside the training manifest."""
    position_frames: int | None = Field(None, ge=2)
    """Frames of the clips that the positions are those of; the table is stretched to this network's
    own grid. Empty: `num_frames`. Give it for weights that have learned on other clips."""
    position_size: int | None = Field(None, ge=32)
    """The same for height and width in pixels. Empty: `image_size`."""
    init: Path | None = None
    """Weights to start from: a run folder, .safetensors, a Hugging Face folder, official .pth, or
    an image network's of timm or DINOv2."""
    decoder_depth: int = Field(4, ge=1)
    """Blocks of the pretraining decoder. Empty is what VideoMAE's scripts take: 12 for `vit_large`
    and `vit_huge`, else 4."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth of the last block, rising linearly from 0 in the first."""
    head_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the classifier's last layer."""

    @property
    def position_clip(self) -> tuple[int, int]:
        """Frames, and height and width in pixels, of the clips that the positions are those of."""
        return self.position_frames or self.num_frames, self.position_size or self.image_size

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        """Fills in what the name decides, so that it is kept with the weights."""
        if not isinstance(values, dict):
            return values
        name = values.get("name")
        deep, divided = name in ("vit_large", "vit_huge"), name == "timesformer_base"
        decided = {
            "decoder_depth": 12 if deep else 4,
            "attention": "divided" if divided else "joint",
        }
        return values | {key: v for key, v in decided.items() if values.get(key) is None}

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        for key in ("num_frames", "position_frames"):
            if (getattr(self, key) or 0) % TUBELET_FRAMES:
                raise ValueError(f"{key}: {getattr(self, key)} is not a multiple of 2")
        for key in ("image_size", "position_size"):
            if (getattr(self, key) or 0) % PATCH_PIXELS:
                raise ValueError(f"{key}: {getattr(self, key)} is not a multiple of {PATCH_PIXELS}")
        return self

    @model_validator(mode="after")
    def _can_divide(self) -> Self:
        if self.attention == "divided" and self.name != "timesformer_base":
            raise ValueError(f"attention: {self.name} attends jointly; divided is timesformer_base")
        return self
