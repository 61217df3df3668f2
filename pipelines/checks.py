"""What is refused before anything is read: configurations that do not fit their data or stage."""

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.motion.presence import rows_without_vectors
from mgm_dali.motion.recipe import require_source
from mgm_dali.motion.store import MotionStore
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.share import Stage
from mgm_dali.video.manifest import Manifest, read_manifest

__all__ = ["check_augmentation", "check_motion", "manifest_for"]


def manifest_for(config: RunConfig, stage: Stage) -> Manifest:
    """The videos of a stage. Raises `UserError` if the config names none."""
    key = "val" if stage == "evaluate" else "train"
    path = config.data.val if stage == "evaluate" else config.data.train
    if path is None:
        raise UserError(
            f"data.{key} is not set: name a manifest, as data.{key}=videos.csv "
            "(make one with `mgm-dali index`)"
        )
    return read_manifest(path.absolute())  # whoever changes the folder still finds the files


def check_motion(manifest: Manifest, config: RunConfig, source: str | None) -> None:
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


def check_augmentation(feed: ClipFeed) -> None:
    """Refuses what the stage would not do, or cannot."""
    augment = feed.config.augment
    if feed.stage == "pretrain" and (augment.rand_augment.layers or augment.erase):
        raise UserError(
            "augment.rand_augment and augment.erase are for finetuning: while pretraining they "
            "would part the pixels from their motion; leave them out"
        )
    if feed.share.batch_size % feed.repeats:
        raise UserError(
            f"a batch of {feed.share.batch_size} clips is no multiple of augment.repeats = "
            f"{feed.repeats}, the clips of one decoding"
        )
