"""Random erasing: whole boxes of noise, in the wanted share of the clips, from each clip's seed."""

import ast
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mgm_dali.pipelines.erasing import erase
from mgm_dali.torchvision_ops import import_torchvision

import_torchvision()

from timm.data.random_erasing import RandomErasing  # noqa: E402

ROOT = Path(__file__).parents[1]
UNTOUCHED = 100.0
"""A value that noise never takes."""


def untouched(clips, size=(3, 2, 48, 64)):
    return torch.full((clips, *size), UNTOUCHED)


def boxes_of(erased):
    """(top, left, height, width) of what differs in each `[B, H, W]`; fails unless it is a box."""
    boxes = []
    for inside in (erased != UNTOUCHED).numpy():
        rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
        if len(rows) == 0:
            boxes.append((0, 0, 0, 0))
            continue
        top, left, height, width = rows[0], columns[0], len(rows), len(columns)
        assert inside[top : top + height, left : left + width].all()
        assert inside.sum() == height * width
        boxes.append((top, left, height, width))
    return np.array(boxes)


@pytest.fixture(scope="module")
def many_boxes():
    """Of two thousand clips that are all erased."""
    return boxes_of(erase(untouched(2000, (1, 1, 48, 64)), torch.arange(2000), 1.0)[:, 0, 0])


@pytest.mark.parametrize("probability", [0.25, 0.6])
def test_the_wanted_share_of_the_clips_is_erased(probability):
    video = untouched(4000, (1, 1, 16, 16))
    erased = (erase(video, torch.arange(4000), probability) != video).flatten(1).any(1)
    assert abs(erased.float().mean() - probability) < 0.025


def test_never_and_always_mean_what_they_say(many_boxes):
    video = untouched(50)
    assert torch.equal(erase(video, torch.arange(50), 0.0), video)
    assert (many_boxes[:, 2] > 0).all()


def test_all_frames_and_channels_of_a_clip_lose_the_same_box_to_noise_of_their_own():
    erased = erase(untouched(30, (3, 4, 32, 40)), torch.arange(30), 1.0).flatten(1, 2)
    expected = boxes_of(erased[:, 0])
    for plane in range(1, erased.shape[1]):
        assert (boxes_of(erased[:, plane]) == expected).all()
    for clip in erased:
        noise = clip[:, (clip[0] != UNTOUCHED)]
        assert len(noise.unique(dim=0)) == len(noise)


def test_what_lies_outside_the_box_stays_bit_for_bit_and_the_input_stays_as_it_was():
    video = torch.randn(20, 3, 4, 32, 40)
    before = video.clone()
    noise = erase(torch.full_like(video, UNTOUCHED), torch.arange(20), 0.7)
    erased = erase(video, torch.arange(20), 0.7)
    assert torch.equal(erased, torch.where(noise == UNTOUCHED, video, noise))
    assert torch.equal(video, before)


def test_areas_and_aspect_ratios_span_the_published_ranges(many_boxes):
    heights, widths = many_boxes[:, 2], many_boxes[:, 3]
    # Rounding to whole pixels moves a side by half a pixel, the area by that share of it.
    room = 0.5 * (heights + widths) + 0.25
    assert (heights * widths + room >= 0.02 * 48 * 64).all()
    assert (heights * widths - room <= 48 * 64 / 3).all()
    assert ((heights + 0.5) / (widths - 0.5) >= 0.3).all()
    assert ((heights - 0.5) / (widths + 0.5) <= 1 / 0.3).all()
    assert (heights < 48).all() and (widths < 64).all()


def test_boxes_are_distributed_as_timms(many_boxes, monkeypatch):
    monkeypatch.setattr(random, "random", random.Random(1).random)
    monkeypatch.setattr(random, "uniform", random.Random(2).uniform)
    monkeypatch.setattr(random, "randint", random.Random(3).randint)
    timm = RandomErasing(probability=1.0, mode="pixel", device="cpu")
    expected = boxes_of(torch.stack([timm(untouched(1, (1, 48, 64))[0])[0] for _ in range(2000)]))
    for ours, theirs in zip(many_boxes.T, expected.T, strict=True):
        shares = np.linspace(0.05, 0.95, 10)
        np.testing.assert_allclose(
            np.quantile(ours, shares), np.quantile(theirs, shares), atol=0.05 * theirs.max()
        )


def test_the_noise_is_normal():
    erased = erase(untouched(64, (3, 8, 32, 32)), torch.arange(64), 1.0)
    noise = erased[erased != UNTOUCHED]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    within_one = (noise.abs() < 1).float().mean()
    assert abs(within_one - 0.6827) < 0.01
    assert noise.abs().max() > 3.5


def test_a_clip_is_erased_alike_whatever_else_is_in_the_batch():
    video, seed = torch.randn(16, 3, 2, 24, 31), torch.randint(0, 2**62, (16,))
    together = erase(video, seed, 0.5)
    assert torch.equal(erase(video.flip(0), seed.flip(0), 0.5).flip(0), together)
    for clip in range(16):
        alone = erase(video[clip : clip + 1], seed[clip : clip + 1], 0.5)
        assert torch.equal(alone[0], together[clip])


def test_neighbouring_seeds_share_neither_boxes_nor_noise():
    erased = erase(untouched(2, (1, 1, 64, 64)), torch.tensor([7, 8]), 1.0)
    assert (boxes_of(erased[:1, 0, 0]) != boxes_of(erased[1:, 0, 0])).any()
    first, second = (set(clip[clip != UNTOUCHED].tolist()) for clip in erased)
    assert len(first & second) < 0.01 * len(first)


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (3, 1, 1, 50), (1, 3, 2, 2), (3, 1, 15, 17)])
def test_frames_too_small_for_a_box_are_left_as_they_are(size):
    erased = erase(untouched(40, size), torch.arange(40), 1.0)
    assert erased.shape == (40, *size) and erased.isfinite().all()
    if min(size[2:]) == 1:
        assert (erased == UNTOUCHED).all()


def test_half_precision_stays_half_precision():
    video = untouched(4).bfloat16()
    assert erase(video, torch.arange(4), 1.0).dtype == torch.bfloat16


def test_no_two_draws_take_their_numbers_from_the_same_stream():
    streams = {}
    for path in (*ROOT.glob("mgm_dali/*/*.py"), *ROOT.glob("pipelines/*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign):
                target = node.targets[0]
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                values = node.value.elts if isinstance(target, ast.Tuple) else [node.value]
                for name, value in zip(names, values, strict=True):
                    if getattr(name, "id", "").endswith("_STREAM"):
                        streams[path.resolve(), name.id] = ast.literal_eval(value)
    assert len(streams) >= 6
    assert len(set(streams.values())) == len(streams)


@pytest.mark.gpu
def test_boxes_are_bit_equal_on_both_devices_and_noise_up_to_rounding():
    video, seed = untouched(64, (3, 4, 112, 112)), torch.randint(0, 2**62, (64,))
    on_cpu, on_gpu = erase(video, seed, 0.5), erase(video.cuda(), seed.cuda(), 0.5)
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu() != video, on_cpu != video)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-5, rtol=1e-5)
