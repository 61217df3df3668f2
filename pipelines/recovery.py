"""When the decoder in the graph refuses a batch: which files it cannot read.

Worker processes that die or hang are `pool.py`'s affair, which knows what each was reading. A
decoder in the graph takes a whole batch and fails as a whole; so each file is tried alone.
"""

from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.graph import clip_pipeline
from mgm_dali.pipelines.placement import Placement
from mgm_dali.pipelines.pool import read_here
from mgm_dali.pipelines.share import Share

__all__ = ["last_line", "refused_by_decoder"]


def refused_by_decoder(feed: ClipFeed, placement: Placement) -> dict[int, str]:
    """Rows of the feed's first batch that the graph cannot decode, and why.

    Empty if it is nothing but the files: if all of several are refused, or none is.
    """
    data = feed.config.data.model_copy(update={"num_workers": 0, "prefetch_batches": 1})
    config = feed.config.model_copy(update={"data": data})
    refused: dict[int, str] = {}
    count = feed.decodings_per_batch
    for place in range(count):
        read: list[int] = []
        alone = ClipFeed(
            feed.manifest,
            config,
            feed.stage,
            Share(feed.repeats, first_forward=feed.number_of(place)),
            motion_source=feed.motion_source,
            encoded=feed.encoded,
        )
        alone.refused, alone.reading = feed.refused, read.append
        if alone.num_places == 0:
            break  # behind the last view of an evaluation
        try:
            clip_pipeline(alone, placement, read_here(alone)).run()
        except RuntimeError as error:
            refused[read[-1]] = f"the decoder refuses it: {last_line(error)}"
    return {} if len(refused) == count > 1 else refused


def last_line(error: Exception) -> str:
    """What DALI says at the end of its stack of messages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
