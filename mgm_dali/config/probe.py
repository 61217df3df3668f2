"""The probe section of a configuration: what is learned on the features of a frozen encoder.

The defaults are published settings where there are some; the family of VideoMAE published none.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mgm_dali.config.section import Section

__all__ = ["AttentiveProbeConfig", "KnnProbeConfig", "LinearProbeConfig", "ProbeConfig"]

Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
Decays = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


class LinearProbeConfig(Section):
    """A linear layer on standardised mean features, as in MAE (He et al., CVPR 2022, A.1).

    The grid is every rate of both optimisers with every weight decay, trained side by side.
    """

    epochs: int = Field(90, ge=1)
    """Passes over the training videos (MAE: 90)."""
    warmup_epochs: int = Field(10, ge=0)
    """Epochs of linear warm-up from 0, at most half of all (MAE: 10)."""
    batch_size: int = Field(1024, ge=3)
    """Videos a step, at most: a smaller set takes a 16th of itself, though not less than 32. With 2
    one video could be left over, of which alone there is no deviation."""
    sgd_rates: Rates = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Peak learning rates of SGD with momentum 0.9, as they are: not scaled with the batch."""
    lars_rates: Rates = (0.64, 2.0, 6.4, 20.0, 64.0, 200.0)
    """The same of LARS (You et al. 2017; MAE: 6.4, its 0.1 for a batch of 16384)."""
    weight_decays: Decays = (0.0, 1e-4)
    """Of the weights, not of the bias (MAE: 0)."""


class AttentiveProbeConfig(Section):
    """One block of cross-attention with one learned query, as in V-JEPA (Bardes et al. 2024).

    The grid is V-JEPA 2's; V-JEPA's own setting, 1e-3 and 0.01, is in it.
    """

    epochs: int = Field(20, ge=1)
    """Passes over the training videos (V-JEPA: 20)."""
    batch_size: int = Field(256, ge=1)
    """Videos a step, at most, with the same rule for small sets as in `linear`."""
    rates: Rates = (1e-4, 3e-4, 1e-3, 3e-3, 5e-3)
    """Peak learning rates of AdamW; a cosine without warm-up follows."""
    weight_decays: Decays = (0.01, 0.1, 0.4, 0.8)
    """Of all but biases and norms."""
    num_heads: int = Field(16, ge=1)
    """Of the attention; the encoder's width must be a multiple."""
    tokens_per_side: int = Field(2, ge=1)
    """Each slice's tokens are averaged into so many by so many before they are kept, because all
    of them (14 for 224 pixels) are 2.4 MB a view for ViT-B; 1 is the mean over space."""


class KnnProbeConfig(Section):
    """Weighted nearest neighbours by cosine, as in DINO (Caron et al., ICCV 2021)."""

    neighbours: Counts = (20,)
    """How many vote; of several the best on the held-out videos is taken (DINO: 10, 20, 100, 200;
    20 was its best)."""
    temperature: float = Field(0.07, ge=0.01)
    """A neighbour's vote is exp(cosine / temperature)."""


class ProbeConfig(Section):
    """What `mgm-dali probe` learns on frozen features, and how its settings are chosen."""

    kinds: tuple[Literal["linear", "attentive", "knn"], ...] = Field(
        ("linear", "attentive", "knn"), min_length=1
    )
    """The table is `PROBES` in mgm_dali/training/probe.py."""
    train_segments: int = Field(2, ge=1)
    """Clips spread over the length of each training video; every epoch shows one of its views."""
    train_crops: int = Field(1, ge=1)
    """Square crops spread over the longer side, for each of these."""
    held_out_share: float = Field(0.1, gt=0, lt=1)
    """Share of the training videos of each class on which settings are compared; then the best one
    is trained again on all. `data.val` has no part in it."""
    linear: LinearProbeConfig = LinearProbeConfig()
    attentive: AttentiveProbeConfig = AttentiveProbeConfig()
    knn: KnnProbeConfig = KnnProbeConfig()

    @field_validator("kinds")
    @classmethod
    def _each_once(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(kinds)) < len(kinds):
            raise ValueError("names a kind twice")
        return kinds
