"""The benchmark of loaders: all show the same clips in the same form, and all CPU time counts."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import loader
import loader_feeds
import loader_worker
import peer_loaders
import peers
from videos import Clip

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.config import RunConfig
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.profiling.clocks import cpu_seconds
from mgm_dali.profiling.feeds import RememberingFeed
from mgm_dali.video.manifest import read_manifest
from mgm_dali.video.reader import read_frames

MINIATURE = ("--no-peers", "--rounds", 1, "--warm-up", 1, "--batches", 2, "--workers", 1)
SIZE = 64


def run_script(*arguments):
    command = [sys.executable, loader.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def tree(manifest):
    return {
        "device": "cpu",
        "data": {"train": str(manifest), "num_workers": 0},
        "clip": {"stride_frames": 2},
        "model": {"name": "vit_micro", "num_frames": 8, "image_size": SIZE},
        "augment": {"crop": "multi_scale", "flip": False},
        "training": {"batch_size": 6},
    }


def with_pillow(pixels, box, size):
    return peer_loaders.crop_with_pillow(pixels, box, size)


def with_torchvision(pixels, box, size):
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return peer_loaders.crop_with_torchvision(tensor, box, size, antialias=False)


def with_torchvision_antialias(pixels, box, size):
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return peer_loaders.crop_with_torchvision(tensor, box, size, antialias=True)


CROPS = (with_pillow, with_torchvision, with_torchvision_antialias)


def normalised(pixels):
    """uint8 `[T, H, W, 3]` to `[3, T, H, W]`, in numpy alone."""
    scaled = (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return np.moveaxis(scaled, 3, 0)


@pytest.mark.parametrize("crop", CROPS)
def test_a_crop_of_a_peer_shows_what_is_in_the_box_normalised(crop):
    """A ramp stays a ramp, whatever the kernel, but for the border of the box."""
    columns = np.arange(120, dtype=np.uint8) + 40
    pixels = np.broadcast_to(columns[None, None, :, None], (4, 90, 120, 3)).copy()
    top, left, height, width = box = (10, 20, 64, 96)
    found = crop(pixels, box, SIZE)
    assert found.shape == (3, 4, SIZE, SIZE) and found.dtype == torch.float32
    assert top + height < 90
    along = left + (np.arange(SIZE) + 0.5) * width / SIZE - 0.5 + 40
    expected = normalised(np.broadcast_to(along[None, None, :, None], (4, SIZE, SIZE, 3)))
    one_level = 1 / 255 / min(IMAGENET_STD)
    np.testing.assert_allclose(found[..., 2:-2], expected[..., 2:-2], atol=one_level)


@pytest.mark.parametrize("crop", CROPS)
def test_peers_are_given_the_clips_that_ours_shows(moving_shapes, crop):
    config = RunConfig.model_validate(tree(moving_shapes))
    planned = loader_feeds.planned_clips(read_manifest(moving_shapes), config, 6)
    batch = next(iter(make_loader(config, "finetune", Share(6))))
    assert batch.index.tolist() == [clip["row"] for clip in planned]
    for shown, clip in zip(batch.video, planned, strict=True):
        theirs = crop(read_frames(clip["path"], clip["frames"]), clip["box"], SIZE)
        assert (shown - theirs).abs().mean() < 0.1, "resized in another way, but the same clip"
        others = crop(read_frames(clip["path"], clip["frames"])[::-1].copy(), clip["box"], SIZE)
        assert (shown - others).abs().mean() > (shown - theirs).abs().mean()


def test_a_loader_that_shows_other_clips_is_not_measured(moving_shapes, monkeypatch):
    monkeypatch.setattr(loader_worker, "_checked", len)  # of clips that are smaller here
    config = tree(moving_shapes)
    manifest = read_manifest(moving_shapes)
    planned = loader_feeds.planned_clips(manifest, RunConfig.model_validate(config), 24)
    stretch = {"batch_size": 6, "num_workers": 0, "num_warm_up": 1, "num_batches": 2}
    arguments = {"stretch": stretch, "config": config, "stage": "finetune"}
    found = loader_worker.measure("ours", {**arguments, "clips": planned})
    assert found["frames"] == 12 * loader_worker.CLIP_FRAMES and found["cpu_seconds"] > 0
    found = loader_worker.measure("ours", {**arguments, "clips": planned, "repeats": 3})
    assert found["frames"] == 12 * loader_worker.CLIP_FRAMES
    with pytest.raises(ValueError, match="other clips"):
        loader_worker.measure("ours", {**arguments, "clips": planned[::-1]})


@pytest.mark.parametrize(
    "video", [torch.zeros(2, 3, 16, 112, 112), torch.zeros(2, 3, 16, 224, 224, dtype=torch.half)]
)
def test_a_batch_in_another_form_is_not_measured(video):
    with pytest.raises(ValueError, match="gave a batch of"):
        loader_worker._checked(video)


def test_a_tube_mask_hides_the_same_patches_in_every_slice():
    mask = peer_loaders.tube_mask(8, 14).view(8, 196)
    assert (mask == mask[0]).all() and int(mask[0].sum()) == 176


def test_the_remembering_feed_hands_its_samples_over_and_reads_nothing(moving_shapes, monkeypatch):
    arguments = (
        read_manifest(moving_shapes),
        RunConfig.model_validate(tree(moving_shapes)),
        *("pretrain", Share(6)),
    )
    reader = ClipFeed(*arguments, motion_source="codec")
    samples = [reader.sample(number) for number in range(3)]
    monkeypatch.delattr(ClipFeed, "read")
    feed = RememberingFeed(*arguments, motion_source="codec", remembered=samples)
    handed = [feed.sample(number)[0] for number in range(9)]
    counts = [sum(pixels is sample[0] for pixels in handed) for sample in samples]
    assert counts == [3, 3, 3]


@contextmanager
def child_that_has_run(program):
    """A process that has done what the program says, and lives on until the block is left."""
    command = [sys.executable, "-c", f"{program}\nprint(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        yield
        child.communicate(b"\n")


def test_cpu_time_of_processes_that_still_live_counts():
    before = cpu_seconds()
    with child_that_has_run("import time\nwhile time.process_time() < 1: pass"):
        assert cpu_seconds() - before >= 0.95
    assert cpu_seconds() - before >= 0.95, "nor is it lost when they end"


def test_cpu_time_of_threads_that_have_ended_counts():
    program = (
        "import threading, time\n"
        "def work():\n    end = time.thread_time() + 1\n    while time.thread_time() < end: pass\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()"
    )
    before = cpu_seconds()
    with child_that_has_run(program):
        assert cpu_seconds() - before >= 0.9


def test_an_environment_made_in_another_way_is_made_anew(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(peers, "_install", lambda *arguments: made.append(arguments) or "")
    (tmp_path / "decord").mkdir()
    (tmp_path / "decord/filled").write_text(peers.PEERS["decord"].requirement)
    for _ in range(2):
        peers.start("decord", tmp_path, lambda _: None).close()
    assert len(made) == 1


@pytest.mark.slow
def test_the_script_measures_a_loader_and_keeps_every_round(tmp_path):
    video = Clip(width=96, height=64, num_frames=64, velocity=(0, 0), start=(8, 8)).path()
    numbers = tmp_path / "numbers.json"
    chosen = ("--only", "from the codec", "--batch-size", 2, "--json", numbers)
    done = run_script("--videos", video, *MINIATURE, *chosen)
    assert done.returncode == 0, done.stderr
    found = json.loads(numbers.read_text())
    for timing in found["timings"].values():
        assert not timing["failures"]
        ((seconds,),) = [jobs["clips"] for jobs in timing["seconds"].values()]
        assert seconds > 0
    assert all(goal["found"] is None for goal in found["goals"])
    assert "not measured" in done.stdout and found["versions"]["torch"]


@pytest.mark.slow
def test_the_script_measures_all_of_ours(tmp_path):
    videos = [
        Clip(width=96, height=64, num_frames=n, start=(8, 8), velocity=(0, 0)).path()
        for n in (64, 80)
    ]
    numbers = tmp_path / "numbers.json"
    done = run_script("--videos", *videos, *MINIATURE, "--batch-size", 4, "--json", numbers)
    assert done.returncode == 0, done.stderr
    timings = json.loads(numbers.read_text())["timings"]["CPU time"]
    assert not timings["failures"] and len(timings["seconds"]) == 6
    assert all(jobs["clips"][0] > 0 for jobs in timings["seconds"].values())


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--workers", 0), 2, "--workers"),
        (("--videos", "none.mp4"), 1, "error: "),
        (("--videos", Clip().path(), "--only", "nobody"), 1, "nobody"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_a_line(arguments, status, said):
    done = run_script(*MINIATURE, *arguments)
    assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr
