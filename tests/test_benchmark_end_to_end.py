"""The benchmark of whole trainings: the same clips and masks for all, and whole steps."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import end_to_end
import end_to_end_worker
import loader_feeds
import peer_loaders
import turns
from end_to_end_worker import Clock, Enough
from loader_worker import CLIP_FRAMES, Stretch
from peers import PeerError
from rounds import Contender
from step_contenders import HUGGINGFACE, OFFICIAL
from videos import Clip

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import RunConfig
from mgm_dali.masking import hidden_per_slice
from mgm_dali.video.manifest import read_manifest
from mgm_dali.video.reader import read_frames

SIZE = 64
STRETCH = Stretch(batch_size=2, num_workers=0, num_warm_up=1, num_batches=2)


def arguments_of(manifest, strategy="tube"):
    """Of a turn on the small videos."""
    short = {"max_steps": 4, "log_every_steps": 1}
    config = {
        **loader_feeds.our_config(read_manifest(manifest), 2, 0),
        "clip": {"stride_frames": 2},
        "model": {"name": "vit_micro", "num_frames": 8, "image_size": SIZE, "decoder_depth": 1},
        "mask": {"strategy": strategy, "ratio": peer_loaders.MASK_RATIO},
        "training": {**short, "batch_size": 2, "precision": "fp32", "attention_kernel": "sdpa"},
    }
    clips = loader_feeds.planned_clips(
        read_manifest(manifest), RunConfig.model_validate(config), 16
    )
    threads = torch.get_num_threads()
    return {"stretch": vars(STRETCH), "threads": threads, "clips": clips, "config": config}


@pytest.fixture
def decord(monkeypatch):
    """Stands for the library, which has an environment of its own."""

    class VideoReader:
        def __init__(self, path, **_):
            self.path = path

        def get_batch(self, frames):
            pixels = read_frames(self.path, frames)
            return type("Array", (), {"asnumpy": lambda _: pixels})()

    module = ModuleType("decord")
    module.VideoReader, module.cpu = VideoReader, lambda _: None
    monkeypatch.setitem(sys.modules, "decord", module)
    monkeypatch.setattr(end_to_end_worker, "IMAGE_SIZE", SIZE)


def require_sound(found):
    assert found["frames"] == 4 * CLIP_FRAMES
    assert found["wall_seconds"] > 0 and found["cpu_seconds"] > 0
    assert 0 <= found["waited_share"] <= 1


def test_the_clock_runs_over_whole_steps_and_ends_behind_the_last_one():
    clock = Clock(STRETCH)
    pauses = [0.2, 0.05, 0.1]  # the first step warms up
    for pause in pauses:
        clock.arrived()
        time.sleep(pause)
    with pytest.raises(Enough):
        clock.arrived()
    assert clock.wall_seconds == pytest.approx(sum(pauses[1:]), abs=0.1)
    assert clock.waited_share([9.0, 0.03, 0.03, 9.0]) == pytest.approx(0.06 / clock.wall_seconds)


@pytest.mark.parametrize("strategy", ["tube", "motion_guided"])
def test_ours_is_a_real_run_on_the_planned_clips(moving_shapes, strategy):
    require_sound(end_to_end_worker.measure("ours", arguments_of(moving_shapes, strategy)))


def test_a_run_that_shows_other_clips_is_not_measured(moving_shapes):
    arguments = arguments_of(moving_shapes)
    arguments["clips"].reverse()
    with pytest.raises(ValueError, match="other clips"):
        end_to_end_worker.measure("ours", arguments)


@pytest.mark.parametrize("network", [OFFICIAL, HUGGINGFACE])
@pytest.mark.usefixtures("decord")
def test_others_train_on_the_same_clips(moving_shapes, network):
    if network == HUGGINGFACE:
        pytest.importorskip("transformers")
    require_sound(
        end_to_end_worker.measure("peer", {**arguments_of(moving_shapes), "network": network})
    )


def test_all_hide_as_many_tokens():
    theirs = peer_loaders.tube_mask(8, 14)
    assert int(theirs.sum()) == 8 * hidden_per_slice(peer_loaders.MASK_RATIO, PatchGrid(8, 14, 14))
    contenders = end_to_end._contenders({}, {}, with_peers=True)
    ratios = {
        contender.arguments["config"].get("mask", {}).get("ratio") for contender in contenders
    }
    assert ratios == {None, peer_loaders.MASK_RATIO}, "the others', and those that differ from it"


def test_who_fails_once_is_not_tried_again_and_the_others_go_on():
    tried = []

    def measure(contender):
        tried.append(contender.label)
        if contender.label == "never" or (contender.label, len(tried)) == ("late", 5):
            raise PeerError("broken")
        return {"cpu_seconds": 6.0, "wall_seconds": 4.0, "frames": 2 * CLIP_FRAMES, "more": 7.0}

    contenders = [Contender(label, "ours", "any") for label in ("good", "late", "never")]
    found = turns.run_turns(contenders, 3, measure, {"told": "more"}, lambda *_: None)
    assert tried == ["good", "late", "never", "good", "late", "good"]
    assert found[turns.CPU].seconds == {"good": {turns.CLIPS: [3.0] * 3}}, "seconds a clip"
    assert found[turns.WALL].seconds == {"good": {turns.CLIPS: [2.0] * 3}}
    assert found["told"].seconds == {"good": {turns.CLIPS: [7.0] * 3}}
    reason = {turns.CLIPS: "broken"}
    assert found[turns.CPU].failures == {"late": reason, "never": reason}


@pytest.mark.slow
def test_the_script_measures_all_of_ours(tmp_path):
    video = Clip(width=96, height=64, num_frames=64, velocity=(0, 0), start=(8, 8)).path()
    numbers = tmp_path / "numbers.json"
    short = "--size vit_micro --batch-size 1 --workers 1 --rounds 1 --warm-up 1 --steps 1"
    command = [sys.executable, end_to_end.__file__, *short.split(), "--no-peers"]
    command += ["--videos", str(video), "--json", str(numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(numbers.read_text())
    assert not found["not_measured"] and not found["ratios"], "there is nobody to compare with"
    assert len(found["timings"][turns.CPU]["seconds"]) == 3
