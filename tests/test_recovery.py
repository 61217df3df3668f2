"""Nothing that happens to a file or to a worker process stops a run, changes it or is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from feeds import DoomedFeed, TreacherousFeed

from mgm_dali.config import RunConfig, TrainingConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.pipelines import loader as loader_module
from mgm_dali.training.pretrain import pretrain
from mgm_dali.video.manifest import read_manifest


def config_for(manifest, **data):
    return RunConfig.model_validate(
        {
            "device": "cpu",
            "data": {"train": manifest, "val": manifest, "num_workers": 2, **data},
            "model": {"name": "vit_micro", "num_frames": 4, "image_size": 32},
            "evaluation": {"num_segments": 2, "num_crops": 1},
        }
    )


def same(batches, others):
    pairs = zip(batches, others, strict=True)
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in pairs
        for name in ("video", "motion", "motion_valid", "label", "index", "view", "seed")
    )


@pytest.fixture
def own_copy(moving_shapes, tmp_path):
    """A manifest whose files may be harmed."""
    shutil.copytree(moving_shapes.parent, tmp_path / "set")
    return tmp_path / "set/videos.csv"


def renamed(manifest, row, prefix):
    """Gives the file of a row a name that `feeds.py` understands."""
    lines = manifest.read_text().splitlines()
    old = lines[row + 1].split(",")[0]
    new = f"{Path(old).parent}/{prefix}_{Path(old).name}"
    (manifest.parent / old).rename(manifest.parent / new)
    manifest.write_text(manifest.read_text().replace(old, new))


def workers_of_newest_loader(older):
    return [process for process in active_children() if process not in older]


@pytest.mark.parametrize(
    ("stage", "which"),
    [
        ("pretrain", signal.SIGKILL),
        ("finetune", signal.SIGSEGV),
        ("evaluate", signal.SIGABRT),
    ],
)
def test_a_killed_worker_changes_nothing(moving_shapes, stage, which, caplog):
    with make_loader(config_for(moving_shapes, num_workers=0), stage, Share(2)) as loader:
        undisturbed = list(loader)
    older = active_children()
    with make_loader(config_for(moving_shapes), stage, Share(2)) as loader:
        batches = []
        for batch in loader:
            batches.append(batch)
            if len(batches) in (2, 7):
                os.kill(workers_of_newest_loader(older)[0].pid, which)
    assert same(batches, undisturbed) and not loader.skipped
    assert loader.restarts == 2
    assert caplog.text.count(f"killed by {which.name}; it is read again") == 2


def test_sigterm_for_all_processes_of_a_job_is_left_to_the_one_that_trains(moving_shapes):
    older = active_children()
    with make_loader(config_for(moving_shapes), "finetune", Share(2)) as loader:
        for number, _ in enumerate(loader):
            if number == 2:
                for worker in workers_of_newest_loader(older):
                    os.kill(worker.pid, signal.SIGTERM)
    assert loader.restarts == 0 and not loader.skipped


@pytest.mark.parametrize("stage", ["pretrain", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_a_file_that_ends_its_process_is_given_up(own_copy, monkeypatch, stage):
    expected = {5: "not done after 1 s; it was given up", 11: "killed by SIGSEGV"}
    renamed(own_copy, 5, "hangs")
    renamed(own_copy, 11, "crashes")
    config = config_for(own_copy, clip_timeout_seconds=1, max_skipped=0.5)
    monkeypatch.setattr(loader_module, "ClipFeed", TreacherousFeed)
    with make_loader(config, stage, Share(6)) as loader:
        batches, reported = [], []
        for batch in loader:
            batches.append(batch)
            reported += [batch.index[place].item() for place in loader.replaced]
    assert set(reported) == {clip.index for clip in loader.skipped} == expected.keys()
    for clip in loader.skipped:
        assert expected[clip.index] in clip.reason
        clip.path.write_bytes(b"no video")  # which is skipped without any drama
    monkeypatch.undo()
    with make_loader(config, stage, Share(6)) as peaceful:
        assert same(batches, list(peaceful)) and peaceful.restarts == 0


@pytest.mark.slow
def test_several_bad_files_at_once_are_all_found(own_copy, monkeypatch):
    for row, behaviour in {3: "hangs", 8: "crashes", 9: "crashes", 20: "hangs"}.items():
        renamed(own_copy, row, behaviour)
    config = config_for(own_copy, clip_timeout_seconds=1, max_skipped=0.5)
    monkeypatch.setattr(loader_module, "ClipFeed", TreacherousFeed)
    with make_loader(config, "pretrain", Share(12)) as loader:
        seen = [index for batch in loader for index in batch.index.tolist()]
    assert sorted(seen) == list(range(24))
    assert {clip.index for clip in loader.skipped} == {3, 8, 9, 20}


def test_a_run_whose_workers_always_die_stops_with_the_reason(moving_shapes, monkeypatch):
    monkeypatch.setattr(loader_module, "ClipFeed", DoomedFeed)
    config, older = config_for(moving_shapes, num_workers=1), active_children()
    with (
        pytest.raises(UserError, match=r"lost one after another.*SIGKILL.*memory"),
        make_loader(config, "pretrain", Share(4)) as loader,
    ):
        next(iter(loader))
    assert not workers_of_newest_loader(older)


def test_a_run_goes_on_without_the_file_and_tells_of_it(own_copy, monkeypatch, tmp_path):
    renamed(own_copy, 5, "crashes")
    monkeypatch.setattr(loader_module, "ClipFeed", TreacherousFeed)
    config = config_for(own_copy, max_skipped=0.5, num_workers=1)
    training = TrainingConfig(batch_size=6, max_steps=5, precision="fp32", log_every_steps=1)
    pretrain(config.model_copy(update={"training": training, "output_dir": tmp_path / "run"}))
    last = (tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["loader_restarts"] == 2 and json.loads(last)["skipped_clips"] == 1
    log = (tmp_path / "run/train.log").read_text()
    assert "killed by SIGSEGV; it is read again" in log and "; it is given up" in log
    assert "crashes_" in (tmp_path / "run/skipped.csv").read_text()


def test_files_deleted_and_replaced_while_running_have_stand_ins(own_copy):
    config = config_for(own_copy, max_skipped=1.0)
    with make_loader(config, "pretrain", Share(6)) as loader:
        batches = loader.endless()
        next(batches)
        paths = [loader.manifest[row].path for row in range(24)]
        paths[0].unlink()
        paths[1].write_bytes(b"")
        shutil.copy(paths[2], paths[3].with_suffix(".new"))
        Path(paths[3].with_suffix(".new")).replace(paths[3])  # as good a video, and not noticed
        half = paths[4].read_bytes()
        paths[4].write_bytes(half[: len(half) // 2])
        for batch in islice(batches, 12):
            assert batch.video.isfinite().all()
    assert {clip.index for clip in loader.skipped} == {0, 1, 4}
    assert loader.restarts == 0


def test_black_clips_are_never_trained_on(own_copy):
    config = config_for(own_copy, max_skipped=1.0, num_workers=0)
    for path in own_copy.parent.rglob("*.mp4"):
        path.unlink()
    with make_loader(config, "pretrain", Share(4)) as loader, pytest.raises(UserError) as caught:
        next(iter(loader))
    assert "no stand-in that can" in str(caught.value)


def test_a_stand_in_is_another_every_time_and_not_that_videos_own_clip(own_copy):
    config = config_for(own_copy, max_skipped=1.0, num_workers=0)
    rows = read_manifest(own_copy)
    rows[0].path.unlink()
    with make_loader(config, "pretrain", Share(24)) as loader:
        batches = list(islice(loader.endless(), 6))
    stand_ins = set()
    for batch in batches:
        (place,) = loader.replaced and (batch.index == 0).nonzero().flatten().tolist()
        others = [video for i, video in enumerate(batch.video) if i != place]
        assert not any(torch.equal(batch.video[place], other) for other in others)
        stand_ins.add(batch.label[place].item())
    assert len(stand_ins) > 1


SCRIPT = """
import os, time
from feeds import TreacherousFeed
from mgm_dali.config import RunConfig
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.pipelines.pool import ClipPool
from mgm_dali.video.manifest import read_manifest

