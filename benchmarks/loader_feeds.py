"""What loaders are measured with: the config of ours, and the clips that all of them show."""

from pathlib import Path
from typing import Any

from mgm_dali.clips.draw import training_decoding
from mgm_dali.clips.order import shuffled_video
from mgm_dali.config import RunConfig
from mgm_dali.video.manifest import Manifest

__all__ = ["our_config", "planned_clips"]


def our_config(
    manifest: Manifest, batch_size: int, num_workers: int, motion_store: Path | None = None
) -> dict[str, Any]:
    """Of our loader; the rest are defaults: clips of 16 frames at stride 4, 224x224 pixels."""
    return {
        "device": "cpu",
        "data": {
            "train": str(manifest.path),
            "motion_store": motion_store and str(motion_store),
            "num_workers": num_workers,
            "max_skipped": 0,
        },
        "augment": {"crop": "multi_scale", "flip": False},
        "motion": {"without_vectors": "block_matching"},
        "training": {"batch_size": batch_size},
    }


def planned_clips(manifest: Manifest, config: RunConfig, num_clips: int) -> list[dict[str, Any]]:
    """The first clips that our loader shows by this config, for others to show the same.

    Each has its manifest row, path, frame numbers and box (top, left, height, width) in pixels.
    """
    clips = []
    for sample in range(num_clips):
        epoch, row = shuffled_video(sample, len(manifest), config.seed)
        video = manifest[row]
        decoding = training_decoding(config, video, row, row, epoch)
        crop = decoding.cuts[0].crop
        clips.append(
            {
                "row": row,
                "path": str(video.path),
                "frames": decoding.frames.tolist(),
                "box": [round(side) for side in (crop.top, crop.left, crop.height, crop.width)],
            }
        )
    return clips
