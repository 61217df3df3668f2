"""Clips of every length and size, of videos of every length, size and shape, in one batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from videos import Clip

from mgm_dali.config import RunConfig
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.video.manifest import Video, read_manifest, write_manifest
from mgm_dali.video.reader import probe, read_frames

SMALL = Clip(width=64, height=64, num_frames=40, start=(8, 8), velocity=(0, 0), pan=(1, 1))
VIDEOS = {
    "square": SMALL,
    "upright 1:3": replace(SMALL, height=192, pan=(2, 1)),
    "wide 3:1": replace(SMALL, width=192, pan=(-1, 2)),
    "larger than a clip": replace(SMALL, width=242, height=130, num_frames=20, b_frames=2),
    "no multiple of 8": replace(SMALL, width=98, height=70, num_frames=33),
    "of 1 frame": replace(SMALL, num_frames=1),
    "of 5 frames": replace(SMALL, width=80, num_frames=5),
}
CLIP_SHAPES = [(8, 112), (16, 160), (32, 224), (8, 384)]
"""Frames and pixels a side."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    paths = [clip.path() for clip in VIDEOS.values()]
    rows = [Video(path=path, label=0, **vars(probe(path))) for path in paths]
    path = tmp_path_factory.mktemp("videos") / "videos.csv"
    write_manifest(path, rows, ["any"])
    return path


def config_for(manifest, **sections):
    tree = {
        "device": "cpu",
        "data": {"train": manifest, "val": manifest, "num_workers": 0, "prefetch_batches": 1},
        "clip": {"stride_frames": 2},
        "model": {"name": "vit_micro", "num_frames": 8, "image_size": 112},
        "evaluation": {"num_segments": 1, "num_crops": 1},
    }
    return RunConfig.model_validate(tree | sections)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "evaluate"])
@pytest.mark.parametrize(("num_frames", "image_size"), CLIP_SHAPES)
def test_every_stage_gives_whole_batches_of_the_right_shape(
    manifest, stage, num_frames, image_size
):
    model = {"name": "vit_micro", "num_frames": num_frames, "image_size": image_size}
    config = config_for(manifest, model=model)
    with make_loader(config, stage, Share(len(VIDEOS))) as loader:
        (batch,) = loader
        assert not loader.skipped
    count, cells = len(VIDEOS), image_size // 8
    assert batch.video.shape == (count, 3, num_frames, image_size, image_size)
    assert batch.motion.shape == (count, num_frames, cells, cells, 2)
    assert batch.video.dtype == batch.motion.dtype == torch.float32
    assert batch.video.isfinite().all() and batch.motion.isfinite().all()
    assert sorted(batch.index.tolist()) == list(range(count))
    assert (batch.video.flatten(1).std(1) > 0.1).all(), "pictures, not blanks"
    if stage == "pretrain":
        moving = batch.motion_valid.any(1)
        still = batch.index == list(VIDEOS).index("of 1 frame")
        assert torch.equal(moving, ~still), "an only frame is a key frame"
        assert (batch.motion.abs().amax((1, 2, 3, 4)) > 0).equal(moving)


def test_a_clip_is_the_same_whatever_else_is_in_its_batch(manifest):
    config = config_for(manifest, augment={"crop": "random_resized"})
    with make_loader(config, "pretrain", Share(len(VIDEOS))) as loader:
        (mixed,) = loader
    with make_loader(config, "pretrain", Share(1)) as loader:
        alone = list(loader)
    assert len(alone) == len(mixed)
    for place, batch in enumerate(alone):
        for name, found in vars(batch).items():
            assert torch.equal(found[0], vars(mixed)[name][place]), name


def frames_by_loop(sampling, video_frames, num_frames, stride, segment, segments):
    """Frames of a view, by the rules that VideoMAE tests with."""
    frames = []
    for step in range(num_frames):
        if sampling == "dense":
            room = max(video_frames - num_frames * stride, 0)
            start = segment * room // (segments - 1) if segments > 1 else room // 2
            frame = start + step * stride
        else:
            frame = (step * segments + segment) * video_frames // (num_frames * segments)
        frames.append(min(frame, video_frames - 1))
    return frames


def box_by_loop(height, width, place, places):
    """(top, left), (bottom, right): the largest square, from one end of the long side to the other.

    One square alone lies in the middle.
    """
    side = min(height, width)
    ways = place / (places - 1) if places > 1 else 1 / 2
    top, left = int(ways * (height - side)), int(ways * (width - side))
    return (top, left), (top + side, left + side)


VIEWS = [("dense", 5, 3), ("segments", 2, 3), ("dense", 4, 1), ("dense", 1, 7), ("segments", 3, 2)]


@pytest.mark.parametrize(("sampling", "segments", "crops"), VIEWS)
def test_views_are_the_frames_and_boxes_that_plain_loops_say(manifest, sampling, segments, crops):
    config = config_for(
        manifest,
        clip={"sampling": sampling, "stride_frames": 3},
        evaluation={"num_segments": segments, "num_crops": crops},
    )
    videos = read_manifest(manifest)
    feed = ClipFeed(videos, config, "evaluate", Share(1))
    assert feed.num_samples == len(VIDEOS) * segments * crops
    number = 0
    for row, video in enumerate(videos[row] for row in range(len(videos))):
        whole = read_frames(video.path, range(video.num_frames))
        for segment in range(segments):
            frames = frames_by_loop(sampling, video.num_frames, 8, 3, segment, segments)
            for place in range(crops):
                sent = dict(zip(feed.outputs, feed.sample(number), strict=True))
                (top, left), (bottom, right) = box_by_loop(video.height, video.width, place, crops)
                shown = whole[frames][:, top:bottom, left:right]
                assert np.array_equal(sent["pixels"], shown)
                assert sent["origin"].tolist() == [top, left]
                assert sent["box_start"].tolist() == [[top, left]]
                assert sent["box_end"].tolist() == [[bottom, right]]
                _, found_row, view, _, stand_in, *box = sent["facts"][0]
                assert (found_row, view, stand_in) == (row, segment * crops + place, 0)
                assert box == [top, left, bottom, right]
                number += 1


@pytest.mark.parametrize(("sampling", "segments", "crops"), VIEWS)
def test_an_evaluation_gives_every_view_of_every_video_once(manifest, sampling, segments, crops):
    config = config_for(
        manifest,
        clip={"sampling": sampling},
        model={"name": "vit_micro", "num_frames": 2, "image_size": 32},
        evaluation={"num_segments": segments, "num_crops": crops},
    )
    seen = []
    with make_loader(config, "evaluate", Share(16)) as loader:
        for batch in loader:
            assert batch.video.isfinite().all()
            seen += zip(batch.index.tolist(), batch.view.tolist(), strict=True)
        assert not loader.skipped
    views = [(row, view) for row in range(len(VIDEOS)) for view in range(segments * crops)]
    assert seen[: len(views)] == views
    assert {row for row, _ in seen[len(views) :]} <= {-1} and len(seen) % 16 == 0
