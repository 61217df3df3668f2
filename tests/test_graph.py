"""The DALI graph against plain numpy and torch: the same box cuts pixels and motion."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.clips.crops import CROPS, Crop
from mgm_dali.clips.draw import Cut, Decoding
from mgm_dali.config import AugmentConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig
from mgm_dali.motion import MotionField
from mgm_dali.pipelines import feed as feed_module
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.graph import GRAPH_OUTPUTS, clip_pipeline
from mgm_dali.pipelines.placement import choose_placement
from mgm_dali.pipelines.pool import read_here
from mgm_dali.pipelines.share import Share
from mgm_dali.video.manifest import Video, read_manifest, write_manifest

SIZES = [(40 + height, 52 + width) for height in range(16) for width in range(16)]
"""(height, width) of the made-up videos: every remainder of 16, so every place in a block."""
IMAGE_SIZE, NUM_FRAMES = 48, 2
CELLS = IMAGE_SIZE // 8
REPEATS = (1, 2, 4)


class NoiseFeed(ClipFeed):
    """The real feed over videos that exist only as noise."""

    reads: Counter[int]
    """How often each row was decoded."""

    def read(self, decoding):
        self.reads[decoding.row] += 1
        rng = np.random.default_rng((decoding.row, *decoding.frames))
        video = self.manifest[decoding.row]
        pixels = rng.integers(0, 256, (NUM_FRAMES, video.height, video.width, 3), dtype=np.uint8)
        cells = (-(-video.height // 8), -(-video.width // 8))
        known = rng.random((NUM_FRAMES, *cells)) < 0.8
        vectors = rng.integers(-400, 400, (NUM_FRAMES, *cells, 2), dtype=np.int16) | 1  # never 0
        vectors[~known] = 0
        window = self.window(decoding)
        pixels = pixels[:, window.top : window.bottom, window.left : window.right]
        field = MotionField(vectors, rng.random(NUM_FRAMES) < 0.7, known)
        return np.ascontiguousarray(pixels), field


@dataclass(repr=False)
class Epoch:
    """Every video once through the graph, in one batch: what came out, and what had gone in."""

    outputs: dict[str, np.ndarray]
    sent: list[dict[str, np.ndarray]]
    reads: Counter[int]

    def clips(self):
        """(video, motion, arrays that were sent, number of the copy) of every clip."""
        for place, arrays in enumerate(self.sent):
            for copy in range(len(arrays["facts"])):
                video = self.outputs["video"][place, 3 * copy :][:3]
                motion = self.outputs["motion"][place, NUM_FRAMES * copy :][:NUM_FRAMES]
                yield video, motion, arrays, copy


def feed_for(manifest, crop, repeats):
    clips = len(SIZES) * repeats
    config = RunConfig(
        device="cpu",
        data=DataConfig(train=manifest, num_workers=0, prefetch_batches=1),
        model=ModelConfig(name="vit_micro", num_frames=NUM_FRAMES, image_size=IMAGE_SIZE),
        augment=AugmentConfig(crop=crop, min_area=0.1, repeats=repeats),
        training=TrainingConfig(batch_size=clips),
    )
    feed = NoiseFeed(read_manifest(manifest), config, "pretrain", Share(batch_size=clips))
    feed.reads = Counter()
    return feed


def run(feed):
    """The next batch of a new pipeline, and what the feed has sent for each of its videos."""
    placement = choose_placement(feed.config, feed.manifest, needs_motion=True)
    batch = next(read_here(feed))
    outputs = clip_pipeline(feed, placement, iter([batch])).run()
    found = {
        name: np.array(output.as_tensor())
        for name, output in zip(GRAPH_OUTPUTS, outputs, strict=True)
    }
    return found, [
        dict(zip(feed.outputs, arrays, strict=True)) for arrays in zip(*batch, strict=True)
    ]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "videos.csv"
    videos = [
        Video(path.parent / f"{row}.mp4", None, 40, 25.0, width, height, "h264", 1.6)
        for row, (height, width) in enumerate(SIZES)
    ]
    write_manifest(path, videos, ())
    return path


@pytest.fixture(scope="module")
def epochs(manifest):
    """{(kind of crop, repeats): the same epoch}."""
    found = {}
    for crop in CROPS:
        for repeats in REPEATS:
            feed = feed_for(manifest, crop, repeats)
            found[crop, repeats] = Epoch(*run(feed), feed.reads)
    return found


class Centres:
    """Where the middles of the crop's cells lie along one side of the source, in its cells."""

    def __init__(self, start, end, source_cells):
        step = (float(end) - float(start)) / 8 / CELLS
        places = float(start) / 8 + (np.arange(CELLS) + 0.5) * step
        border = np.round(places)
        near = np.abs(places - border) < 1e-5
        # A middle on a border belongs to the cell behind it, if float32 can say that it is there.
        self.undecided = near & (float(np.float32(step)) != step)
        below = np.where(near, border - 1, np.floor(places))
        self.taken = np.where(near, border, below).astype(int).clip(0, source_cells - 1)
        self.neighbour = below.astype(int).clip(0, source_cells - 1)