if __name__ == "__main__":
    manifest = {manifest!r}
    config = RunConfig.model_validate({{
        "device": "cpu", "data": {{"train": manifest, "num_workers": 2}},
        "model": {{"name": "vit_micro", "num_frames": 16, "image_size": 64}}}})
{then}
"""


def python(tmp_path, manifest, then, *prefix):
    script = tmp_path / "trainer.py"
    script.write_text(
        SCRIPT.format(manifest=str(manifest), then=textwrap.indent(textwrap.dedent(then), "    "))
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    return subprocess.Popen(
        [*prefix, sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(own_copy, tmp_path, which):
    """Also those that hang in C, and would never see that nobody listens any more."""
    renamed(own_copy, 13, "hangs")
    renamed(own_copy, 5, "hangs")
    then = """
    pool = ClipPool(TreacherousFeed(read_manifest(manifest), config, "pretrain", Share(8)))
    time.sleep(60)
    """
    with python(tmp_path, own_copy, then) as trainer:
        said = [trainer.stdout.readline().split() for _ in range(2)]
        trainer.send_signal(which)
    assert [words[:1] for words in said] == [["hangs"]] * 2, "one in each worker"
    workers = {int(pid) for _, pid in said}
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its trainer"
        time.sleep(0.1)


def test_the_small_dev_shm_of_containers_is_no_hindrance(moving_shapes, tmp_path):
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run([*own, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small /dev/shm")
    then = """
    with make_loader(config, "pretrain", Share(8)) as loader:
        print(sum(len(batch) for batch in loader), os.statvfs("/dev/shm").f_blocks)
    """
    within = [*own, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    with python(tmp_path, moving_shapes, then, *within) as trainer:
        said, errors = trainer.communicate(timeout=60)
    assert said == "24 16\n", errors
