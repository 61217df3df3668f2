"""What is drawn of one clip: `CLIP_FIGURES` is the whole list."""

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mgm_dali.clips.grid import token_grid
from mgm_dali.clips.overlays import cover_hidden
from mgm_dali.config import MaskConfig, RunConfig
from mgm_dali.errors import UserError
from mgm_dali.masking import MASKS, NEEDS_MOTION, make_mask
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.models.attention_maps import attention_map
from mgm_dali.models.reconstruction import reconstructed_frames
from mgm_dali.models.vit import TokenTrunk
from mgm_dali.report.clips import ShownClip, read_shown_clip, to_bytes
from mgm_dali.report.draw import attention_strip, mask_strip, reconstruction_strip
from mgm_dali.report.motion_drawings import arrow_strip, wheel_strip
from mgm_dali.report.options import ShowOptions
from mgm_dali.report.strips import Strip

__all__ = ["CLIP_FIGURES", "NEEDS_NETWORK", "Subject", "check_network"]

HAS_JITTER = frozenset({"simulated_motion", "motion_guided"})
HAS_BORDER = HAS_JITTER | {"block"}
"""The strategies that `mask.jitter` and `mask.border` change."""
WINDOW_NOTE = "flow warp follows motion since the sampled frame before"


@dataclass(frozen=True)
class Subject:
    """One clip, and what is asked of it."""

    config: RunConfig
    manifest: Path
    options: ShowOptions
    network: Autoencoder | Classifier | None = None
    """For the figures in NEEDS_NETWORK."""
    weights: str = ""
    """Whose the network is, in words."""
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
    for name in subject.options.masks or MASKS:
        mask = subject.config.mask.model_copy(update={"strategy": name})
        config = subject.config.model_copy(update={"mask": mask})
        window = config.accumulates_motion
        if window not in clips:
            clips[window] = subject.read(config)
        hidden[_mask_label(mask)] = _mask(clips[window], mask)
    clip = clips.get(False, subject.clip)
    # `auto` follows the window in `flow_warp` alone.
    note = WINDOW_NOTE if len(clips) > 1 and "flow_warp" in hidden else ""
    title = "What is hidden from the model"
    return {"masks": mask_strip(clip.frames, hidden, clip.motion, title, note)}


def reconstruction(subject: Subject) -> dict[str, Strip]:
    """The clip, what the network saw of it, and what it made.

    Raises `UserError` if the network is a classifier.
    """
    network, clip, config = _autoencoder(subject), subject.clip, subject.config.mask
    leak = subject.options.leak_statistics
    hidden = _mask(clip, config)
    with torch.inference_mode():
        mask = torch.from_numpy(hidden.reshape(1, -1))
        made = reconstructed_frames(network, clip.batch.video, mask, leak)
    mask_name = _mask_label(config).replace("_", " ").replace("\n", " ")
    note = f"weights: {subject.weights}; {clip.sampling}; "
    note += f"mask: {mask_name}, {hidden.mean():.0%} hidden"
    if leak:
        note += "; brightness and contrast of hidden patches are borrowed from the original"
    masked = cover_hidden(clip.frames, hidden)
    strip = reconstruction_strip(clip.frames, masked, to_bytes(made[0]), note)
    return {"reconstruction": strip}


def attention(subject: Subject) -> dict[str, Strip]:
    """Where one token looks when the whole clip is encoded.

    Raises `UserError` for a layer or a token that is not there.
    """
    network, clip = _network(subject), subject.clip
    layer, query = _layer_and_query(subject)
    depth = len(_trunk(network).blocks)
    number = (query[0] * network.grid.h + query[1]) * network.grid.w + query[2]
    weights = attention_map(network, clip.batch.video, number, layer - 1)[0]
    note = f"weights: {subject.weights}, layer {layer} of {depth}, mean over heads; "
    note += f"{clip.sampling}; the whole clip is seen, nothing hidden"
    shown = weights.view(network.grid).numpy()
    return {"attention": attention_strip(clip.frames, shown, query, note)}


CLIP_FIGURES: dict[str, Callable[[Subject], dict[str, Strip]]] = {
    "motion": motion,
    "masks": masks,
    "reconstruction": reconstruction,
    "attention": attention,
}
"""Each gives its drawings by the name of their file."""

NEEDS_NETWORK = frozenset({"reconstruction", "attention"})


def check_network(subject: Subject, names: Iterable[str]) -> None:
    """Raises the `UserError` that drawing these figures with this network would."""
    if "reconstruction" in names:
        _autoencoder(subject)
    if "attention" in names:
        _layer_and_query(subject)


def _network(subject: Subject) -> Autoencoder | Classifier:
    assert subject.network is not None, "asked for with weights only"
    return subject.network


def _trunk(network: Autoencoder | Classifier) -> TokenTrunk:
    return network.encoder if isinstance(network, Autoencoder) else network


def _autoencoder(subject: Subject) -> Autoencoder:
    if not isinstance(subject.network, Autoencoder):
        raise UserError(
            "reconstruction: these weights have no decoder, they are a classifier's or an "
            "encoder's; give a pretrained run, or --only attention"
        )
    return subject.network


def _layer_and_query(subject: Subject) -> tuple[int, tuple[int, int, int]]:
    """Which block looks, counted from 1, and the token (slice, row, column) that does."""
    network = _network(subject)
    grid = network.grid
    depth = len(_trunk(network).blocks)
    layer = depth if subject.options.layer is None else subject.options.layer
    if not 1 <= layer <= depth:
        raise UserError(f"--layer {layer}: the encoder has the layers 1 to {depth}")
    query = subject.options.query or (grid.t // 2, grid.h // 2, grid.w // 2)
    if not all(0 <= place < size for place, size in zip(query, grid, strict=True)):
        raise UserError(
            f"--query {','.join(map(str, query))}: the grid of tokens is {grid.t} slices of "
            f"{grid.h} rows and {grid.w} columns, counted from 0"
        )
    return layer, query


def _mask(clip: ShownClip, config: MaskConfig) -> NDArray[np.bool_]:
    """`[t, h, w]`, True = hidden."""
    batch, grid = clip.batch, token_grid(clip.config.model)
    known = batch.motion_known
    mask = make_mask(batch.motion, batch.motion_valid, batch.seed, grid, config, known)
    array: NDArray[np.bool_] = mask.view(grid).numpy()
    return array


def _mask_label(config: MaskConfig) -> str:
    """The strategy's name, and below it the options that change it and are not as by default."""
    name, changes = config.strategy, []
    if name == "motion_guided" and config.center != "top_1":
        changes.append(f"{'vote of' if config.center == 'vote' else 'top'} {config.top_k}")
    if name in HAS_BORDER and config.border == "grow":
        changes.append("grow")
    if name in HAS_JITTER and not config.jitter:
        changes.append("no jitter")
    return "\n".join((name, *textwrap.wrap(f"({', '.join(changes)})", 22))) if changes else name
