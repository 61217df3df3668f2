"""Worker processes and the memory that they hand their clips over in."""

import gc
import os
import threading
import time
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from mgm_dali.config import EvaluationConfig, RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.pool import ClipPool, read_here
from mgm_dali.pipelines.slots import KEPT_BYTES, SharedSlots, SlotWriter
from mgm_dali.video.manifest import read_manifest


@pytest.fixture
def slots():
    slots = SharedSlots(3)
    yield slots
    slots.close()


def held_bytes(slots):
    """Memory that the file of the slots really takes."""
    return Path(slots.path).stat().st_blocks * 512


def test_arrays_arrive_as_they_were_written(slots):
    rng = np.random.default_rng(0)
    writer = SlotWriter(slots.path)
    written = []
    for slot in range(3):
        arrays = [
            rng.integers(0, 256, (4, 5 + slot, 7, 3), dtype=np.uint8),
            rng.integers(-9, 9, (2, 3), dtype=np.int16)[:, ::-1],  # with gaps and turned round
            np.float32(rng.random((1, 2))),
            np.int64([[1 << 62]]),
            np.zeros((2, 0), np.int32),
        ]
        written.append((arrays, writer.write(slot, arrays)))
    for slot, (arrays, placed) in enumerate(written):
        for array, found in zip(arrays, slots.arrays(slot, placed), strict=True):
            assert found.dtype == array.dtype and np.array_equal(found, array)


def test_a_slot_grows_and_what_is_unusually_large_is_given_back(slots):
    writer = SlotWriter(slots.path)
    usual, large = np.arange(999, dtype=np.int32), np.ones(KEPT_BYTES + 1, np.uint8)
    for array in (usual, large, usual, large):
        placed = writer.write(1, [array])
        (found,) = slots.arrays(1, placed)
        assert np.array_equal(found, array)
        assert held_bytes(slots) >= array.nbytes
        slots.release(1)
    assert held_bytes(slots) < KEPT_BYTES / 100
    slots.arrays(1, writer.write(1, [usual]))
    slots.release(1)
    assert held_bytes(slots) > 0, "usual ones keep their memory"


def test_the_owner_sees_which_row_a_worker_has_in_hand(slots):
    writer = SlotWriter(slots.path)
    assert slots.row(2) is None
    writer.take(2, 0)
    assert slots.row(2) == 0
    writer.take(2, 10_000_000)
    assert slots.row(2) == 10_000_000 and slots.row(1) is None
    slots.clear_row(2)
    assert slots.row(2) is None


def config_for(manifest, **data):
    return RunConfig.model_validate(
        {
            "device": "cpu",
            "data": {"train": manifest, "val": manifest, "num_workers": 2, **data},
            "model": {"name": "vit_micro", "num_frames": 4, "image_size": 32},
            "clip": {"stride_frames": 1},
        }
    )


SLOW = pytest.mark.slow  # what lies between the fewest and the most


@pytest.mark.parametrize(
    ("workers", "prefetch"),
    [(1, 1), (3, 4), pytest.param(1, 4, marks=SLOW), pytest.param(3, 1, marks=SLOW)],
)
def test_batches_of_workers_are_those_that_are_read_here(moving_shapes, workers, prefetch):
    config = config_for(moving_shapes, num_workers=workers, prefetch_batches=prefetch)
    feed = ClipFeed(read_manifest(moving_shapes), config, "pretrain", Share(5))
    pool = ClipPool(feed)
    for batch, expected in islice(zip(pool, read_here(feed), strict=False), 12):
        time.sleep(0.01)  # time in which workers could overwrite what is still in use
        for arrays, others in zip(batch, expected, strict=True):
            assert all(map(np.array_equal, arrays, others))
    pool.close()


