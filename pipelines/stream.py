"""One DALI pipeline at work: what feeds it, its batches, its end."""

import torch
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.graph import GRAPH_OUTPUTS, clip_pipeline
from mgm_dali.pipelines.placement import Placement
from mgm_dali.pipelines.pool import ClipPool, read_here

__all__ = ["Stream"]


class Stream:
    """Batches in the graph's own form, until the feed ends; `close` it in the end.

    Raises `RuntimeError` where DALI does, for a file that a decoder in the graph refuses; nothing
    more can be had of it then.
    """

    def __init__(self, feed: ClipFeed, placement: Placement) -> None:
        self._pool = ClipPool(feed) if feed.config.data.num_workers else None
        self._batches: DALIGenericIterator | None = DALIGenericIterator(
            [clip_pipeline(feed, placement, self._pool or read_here(feed))],
            list(GRAPH_OUTPUTS),
            size=-1,
            prepare_first_batch=False,
        )

    @property
    def restarts(self) -> int:
        """How often a worker process had to be started anew."""
        return self._pool.restarts if self._pool else 0

    @property
    def shared_bytes(self) -> int:
        """Memory in which worker processes hand over clips, at this moment."""
        return self._pool.shared_bytes if self._pool else 0

    def __next__(self) -> dict[str, torch.Tensor]:
        assert self._batches is not None, "it is closed"
        (outputs,) = next(self._batches)
        return dict(outputs)

    def close(self) -> None:
        """Ends the worker processes; what they had prepared is lost."""
        self._batches = None
        if self._pool:
            self._pool.close()
