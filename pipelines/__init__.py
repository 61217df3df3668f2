"""Clips from video files: a DALI pipeline fed by PyAV (the code lives in `pipelines/`).

`make_loader` is all that users need:

    loader = make_loader(config, "pretrain")
    for batch in loader:          # a ClipBatch: video, motion, label, seed, ...
        ...
"""

from typing import TYPE_CHECKING

from mgm_dali.config import RunConfig
from mgm_dali.pipelines.share import Share, Stage

if TYPE_CHECKING:
    from mgm_dali.pipelines.loader import ClipLoader

__all__ = ["Share", "Stage", "make_loader"]


def make_loader(config: RunConfig, stage: Stage, share: Share | None = None) -> "ClipLoader":
    """A loader of `ClipBatch`es for one stage: "pretrain", "finetune" or "evaluate".

    Training stages read `config.data.train`, epoch after epoch; "evaluate" reads every view of
    every video of `config.data.val`. `share` is this process's part among several; without it one
    process takes all, with the batch size of the config.
    """
    # Imported here: this package is also loaded by the processes that decode, which need no torch.
    from mgm_dali.pipelines.loader import ClipLoader

    if share is None:
        batch = config.evaluation if stage == "evaluate" else config.training
        share = Share(batch.batch_size)
    return ClipLoader(config, stage, share)