def test_workers_never_read_further_ahead_than_they_are_told(moving_shapes):
    config = config_for(moving_shapes, prefetch_batches=2)
    pool = ClipPool(ClipFeed(read_manifest(moving_shapes), config, "pretrain", Share(4)))
    next(pool)
    deadline = time.monotonic() + 20
    while len(pool._readers._done) < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert len(pool._readers._done) == 8 and pool._readers._next == 12
    pool.close()


def test_a_loader_that_is_dropped_ends_its_processes(moving_shapes):
    gc.collect()
    older = set(active_children())
    loader = make_loader(config_for(moving_shapes), "pretrain", Share(4))
    next(iter(loader))
    assert len(set(active_children()) - older) == 2
    del loader
    gc.collect()
    assert not set(active_children()) - older


def test_two_loaders_at_once_do_not_disturb_each_other(moving_shapes):
    views = EvaluationConfig(num_segments=2, num_crops=1)
    config = config_for(moving_shapes, num_workers=1).model_copy(update={"evaluation": views})

    def rows(loader):
        return [batch.index.tolist() for batch in loader]

    with (
        make_loader(config, "pretrain", Share(12)) as train,
        make_loader(config, "evaluate", Share(6)) as val,
    ):
        trained, judged = [], []
        for batch in train:
            trained.append(batch.index.tolist())
            judged.append(rows(val))
    assert all(views == judged[0] for views in judged)
    with make_loader(config_for(moving_shapes, num_workers=0), "pretrain", Share(12)) as alone:
        assert rows(alone) == trained


def test_loaders_made_again_and_again_leave_no_files_open(moving_shapes):
    config = config_for(moving_shapes, num_workers=1)
    open_files = []
    for _ in range(3):
        with make_loader(config, "pretrain", Share(2)) as loader:
            next(iter(loader))
        del loader
        gc.collect()
        open_files.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208
    assert open_files[-1] == open_files[1]


def test_a_large_batch_needs_no_open_file_for_each_clip(moving_shapes):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    config = config_for(moving_shapes, num_workers=1, prefetch_batches=1)
    with make_loader(config, "pretrain", Share(96)) as loader:
        next(iter(loader))
        assert len(os.listdir("/proc/self/fd")) < before + 40  # noqa: PTH208


def test_an_interrupt_while_waiting_loses_no_batch(moving_shapes, monkeypatch):
    config = config_for(moving_shapes, num_workers=0)
    with make_loader(config, "pretrain", Share(4)) as loader:
        expected = [batch.index.tolist() for batch in islice(loader.endless(), 8)]
    config = config_for(moving_shapes, num_workers=1)
    with make_loader(config, "pretrain", Share(4)) as loader:
        batches = loader.endless()
        found = [next(batches).index.tolist() for _ in range(2)]
        for error in (KeyboardInterrupt, MemoryError):
            with monkeypatch.context() as patch, pytest.raises(error):
                patch.setattr(ClipPool, "__next__", lambda *_, error=error: _raise(error()))
                next(loader.endless())
            found.append(next(loader.endless()).index.tolist())
        found += [batch.index.tolist() for batch in islice(loader.endless(), 4)]
    assert found == expected


def _raise(error):
    raise error


def test_whoever_waits_for_a_closed_pool_hears_of_it(moving_shapes):
    config = config_for(moving_shapes, num_workers=1)
    pool = ClipPool(ClipFeed(read_manifest(moving_shapes), config, "pretrain", Share(4)))
    next(pool)
    threading.Timer(0.3, pool.close).start()
    with pytest.raises(UserError, match="were ended"):
        for _ in range(10_000):
            next(pool)


def test_a_relative_manifest_is_found_whoever_changes_the_folder(moving_shapes, monkeypatch):
    monkeypatch.chdir(moving_shapes.parent)
    config = config_for(moving_shapes.name, num_workers=1, prefetch_batches=1)
    with make_loader(config, "pretrain", Share(24)) as loader:
        monkeypatch.chdir("/")
        assert len(next(iter(loader))) == 24 and not loader.skipped
