"""What the stage "finetune" does to clips: drawn for each, the same for all its frames."""

import pytest
import torch

from mgm_dali.config import RunConfig
from mgm_dali.pipelines import Share, make_loader


def batch_of(manifest, batch_size=12, world_size=1, rank=0, num_workers=0, **augment):
    config = RunConfig.model_validate(
        {
            "device": "cpu",
            "data": {"train": manifest, "num_workers": num_workers, "prefetch_batches": 1},
            "model": {"name": "vit_micro", "num_frames": 4, "image_size": 64},
            "clip": {"stride_frames": 1},
            "augment": {"crop": "center", "flip": False, **augment},
        }
    )
    with make_loader(config, "finetune", Share(batch_size, rank, world_size)) as loader:
        return next(iter(loader))


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """Eight videos in which nothing moves: all frames of a clip are equal, as far as we are."""
    import av
    import numpy as np

    from mgm_dali.video.manifest import Video, write_manifest
    from mgm_dali.video.reader import probe

    folder = tmp_path_factory.mktemp("still")
    rng = np.random.default_rng(0)
    videos = []
    for row in range(8):
        picture = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        path = folder / f"{row}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", 24)
            stream.width, stream.height, stream.pix_fmt = 96, 80, "bgr0"
            for _ in range(6):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        videos.append(Video(path=path, label=row, **vars(probe(path))))
    write_manifest(folder / "videos.csv", videos, ())
    return folder / "videos.csv"


RAND_AUGMENT = {"rand_augment": {"layers": 2, "probability": 1.0}}


def test_all_frames_of_a_clip_are_changed_alike_and_clips_differ(still):
    plain = batch_of(still, 8)
    changed = batch_of(still, 8, **RAND_AUGMENT)
    assert torch.equal(plain.index, changed.index)
    for clip in changed.video:
        assert (clip == clip[:, :1]).all()
    differ = [not torch.equal(a, b) for a, b in zip(plain.video, changed.video, strict=True)]
    assert sum(differ) >= 7


def test_a_box_is_erased_in_all_frames_to_other_noise(still):
    plain, erased = batch_of(still, 8), batch_of(still, 8, erase=1.0)
    changed = (plain.video != erased.video).any(1)  # [B, T, H, W]
    for clip in changed:
        assert clip.any() and (clip == clip[:1]).all()
    inside = erased.video[0][:, :, changed[0, 0]]
    assert not torch.equal(inside[:, 0], inside[:, 1])
    assert inside.mean().abs() < 0.2 and 0.8 < inside.std() < 1.2


def test_changes_do_not_depend_on_ranks_or_workers(moving_shapes):
    augment = {"crop": "random_resized", "flip": True, "erase": 0.5, "repeats": 2}
    augment["rand_augment"] = {"layers": 1, "probability": 1.0}
    whole = batch_of(moving_shapes, 12, **augment)
    halves = [batch_of(moving_shapes, 6, 2, rank, num_workers=1, **augment) for rank in (0, 1)]
    for name in ("video", "seed", "index", "view", "label"):
        assert torch.equal(
            getattr(whole, name), torch.cat([getattr(half, name) for half in halves])
        )


def test_repeats_of_a_video_are_changed_each_in_its_own_way(still):
    batch = batch_of(still, 16, repeats=2, **RAND_AUGMENT)
    pairs = batch.video.view(8, 2, *batch.video.shape[1:])
    assert sum(not torch.equal(a, b) for a, b in pairs) >= 7
    assert (batch.label.view(8, 2)[:, 0] == batch.label.view(8, 2)[:, 1]).all()