@pytest.mark.parametrize("crop", CROPS)
def test_motion_equals_an_independent_numpy_version_on_thousands_of_crops(epochs, crop):
    compared = undecided = flips = 0
    for _, found, sent, copy in epochs[crop, 4].clips():
        (top, left), (bottom, right) = sent["box_start"][copy], sent["box_end"][copy]
        vectors = sent["motion"].astype(float) / 4
        vectors *= IMAGE_SIZE / (right - left), IMAGE_SIZE / (bottom - top)  # (dx, dy); dx mirrored
        rows = Centres(top, bottom, vectors.shape[1])
        columns = Centres(left, right, vectors.shape[2])
        equal = [
            np.isclose(found, vectors[:, row][:, :, column], rtol=1e-5, atol=1e-4).all(-1)
            for row in (rows.taken, rows.neighbour)
            for column in (columns.taken, columns.neighbour)
        ]
        free = rows.undecided[:, None] | columns.undecided
        assert equal[0][:, ~free].all()
        assert np.any(equal, 0).all()
        compared, undecided = compared + free.size, undecided + free.sum()
        flips += right < left
    clips = 4 * len(SIZES)
    assert compared == clips * CELLS**2 and undecided < 0.03 * compared
    assert 0.4 < flips / clips < 0.6


def test_which_cells_are_known_travels_with_their_vectors(epochs):
    for epoch in epochs.values():
        motion, known = epoch.outputs["motion"], epoch.outputs["motion_known"][..., 0]
        assert np.array_equal(known.astype(bool), motion.any(-1))
        assert 0.7 < known.mean() < 0.9


def by_grid_sample(pixels, start, end):
    """Frames `[T, H, W, 3]` in a box, bilinear, as `[3, T, S, S]`; from right to left if so.

    Nothing outside of the box is seen.
    """
    top, left = np.minimum(start, end).astype(int)
    bottom, right = np.maximum(start, end).astype(int)
    frames = torch.from_numpy(pixels[:, top:bottom, left:right]).permute(0, 3, 1, 2).float()
    start, end = start - (top, left), end - (top, left)
    places = (np.arange(IMAGE_SIZE)[:, None] + 0.5) / IMAGE_SIZE
    y, x = torch.from_numpy(2 * (start + places * (end - start)) / frames.shape[2:] - 1).unbind(1)
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).float()
    grid = grid.expand(len(frames), -1, -1, -1)
    sampled = F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
    return sampled.permute(1, 0, 2, 3).numpy()


