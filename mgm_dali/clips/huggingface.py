"""A batch as Hugging Face's VideoMAE models take it."""

from typing import TYPE_CHECKING

from mgm_dali.clips.batch import ClipBatch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["huggingface_inputs"]


def huggingface_inputs(batch: ClipBatch, mask: "Tensor | None" = None) -> "dict[str, Tensor]":
    """Keyword arguments of `VideoMAEForPreTraining`, or of a classifier where there is no mask.

    `mask [B, N]` bool, True where hidden, is what transformers calls `bool_masked_pos`; its token
    order (t, h, w) is ours. `pixel_values [B, T, C, H, W]` is a view of the batch's video, which is
    normalised as their image processor would do it.
    """
    pixel_values = batch.video.transpose(1, 2)
    if mask is None:
        return {"pixel_values": pixel_values, "labels": batch.label}
    return {"pixel_values": pixel_values, "bool_masked_pos": mask}
