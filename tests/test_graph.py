"""The DALI graph against plain numpy and torch: the same box cuts pixels and motion."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.clips.crops import Crop
from mgm_dali.config import AugmentConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig
from mgm_dali.motion import MotionField
from mgm_dali.pipelines.feed import ClipDraw, ClipFeed
from mgm_dali.pipelines.graph import clip_pipeline
from mgm_dali.pipelines.placement import choose_placement
from mgm_dali.pipelines.share import Share
from mgm_dali.video.manifest import Video, read_manifest, write_manifest

SIZES = [(64, 64), (70, 90), (61, 47), (240, 321), (33, 128), (100, 100), (72, 57), (128, 40)]
"""(height, width) of the made-up videos; most are no multiple of 8 or 16."""
IMAGE_SIZE, NUM_FRAMES = 48, 4


class NoiseFeed(ClipFeed):
    """The real feed over videos that exist only as noise."""

    def _read(self, clip):
        rng = np.random.default_rng(clip.index)
        video = self.manifest[clip.index]
        pixels = rng.integers(0, 256, (NUM_FRAMES, video.height, video.width, 3), dtype=np.uint8)
        cells = (-(-video.height // 8), -(-video.width // 8))
        vectors = rng.integers(-400, 400, (NUM_FRAMES, *cells, 2), dtype=np.int16)
        return pixels, MotionField(vectors, rng.random(NUM_FRAMES) < 0.7)


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "videos.csv"
    videos = [
        Video(path.parent / f"{row}.mp4", None, 40, 25.0, width, height, "h264", 1.6)
        for row, (height, width) in enumerate(SIZES)
    ]
    write_manifest(path, videos, ())
    config = RunConfig(
        device="cpu",
        data=DataConfig(train=path, num_workers=0),
        model=ModelConfig(name="vit_micro", num_frames=NUM_FRAMES, image_size=IMAGE_SIZE),
        augment=AugmentConfig(crop="random_resized", min_area=0.1),
        training=TrainingConfig(batch_size=8),
    )
    return NoiseFeed(read_manifest(path), config, "pretrain", Share(batch_size=8))


@pytest.fixture(scope="module")
def batches(feed):
    """Forty batches out of the graph, with the arrays that went in."""
    pipeline = clip_pipeline(feed, choose_placement(feed.config, feed.manifest, needs_motion=True))
    result = []
    for iteration in range(40):
        outputs = [np.array(output.as_tensor()) for output in pipeline.run()]
        sent = [
            dict(zip(feed.outputs, feed(info), strict=True))
            for info in (
                SimpleNamespace(iteration=iteration, idx_in_batch=place) for place in range(8)
            )
        ]
        result.append((outputs, sent))
    return result


def reference_motion(sent):
    """Each cell of the crop takes the vector of the source cell under its centre."""
    (top, left), (bottom, right) = sent["box_start"], sent["box_end"]
    cells = IMAGE_SIZE // 8
    places = (np.arange(cells) + 0.5) / cells
    rows, columns = (top + places * (bottom - top)) / 8, (left + places * (right - left)) / 8
    taken = sent["motion"][:, np.floor(rows).astype(int)][:, :, np.floor(columns).astype(int)]
    scale = np.array((IMAGE_SIZE / (right - left), IMAGE_SIZE / (bottom - top))) / 4
    near_edge = [np.abs(place - np.round(place)) < 1e-3 for place in (rows, columns)]
    return taken * scale, near_edge[0][:, None] | near_edge[1]


def test_motion_equals_an_independent_numpy_version_on_hundreds_of_crops(batches):
    compared = 0
    for (_, motion, _, _, _), sent in batches:
        for place in range(8):
            expected, undecided = reference_motion(sent[place])
            found = motion[place]
            assert found.shape == expected.shape
            np.testing.assert_allclose(
                found[:, ~undecided], expected[:, ~undecided], rtol=1e-5, atol=1e-4
            )
            compared += (~undecided).sum()
    assert compared > 10_000


def test_pixels_equal_torchs_bilinear_sampling_of_the_same_box(batches):
    mean, std = (np.array(v).reshape(3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    for (video, *_), sent in batches[:10]:
        for place in range(8):
            pixels = torch.from_numpy(sent[place]["pixels"]).permute(0, 3, 1, 2).float()
            height, width = pixels.shape[2:]
            (top, left), (bottom, right) = sent[place]["box_start"], sent[place]["box_end"]
            places = (torch.arange(IMAGE_SIZE) + 0.5) / IMAGE_SIZE
            y = 2 * (top + places * (bottom - top)) / height - 1
            x = 2 * (left + places * (right - left)) / width - 1
            grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
            expected = F.grid_sample(
                pixels,
                grid.float().expand(len(pixels), -1, -1, -1),
                padding_mode="border",
                align_corners=False,
            )
            found = (video[place] * std + mean) * 255  # [C T H W]
            difference = np.abs(found.transpose(1, 0, 2, 3) - expected.numpy())
            assert difference.max() < 1.01  # one level, from rounding


def test_mirrored_clips_show_their_box_from_right_to_left_and_move_the_other_way(batches):
    flips = 0
    for _, sent in batches:
        for arrays in sent:
            mirrored = arrays["box_start"][1] > arrays["box_end"][1]
            assert (arrays["motion_scale"][0] < 0) == mirrored
            assert arrays["motion_scale"][1] > 0
            flips += mirrored
    assert 0.35 < flips / (8 * len(batches)) < 0.65


def test_facts_arrive_unchanged(batches, feed):
    for (_, _, valid, facts, reason), sent in batches:
        assert (facts == [arrays["facts"] for arrays in sent]).all()
        assert (valid == [arrays["motion_valid"] for arrays in sent]).all()
        assert not reason.any()
        assert set(facts[:, 1].tolist()) == set(range(len(feed.manifest)))  # one epoch a batch


def test_an_unflipped_full_frame_crop_is_the_identity(feed, monkeypatch):
    """A 64 x 64 video shown whole at 48 x 48 keeps cell (i, j) over the cell it lies on."""
    draw = ClipDraw(0, 0, 1, np.arange(NUM_FRAMES), Crop(0, 0, 48, 48))
    monkeypatch.setattr(feed, "_random_draw", lambda *_: draw)
    sent = dict(zip(feed.outputs, feed.training_sample(0), strict=True))
    pipeline = clip_pipeline(feed, choose_placement(feed.config, feed.manifest, needs_motion=True))
    motion = np.array(pipeline.run()[1].as_tensor())[0]
    np.testing.assert_array_equal(motion, sent["motion"][:, :6, :6] / 4)
