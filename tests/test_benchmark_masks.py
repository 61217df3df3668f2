"""The benchmarks of masks: scenes are what they say, peers hide their counts, figures are right."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import intervals
import mask_merit
import mask_peers
import masking
import merit_scenes
from merit_scenes import CAMERAS, ENCODINGS, KINDS, Scene

from mgm_dali.masking import MASKS, PatchGrid, hidden_per_slice
from mgm_dali.motion import read_motion

GRID = PatchGrid(8, 14, 14)
HIDDEN = hidden_per_slice(0.9, GRID)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_changes_where_its_squares_are_and_hardly_elsewhere(kind):
    scene = Scene(kind, "still", seed=3)
    frames = list(scene.frames())
    assert len(frames) == merit_scenes.NUM_FRAMES > scene.sampled()[-1]
    first, last = 0, len(frames) - 1
    changed = np.abs(frames[last][..., 0].astype(int) - frames[first][..., 0])
    touched = scene.inside(first) | scene.inside(last)
    noise = 3 * KINDS[kind].grain
    assert (changed[~touched] <= 2 * noise).mean() > 0.99
    assert (changed[touched] > noise).mean() > 0.25


@pytest.mark.parametrize("camera", CAMERAS[1:])
def test_a_moving_camera_changes_all_of_the_background(camera):
    scene = Scene("one", camera, seed=0)
    frames = list(scene.frames())
    changed = np.abs(frames[-1].astype(int) - frames[0])[~scene.inside(0)]
    assert (changed > 5).mean() > 0.5


def test_squares_stay_in_the_picture_and_keep_their_pace():
    for kind, seed in ((kind, seed) for kind in KINDS for seed in range(9)):
        scene = Scene(kind, "still", seed)
        ways = np.array([scene.squares(number) for number in range(merit_scenes.NUM_FRAMES)])
        places, sides = ways[..., :2], ways[..., 2:]
        assert (places >= 0).all() and (places + sides <= merit_scenes.SIDE_PIXELS).all()
        pace = np.hypot(*np.moveaxis(np.diff(places, axis=0), -1, 0))
        assert np.isclose(np.median(pace), KINDS[kind].pixels_a_frame)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_vectors_of_an_encoded_scene_lie_on_its_squares(tmp_path, encoding):
    scene = Scene("one", "still", seed=1)
    merit_scenes.encode(scene, encoding, tmp_path / "clip.mp4")
    frames = scene.sampled()
    length = np.hypot(*np.moveaxis(read_motion(tmp_path / "clip.mp4", frames).pixels(), -1, 0))
    inside = np.stack([scene.inside(number)[4::8, 4::8] for number in frames.tolist()])
    assert length[inside].mean() > 10 * length[~inside].mean()


def test_tubes_hide_their_count_and_are_the_same_in_all_slices():
    mask = mask_peers.videomae_tubes(5, GRID, HIDDEN, np.random.default_rng(0)).view(5, *GRID)
    assert mask.dtype == torch.bool and (mask.sum((2, 3)) == HIDDEN).all()
    assert (mask == mask[:, :1]).all() and not torch.equal(mask[0], mask[1])


def warped(flows):
    generator = torch.Generator().manual_seed(0)
    return mask_peers.mgmae_warp(flows, GRID, HIDDEN, generator).view(len(flows), *GRID)


def test_warped_masks_hide_their_count_in_every_slice():
    flows = mask_peers.smooth_flows(2, GRID, torch.Generator().manual_seed(1))
    assert (warped(flows).sum((2, 3)) == HIDDEN).all()


def test_what_a_warped_mask_shows_moves_with_the_flow():
    flows = torch.zeros(1, 2, 15, 224, 224, 2)
    assert (warped(flows) == warped(flows)[:, :1]).all(), "nothing moves"
    # Everything comes on by a patch to the right in two frames, which is one slice.
    flows[:, 0, ..., 0], flows[:, 1, ..., 0] = -8, 8
    mask = warped(flows)
    for earlier in (3, 4, 5):
        agree = mask[0, earlier, :, 3:-4] == mask[0, earlier + 1, :, 4:-3]
        assert agree.float().mean() > 0.95


def test_merit_counts_the_hidden_area_the_missed_slices_and_the_way():
    area = np.zeros((1, 2, 4, 4))
    area[0, :, 0, 0], area[0, :, 0, 1] = 1, 0.5
    masks = np.zeros((1, 2, 4, 4), np.bool_)
    masks[0, 0, 0, 0] = masks[0, 1, 3, 0] = True
    found = mask_merit.merit(masks, area)
    assert (found.hidden[0], found.missed[0], found.moved[0]) == pytest.approx((1 / 3, 0.5, 3))


def test_an_interval_holds_the_mean_and_narrows_with_more_clips():
    values = np.random.default_rng(0).uniform(size=400)
    low, high = mask_merit.interval(values)
    few_low, few_high = mask_merit.interval(values[:16])
    assert low < values.mean() < high and high - low < few_high - few_low
    assert mask_merit.interval(values) == (low, high)


def test_every_strategy_is_judged_and_timed():
    judged = {mask_merit.MaskConfig(**options).strategy for options in mask_merit.RULES.values()}
    timed = {each.label for each in masking.contenders_on(torch.device("cpu"), batch=2)}
    assert judged == set(MASKS)
    assert timed >= {f"ours: {name}" for name in MASKS} | {masking.GOAL_OF}


@pytest.mark.slow
def test_the_timing_prints_a_row_for_each_and_keeps_every_round(tmp_path):
    numbers = tmp_path / "numbers.json"
    command = [sys.executable, masking.__file__, "--batch", "2", "--rounds", "1", "--no-compile"]
    done = subprocess.run(
        [*command, "--json", str(numbers)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert masking.GOAL_OF in done.stdout and "MGMAE" in done.stdout and numbers.exists()


def test_the_ratio_of_two_means_is_sure_where_clips_agree_on_it():
    values = np.random.default_rng(0).uniform(1, 2, size=50)
    assert intervals.ratio_interval(3 * values, values) == pytest.approx((3, 3))
    low, high = intervals.ratio_interval(values, values[::-1])
    assert low < 1 < high


def test_masks_of_others_are_set_over_ours_by_the_medians_of_rounds():
    guided = masking.Contender(masking.GOAL_OF, int, 2, milliseconds=[1, 3, 2, 2])
    tube = masking.Contender("ours: tube", int, 2, milliseconds=[4, 4, 8, 8])
    theirs = masking.Contender("theirs", int, 1, milliseconds=[8, 4], same_rule="ours: tube")
    rows = list(masking._rows("CPU", [guided, tube, theirs]))
    assert [(row["what"], row["peer"]) for row in rows] == [
        (f"on CPU: {masking.GOAL_OF}", "theirs"),
        ("on CPU: ours: tube", "theirs"),
    ]
    assert [(row["ratio"], row["low"], row["high"]) for row in rows] == [(3, 2, 4), (1, 0.5, 2)]
