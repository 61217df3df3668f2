"""The loader: batches of clips, and an account of every clip that could not be read."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import CELL_PIXELS, RunConfig
from mgm_dali.errors import UserError
from mgm_dali.motion.presence import rows_without_vectors
from mgm_dali.motion.recipe import require_source
from mgm_dali.motion.store import MotionStore
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.graph import GRAPH_OUTPUTS, clip_pipeline
from mgm_dali.pipelines.placement import choose_placement
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.video.manifest import Manifest, read_manifest

__all__ = ["ClipLoader", "Skipped"]


@dataclass(frozen=True)
class Skipped:
    """A clip that was replaced by a stand-in."""

    index: int
    path: Path
    reason: str


class ClipLoader:
    """Iterates over `ClipBatch`es; `make_loader` is the way to one.

    Training stages have no end (a step count ends the run); "evaluate" ends after the last view.
    Once more clips are bad than `data.max_skipped` allows, iterating raises `UserError`; where
    several ranks train together, `problem` says it, and they stop together.
    """

    def __init__(
        self, config: RunConfig, stage: Stage, share: Share, *, needs_motion: bool | None = None
    ) -> None:
        if needs_motion is None:
            needs_motion = stage == "pretrain"
        self.stage = stage
        self.share = share
        self.manifest = _manifest_for(config, stage)
        self.placement = choose_placement(config, self.manifest, needs_motion=needs_motion)
        self.skipped: list[Skipped] = []
        self.replaced: list[int] = []
        """Places in the newest batch that hold a stand-in."""
        self.problem: str | None = None
        """Why the run must stop, where several ranks have to agree on it first."""
        self.samples_seen = 0
        self._max_skipped = config.data.max_skipped
        self._feed = ClipFeed(self.manifest, config, stage, share)
        self._feed.motion_source = self.placement.motion_source
        self._feed.encoded = self.placement.decode == "nvdec"
        _check_motion(self.manifest, config, self.placement.motion_source)
        _check_shared_memory(self.manifest, config, share, encoded=self._feed.encoded)
        self._batches = DALIGenericIterator(
            [clip_pipeline(self._feed, self.placement)],
            list(GRAPH_OUTPUTS),
            size=-1,
            prepare_first_batch=False,
        )

    def motion_source_of(self, row: int) -> str | None:
        """Where the motion of this manifest row comes from: a name of MOTION_SOURCES, or None."""
        return self._feed.source_for(self.manifest[row])

    def __len__(self) -> int:
        """Batches of this rank in one epoch (training: rounded down) or in the evaluation."""
        together = self.share.batch_size * self.share.world_size
        if self.stage == "evaluate":
            return -(-self._feed.num_samples // together)
        return len(self.manifest) // together

    def __iter__(self) -> Iterator[ClipBatch]:
        try:
            for (outputs,) in self._batches:
                yield self._batch(outputs)
        except RuntimeError as error:  # NVDEC refuses a whole batch for one file it cannot decode
            last = str(error).strip().splitlines()[-1]
            raise UserError(
                f"DALI's pipeline stopped: {last}; `mgm-dali doctor` says what this machine has, "
                "and decode=cpu decodes without NVDEC"
            ) from error

    def _batch(self, outputs: dict[str, torch.Tensor]) -> ClipBatch:
        facts = outputs["facts"].cpu()
        self._account(facts, outputs["reason"].cpu())
        label, index, view, seed, _ = facts.to(self.placement.device, non_blocking=True).unbind(1)
        return ClipBatch(
            video=outputs["video"],
            motion=outputs["motion"],
            motion_valid=outputs["motion_valid"].bool(),
            label=label,
            index=index,
            view=view,
            seed=seed,
        )

    def _account(self, facts: torch.Tensor, reasons: torch.Tensor) -> None:
        self.samples_seen += len(facts)
        self.replaced = facts[:, 4].nonzero().flatten().tolist()
        for row in self.replaced:
            index = int(facts[row, 1])
            if index >= 0:
                text = bytes(reasons[row].tolist()).rstrip(b"\0").decode(errors="replace")
                self.skipped.append(Skipped(index, self.manifest[index].path, text))
        epoch = len(self.manifest) / self.share.world_size
        # Before the first epoch is over, its whole length counts: one bad clip in the first
        # batch is no reason to stop.
        allowed = self._max_skipped * max(self.samples_seen, epoch)
        if self.stage != "evaluate" and len(self.skipped) > allowed:
            last = self.skipped[-1]
            self.problem = (
                f"{len(self.skipped)} of {self.samples_seen} clips could not be read, more than "
                f"data.max_skipped = {self._max_skipped:.1%} allows; the last was {last.path}: "
                f"{last.reason}. Mend or remove the files listed in skipped.csv, or raise the limit"
            )
            if self.share.world_size == 1:
                raise UserError(self.problem)


def _manifest_for(config: RunConfig, stage: Stage) -> Manifest:
    key = "val" if stage == "evaluate" else "train"
    path = config.data.val if stage == "evaluate" else config.data.train
    if path is None:
        raise UserError(
            f"data.{key} is not set: name a manifest, as data.{key}=videos.csv "
            "(make one with `mgm-dali index`)"
        )
    return read_manifest(path)


def _check_motion(manifest: Manifest, config: RunConfig, source: str | None) -> None:
    """Refuses early what would look like a still scene, or fail clip after clip."""
    require_source(source)
    if source == "codec":
        require_source(config.motion.without_vectors)
    if source == "store":
        assert config.data.motion_store is not None
        MotionStore(config.data.motion_store)
    if source != "codec" or config.motion.without_vectors != "error":
        return
    if lacking := rows_without_vectors(manifest):
        codec, rows = next(iter(lacking.items()))
        raise UserError(
            f"{manifest.path}: {len(rows)} of {len(manifest)} videos are {codec}, of which "
            f"FFmpeg gives no motion vectors (the first is {manifest[int(rows[0])].path}); set "
            "motion.without_vectors=block_matching to estimate their motion, or =ignore to "
            "hide tokens by simulated motion"
        )


def _check_shared_memory(
    manifest: Manifest, config: RunConfig, share: Share, *, encoded: bool
) -> None:
    """Workers hand their clips over in /dev/shm; when it is too small they die without a word."""
    if config.data.num_workers == 0 or encoded:
        return
    largest = int((manifest.widths.astype("int64") * manifest.heights).max())
    clip_bytes = config.model.num_frames * largest * (3 + 4 / CELL_PIXELS**2)
    chunks = 2 * config.data.prefetch_batches  # DALI's own queue and the operator's
    needed = int(chunks * share.batch_size * clip_bytes)
    state = os.statvfs("/dev/shm")
    free = state.f_bavail * state.f_frsize
    if needed > free:
        raise UserError(
            f"/dev/shm has {free / 2**20:.0f} MiB free, the workers need about "
            f"{needed / 2**20:.0f}; give the container more (--shm-size), or lower "
            "training.batch_size or data.prefetch_batches, or set data.num_workers=0"
        )
