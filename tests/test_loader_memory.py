"""Memory over a long run: of this process, of its workers, and of what they share."""

import os
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import pytest

from mgm_dali.config import RunConfig
from mgm_dali.pipelines import Share, make_loader

NUM_BATCHES = 2000
WARM_UP = 400
ALLOWED_MB = 24


def megabytes_of(process, kind):
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"{kind} is not told")


def memory(workers):
    """Of the trainer, of the largest worker, and shared, in MB."""
    own = megabytes_of(os.getpid(), "RssAnon")
    theirs = max(megabytes_of(worker.pid, "RssAnon") for worker in workers)
    return own, theirs, megabytes_of(os.getpid(), "RssShmem")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_memory_is_flat_over_two_thousand_batches(moving_shapes, stage):
    config = RunConfig.model_validate(
        {
            "device": "cpu",
            "data": {"train": moving_shapes, "num_workers": 2},
            "model": {"name": "vit_micro", "num_frames": 4, "image_size": 32},
            "augment": {"repeats": 2, "erase": 0.5 if stage == "finetune" else 0.0},
        }
    )
    older = active_children()
    with make_loader(config, stage, Share(4)) as loader:
        batches = loader.endless()
        for _ in islice(batches, WARM_UP):
            pass
        workers = [process for process in active_children() if process not in older]
        before = memory(workers)
        for _ in islice(batches, NUM_BATCHES - WARM_UP):
            pass
        after = memory(workers)
    assert len(workers) == 2
    for kind, first, last in zip(("own", "worker", "shared"), before, after, strict=True):
        assert last - first < ALLOWED_MB, f"{kind} memory grew from {first:.0f} to {last:.0f} MB"
