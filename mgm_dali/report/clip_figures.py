"""What is drawn of one clip: `CLIP_FIGURES` is the whole list."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mgm_dali.clips.grid import PatchGrid, token_grid
from mgm_dali.config import MaskConfig, RunConfig
from mgm_dali.errors import UserError
from mgm_dali.masking import NEEDS_MOTION, make_mask
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.models.attention_maps import attention_map
from mgm_dali.report.clips import ShownClip, read_shown_clip, to_bytes
from mgm_dali.report.draw import attention_strip, cover_hidden, mask_strip, reconstruction_strip
from mgm_dali.report.motion_drawings import arrow_strip, wheel_strip
from mgm_dali.report.options import ShowOptions
from mgm_dali.report.reconstruction import reconstructed_frames
from mgm_dali.report.strips import Strip

__all__ = ["CLIP_FIGURES", "NEEDS_NETWORK", "Subject"]


@dataclass(frozen=True)
class Subject:
    """One clip, and what is asked of it."""

    config: RunConfig
    manifest: Path
    options: ShowOptions
    network: Autoencoder | Classifier | None = None
    """For the figures in NEEDS_NETWORK."""
    row: int = 0
    needs_motion: bool = True
    """False where no figure shows it."""

    @cached_property
    def clip(self) -> ShownClip:
        """Read when it is first looked at. Raises `UserError` if the video cannot be read."""
        return self.read(self.config)

    def read(self, config: RunConfig) -> ShownClip:
        """The same clip, as another configuration has it."""
        needs_motion = self.needs_motion or config.mask.strategy in NEEDS_MOTION
        return read_shown_clip(config, self.manifest, self.row, needs_motion)


def motion(subject: Subject) -> dict[str, Strip]:
    """Arrows on the frames, and direction and strength as colours."""
    clip = subject.clip
    return {
        "motion": arrow_strip(clip.frames, clip.motion),
        "motion-wheel": wheel_strip(clip.frames, clip.motion),
    }


def masks(subject: Subject) -> dict[str, Strip]:
    """What each strategy hides of the clip.

    Each looks at motion as a run with this strategy would: `flow_warp` at that since the sampled
    frame before, unless `motion.accumulate` says otherwise.
    """
    clips = {subject.config.accumulates_motion: subject.clip}
    hidden = {}
    for name in subject.options.masks:
        mask = subject.config.mask.model_copy(update={"strategy": name})
        config = subject.config.model_copy(update={"mask": mask})
        window = config.accumulates_motion
        if window not in clips:
            clips[window] = subject.read(config)
        hidden[name] = _mask(clips[window], mask)
    clip = clips.get(False, subject.clip)
    title = f"What is hidden from the model{_changes(subject.config.mask)}"
    return {"masks": mask_strip(clip.frames, hidden, clip.motion, title)}


def reconstruction(subject: Subject) -> dict[str, Strip]:
    """The clip, what the network saw of it, and what it made.

    Raises `UserError` if the network is a classifier.
    """
    network, clip, config = subject.network, subject.clip, subject.config.mask
    leak = subject.options.leak_statistics
    if not isinstance(network, Autoencoder):
        raise UserError(
            "reconstruction: these weights have no decoder, they are a classifier's or an "
            "encoder's; give a pretrained run, or --only attention"
        )
    hidden = _mask(clip, config)
    with torch.inference_mode():
        mask = torch.from_numpy(hidden.reshape(1, -1))
        made = reconstructed_frames(network, clip.batch.video, mask, leak)
    note = f"mask: {config.strategy.replace('_', ' ')}, {hidden.mean():.0%} hidden"
    if leak:
        note += "; brightness and contrast of hidden patches are borrowed from the original"
    masked = cover_hidden(clip.frames, hidden)
    strip = reconstruction_strip(clip.frames, masked, to_bytes(made[0]), note)
    return {"reconstruction": strip}


def attention(subject: Subject) -> dict[str, Strip]:
    """Where one token looks when the whole clip is encoded.

    Raises `UserError` for a layer or a token that is not there.
    """
    network, clip = subject.network, subject.clip
    assert network is not None, "asked for with weights only"
    grid = network.grid
    trunk = network.encoder if isinstance(network, Autoencoder) else network
    depth = len(trunk.blocks)
    layer = depth if subject.options.layer is None else subject.options.layer
    if not 1 <= layer <= depth:
        raise UserError(f"--layer {layer}: the encoder has the layers 1 to {depth}")
    query = subject.options.query or (grid.t // 2, grid.h // 2, grid.w // 2)
    if not all(0 <= place < size for place, size in zip(query, grid, strict=True)):
        raise UserError(
            f"--query {','.join(map(str, query))}: the grid of tokens is {grid.t} slices of "
            f"{grid.h} rows and {grid.w} columns, counted from 0"
        )
    number = (query[0] * grid.h + query[1]) * grid.w + query[2]
    weights = attention_map(network, clip.batch.video, number, layer - 1)[0]
    note = f"layer {layer} of {depth}, mean over heads"
    shown = weights.view(grid).numpy()
    return {"attention": attention_strip(clip.frames, shown, query, note)}


CLIP_FIGURES: dict[str, Callable[[Subject], dict[str, Strip]]] = {
    "motion": motion,
    "masks": masks,
    "reconstruction": reconstruction,
    "attention": attention,
}
"""Each gives its drawings by the name of their file."""

NEEDS_NETWORK = frozenset({"reconstruction", "attention"})


def _mask(clip: ShownClip, config: MaskConfig) -> NDArray[np.bool_]:
    """`[t, h, w]`, True = hidden."""
    batch, grid = clip.batch, PatchGrid(*token_grid(clip.config.model))
    known = batch.motion_known
    mask = make_mask(batch.motion, batch.motion_valid, batch.seed, grid, config, known)
    array: NDArray[np.bool_] = mask.view(grid).numpy()
    return array


def _changes(config: MaskConfig) -> str:
    """What is not as by default, in words for a title."""
    usual = MaskConfig()
    words = [
        f"{name.replace('_', ' ')} {getattr(config, name)}".replace("_", " ")
        for name in ("jitter", "border", "center", "top_k")
        if getattr(config, name) != getattr(usual, name)
    ]
    return f" ({', '.join(words)})" if words else ""
