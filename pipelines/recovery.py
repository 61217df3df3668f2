"""When the decoder in the graph refuses a batch: which files it cannot read.

Worker processes that die or hang are `pool.py`'s affair, which knows what each was reading. A
decoder in the graph takes a whole batch and fails as a whole; so each file is tried alone.
"""

from itertools import pairwise

from mgm_dali.errors import UserError
from mgm_dali.pipelines.feed import NO_FILE, ClipFeed, reason_text
from mgm_dali.pipelines.graph import clip_pipeline
from mgm_dali.pipelines.placement import Placement
from mgm_dali.pipelines.pool import read_here
from mgm_dali.pipelines.share import Share

__all__ = ["cause_of", "pipeline_stopped", "refused_by_decoder"]

FEW = 3
"""So many files of a batch may all be bad; more point to the decoder."""


def refused_by_decoder(feed: ClipFeed, placement: Placement) -> dict[int, str]:
    """Rows of the feed's first batch that the graph cannot decode, and why.

    Raises `UserError` if that is every one of many: then it is not the files. Also if the feed
    has found nothing to decode.
    """
    data = feed.config.data.model_copy(update={"prefetch_batches": 1})
    config = feed.config.model_copy(update={"data": data})
    refused: dict[int, str] = {}
    tried: set[int] = set()
    for place in range(feed.decodings_per_batch):
        read: list[int] = []
        alone = ClipFeed(
            feed.manifest,
            config,
            feed.stage,
            # With one rank and one decoding a batch, batch n is sample n.
            Share(feed.repeats, first_forward=feed.number_of(place)),
            motion_source=feed.motion_source,
            encoded=feed.encoded,
        )
        alone.refused, alone.reading = feed.refused, read.append
        batch = next(read_here(alone), None)
        if batch is None:
            break  # behind the last view of an evaluation
        if batch[alone.outputs.index("pixels")][0].size == NO_FILE.size:
            text = reason_text(batch[alone.outputs.index("reason")][0].tolist())
            raise UserError(f"no video can be read: {text}")
        tried.add(read[-1])
        try:
            clip_pipeline(alone, placement, iter([batch])).run()
        except RuntimeError as error:
            refused[read[-1]] = f"the decoder refuses it: {cause_of(error)}"
    if len(refused) == len(tried) > FEW:
        row, reason = next(iter(refused.items()))
        raise UserError(
            f"none of the {len(tried)} files of a batch can be decoded in the graph; "
            f"{feed.manifest[row].path}: {reason}; `mgm-dali doctor` says what this machine has, "
            "and decode=cpu decodes without NVDEC"
        )
    return refused


def pipeline_stopped(error: RuntimeError, *, nvdec: bool) -> UserError:
    """What a user is told of an error that DALI raised while it ran, with or without NVDEC."""
    hint = ", and decode=cpu decodes without NVDEC" if nvdec else ""
    return UserError(
        f"DALI's pipeline stopped: {cause_of(error)}; `mgm-dali doctor` says what this machine "
        f"has{hint}"
    )


def cause_of(error: Exception) -> str:
    """What DALI says went wrong, without what it says around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line, following in pairwise(lines):
        if line.endswith("encountered:"):
            return following
    return lines[-1] if lines else type(error).__name__