@pytest.mark.parametrize("crop", CROPS)
def test_pixels_equal_torchs_bilinear_sampling_of_the_same_box_at_every_size(epochs, crop):
    mean, std = (np.array(v).reshape(3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    for number, (video, _, sent, copy) in enumerate(epochs[crop, 4].clips()):
        if number % 4 != number // 4 % 4:
            continue  # of every video one copy, each as often
        start, end = (sent[name][copy] - sent["origin"] for name in ("box_start", "box_end"))
        expected = by_grid_sample(sent["pixels"], start, end)
        found = (video * std + mean) * 255
        assert np.abs(found - expected).max() < 1.01  # one level, from rounding


@pytest.mark.parametrize("crop", CROPS)
def test_more_copies_change_nothing_about_the_first(epochs, crop):
    most = epochs[crop, 4]
    for repeats in (1, 2):
        for name, found in epochs[crop, repeats].outputs.items():
            assert np.array_equal(found, most.outputs[name][:, : found.shape[1]]), name
        for fewer, more in zip(epochs[crop, repeats].sent, most.sent, strict=True):
            assert fewer["pixels"].size <= more["pixels"].size  # a window around all of them
    boxes = np.array([(sent["box_start"], sent["box_end"]) for sent in most.sent])
    own = np.array([len(np.unique(box, axis=1)[0]) for box in boxes])
    # A box in the middle or of all can only be mirrored or not; of few some are drawn twice.
    least = {"center": 1.7, "whole": 1.7, "multi_scale": 3.7, "random_resized": 3.99}[crop]
    assert own.mean() > least
    seeds = most.outputs["facts"][..., 3]
    assert len(np.unique(seeds)) == seeds.size


def test_a_video_is_decoded_once_whatever_is_cut_out_of_it(epochs):
    for epoch in epochs.values():
        assert epoch.reads == dict.fromkeys(range(len(SIZES)), 1)


def test_mirrored_clips_show_their_box_from_right_to_left_and_move_the_other_way(epochs):
    for epoch in epochs.values():
        for sent in epoch.sent:
            mirrored = sent["box_start"][:, 1] > sent["box_end"][:, 1]
            assert ((sent["motion_scale"][:, 0] < 0) == mirrored).all()
            assert (sent["motion_scale"][:, 1] > 0).all()
            assert (sent["box_start"][:, 0] < sent["box_end"][:, 0]).all()


def test_facts_arrive_unchanged(epochs):
    for (_, repeats), epoch in epochs.items():
        outputs, sent = epoch.outputs, epoch.sent
        assert outputs["facts"].shape == (len(SIZES), repeats, 9)
        for name in ("facts", "motion_valid"):
            assert (outputs[name] == [arrays[name] for arrays in sent]).all()
        assert not outputs["reason"].any()
        _, row, view, _, stand_in, *box = outputs["facts"].transpose(2, 0, 1)
        expected = [np.concatenate((s["box_start"], s["box_end"]), axis=1) for s in sent]
        assert (np.stack(box, axis=-1) == expected).all()
        assert set(row[:, 0].tolist()) == set(range(len(SIZES)))
        assert (row == row[:, :1]).all() and (view == range(repeats)).all()
        assert not stand_in.any()


def test_an_unflipped_crop_of_the_clips_own_size_is_the_identity(manifest, monkeypatch):
    nothing = np.empty(0, np.int32)
    cut = Cut(0, 1, Crop(0, 0, IMAGE_SIZE, IMAGE_SIZE), nothing, nothing)
    decoding = Decoding(255, np.arange(NUM_FRAMES), (cut,))
    monkeypatch.setattr(feed_module, "training_decoding", lambda *_: decoding)
    feed = feed_for(manifest, "center", 1)
    outputs, (sent, *_) = run(feed)
    assert sent["pixels"].shape[1:3] == (IMAGE_SIZE, IMAGE_SIZE)
    np.testing.assert_array_equal(outputs["motion"][0], sent["motion"][:, :CELLS, :CELLS] / 4)
    whole = sent["pixels"][:, :IMAGE_SIZE, :IMAGE_SIZE].transpose(3, 0, 1, 2)
    mean, std = (np.array(v).reshape(3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    np.testing.assert_allclose((outputs["video"][0] * std + mean) * 255, whole, atol=1e-3)
