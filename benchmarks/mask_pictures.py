"""Makes the pictures of docs/masks.md but those of a trained network: `make pictures`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from merit_scenes import Scene, encode

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import RunConfig, override_config
from mgm_dali.demo_videos import make_demo_videos
from mgm_dali.masking import make_mask
from mgm_dali.report.clips import as_manifest, config_for, read_shown_clip
from mgm_dali.report.draw import mask_strip
from mgm_dali.report.saving import save_figure
from mgm_dali.report.show import ShowOptions, show
from mgm_dali.report.strips import draw_sheet
from mgm_dali.video.manifest import read_manifest

DOCS = Path(__file__).parents[1] / "docs"
DPI = 80
OPTIONS = {
    "top 1": [],
    "top 1, grow": ["mask.border=grow"],
    "top k": ["mask.center=top_k"],
    "vote": ["mask.center=vote"],
    "top 1, no camera": ["motion.subtract_camera=true"],
    "vote, no camera": ["mask.center=vote", "motion.subtract_camera=true"],
    "sparse, no camera": ["mask.strategy=motion_guided_sparse", "motion.subtract_camera=true"],
}


class Orange(Scene):
    """The same in colours: a reader must see what moves."""

    def frames(self):
        for number, picture in enumerate(super().frames()):
            tint = np.where(self.inside(number)[..., None], (1.0, 0.6, 0.2), (0.5, 0.6, 0.7))
            yield (picture * tint).astype(np.uint8)


def draw_options(video: Path) -> None:
    """What the options of `motion_guided` do where the camera pans: options.png."""
    with as_manifest(video) as manifest:
        base = override_config(config_for(read_manifest(manifest)[0]), ["mask.ratio=0.25"])
        shown = read_shown_clip(base, manifest, 0, True)
        hidden = {}
        for name, overrides in OPTIONS.items():
            config = override_config(base, overrides)
            clip = read_shown_clip(config, manifest, 0, True).batch
            hidden[name] = mask_of(clip, config)
    strip = mask_strip(shown.frames, hidden, shown.motion, "Where the rectangle is centred")
    save_figure(draw_sheet(strip), DOCS / "options.png", DPI)


def mask_of(clip, config: RunConfig):
    """bool `[t, h, w]`."""
    grid, mask = token_grid(config.model), config.mask
    found = make_mask(clip.motion, clip.motion_valid, clip.seed, grid, mask, clip.motion_known)
    return found.view(grid).numpy()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        make_demo_videos(folder, 40, seed=5, side_pixels=224, num_workers=0)
        options = ShowOptions(figures=("motion", "masks"), dpi=DPI)
        show(Path(folder, "right", "h264_00024.mp4"), DOCS, options)
        panned = Path(folder, "panned.mp4")
        encode(Orange("one", "pan", seed=3), "prepared", panned)
        draw_options(panned)
