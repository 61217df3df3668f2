"""`mgm-dali profile`: on runs of which it is known what is slow, it names just that."""

import gzip
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from feeds import TreacherousFeed
from slow_disk import slow_disk
from small_videos import manifest_of
from training_runs import SETTINGS, launched
from typer.testing import CliRunner
from videos import Clip

from mgm_dali.cli import app
from mgm_dali.config import load_config
from mgm_dali.errors import UserError
from mgm_dali.motion.extract import extract
from mgm_dali.motion.recipe import Recipe
from mgm_dali.pipelines import loader
from mgm_dali.profiling.costs import STARVED
from mgm_dali.profiling.profile import profile_run
from mgm_dali.profiling.trace import top_operators
from mgm_dali.video.manifest import read_manifest

CONFIG = "configs/smoke/pretrain.yaml"
SECONDS = 8
DISK_BYTES_PER_SECOND = 100_000
SUMS_AGREE = 0.1
SUMS_AGREE_WHEN_BUSY = 0.6
"""Other tests run on the same cores, and disturb one of two measurements."""


def videos_of(clip, count, folder):
    """A manifest of as many files, all alike."""
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for path in paths:
        shutil.copyfile(clip.path(), path)
    return manifest_of(folder / "videos.csv", paths).path


def profiled(manifest, *overrides, stage="pretrain", seconds=SECONDS):
    settings = (*SETTINGS, f"data.train={manifest}", *overrides)
    found = profile_run(load_config(CONFIG, settings), stage, seconds, lambda _: None)
    assert found is not None
    return found


SMALL = Clip(width=64, height=64, num_frames=20, start=(8, 8), velocity=(0, 0), pan=(1, 1))
LARGE = Clip(width=1280, height=720, num_frames=60, velocity=(2, 1), gop=250)


MIDDLE = Clip(width=640, height=480, num_frames=60, velocity=(2, 1), gop=250)
ON_CORES = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{most}])"


@pytest.fixture(scope="module")
def small_videos(tmp_path_factory):
    return videos_of(SMALL, 24, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def slow_to_decode(tmp_path_factory):
    manifest = videos_of(LARGE, 6, tmp_path_factory.mktemp("large"))
    return profiled(manifest, "data.num_workers=1", "training.batch_size=2")[0]


@pytest.fixture(scope="module")
def slow_to_compute(small_videos):
    network = ("model.name=vit_small", "model.image_size=112", "model.num_frames=16")
    return profiled(small_videos, "data.num_workers=1", *network, "training.batch_size=4")


def test_a_slow_decoder_is_named(slow_to_decode):
    bound = slow_to_decode.bound
    assert (bound.place, bound.step) == ("workers", "decode")
    assert bound.step_share > 0.5
    assert slow_to_decode.together.data_wait_share > STARVED
    assert "Reading by 1 worker" in slow_to_decode.sentence


def test_what_preparing_the_videos_would_gain_was_tried_on_them(slow_to_decode):
    prepared = slow_to_decode.prepared
    assert prepared.after["decode"].cpu_seconds < 0.9 * prepared.before["decode"].cpu_seconds


def test_a_huge_network_is_named(slow_to_compute):
    bound = slow_to_compute[0].bound
    assert bound.place == "computing"
    assert bound.step in ("forward", "backward")
    assert slow_to_compute[0].together.data_wait_share < 0.2


def test_a_slow_disk_is_named(tmp_path):
    manifest = videos_of(SMALL, 64, tmp_path)
    environment = slow_disk(tmp_path, ".mp4", DISK_BYTES_PER_SECOND)
    if environment is None:
        pytest.skip("needs a C compiler")
    out = tmp_path / "out"
    command = ["-m", "mgm_dali", "profile", CONFIG, f"data.train={manifest}", *SETTINGS]
    command += ["data.num_workers=1", "training.batch_size=2", "--seconds", str(SECONDS), "-o", out]
    status, said = launched(command, environment=environment)
    assert status == 0, said
    found = json.loads((out / "profile.json").read_text())
    assert found["bound"]["place"] in ("workers", "storage") and found["bound"]["step"] == "read"
    read = found["costs"]["worker_steps"]["read"]
    expected = SMALL.path().stat().st_size / DISK_BYTES_PER_SECOND
    assert read["seconds"] == pytest.approx(expected, rel=0.3)
    assert read["cpu_seconds"] < 0.2 * read["seconds"]
    assert found["machine"]["storage_bytes_per_second"] < 1.3 * DISK_BYTES_PER_SECOND
    assert found["together"]["waited_seconds"] > STARVED * found["together"]["seconds"]
    assert "files on faster storage would give" in found["sentence"]


def profiled_on_cores(most, manifest, folder, *overrides, stage="pretrain"):
    """Its profile.json. What cores bound depends on how many there are."""
    program = f"{ON_CORES.format(most=most)}\nfrom mgm_dali.cli import main\nmain()"
    command = ["-c", program, "profile", CONFIG, f"data.train={manifest}", *SETTINGS, *overrides]
    status, said = launched([*command, "--stage", stage, "--seconds", SECONDS, "-o", folder])
    assert status == 0, said
    return json.loads((folder / "profile.json").read_text())


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one core, that is the bound")
def test_a_graph_that_augments_too_much_is_named(moving_shapes, tmp_path):
    slow = ("augment.rand_augment.layers=10", "data.num_workers=2", "training.batch_size=4")
    found = profiled_on_cores(2, moving_shapes, tmp_path, *slow, stage="finetune")
    assert (found["bound"]["place"], found["bound"]["step"]) == ("graph", "augment")
    together = found["together"]
    assert together["waited_seconds"] > STARVED * together["seconds"]
    assert "DALI's graph bounds this run" in found["sentence"]


@pytest.mark.slow  # others on that core would make each part look slower than it is
def test_cores_that_reading_and_computing_exhaust_together_are_named(tmp_path):
    manifest = videos_of(MIDDLE, 12, tmp_path)
    both = ("model.image_size=112", "model.num_frames=16", "data.num_workers=1")
    found = profiled_on_cores(1, manifest, tmp_path / "out", *both, "training.batch_size=2")
    assert found["bound"]["place"] == "cores" and found["bound"]["cores_exhausted"]
    assert "The processor bounds this run" in found["sentence"]


def sums(profile):
    """CPU time of (all parts, the whole), of the worker and of computing."""
    costs = profile.costs
    return [
        (sum(step.cpu_seconds for step in steps.values()), whole.cpu_seconds)
        for steps, whole in (
            (costs.worker_steps, costs.worker),
            (costs.computing_steps, costs.computing),
        )
    ]


def test_the_parts_of_reading_sum_to_the_whole(slow_to_decode):
    (reading, worker), _ = sums(slow_to_decode)
    assert reading == pytest.approx(worker, rel=SUMS_AGREE_WHEN_BUSY)


@pytest.mark.slow  # of one pass each: whoever works beside one of them counts too much
def test_the_parts_of_computing_sum_to_the_whole(slow_to_compute):
    _, (steps, computing) = sums(slow_to_compute[0])
    assert steps == pytest.approx(computing, rel=SUMS_AGREE_WHEN_BUSY)


def test_every_part_is_measured(slow_to_decode, slow_to_compute):
    parts = {
        "workers": ["draw", "read", "index", "decode", "motion"],
        "graph": ["hand over", "augment"],
        "computing": ["mask", "forward", "backward", "optimiser", "averaging"],
    }
    # One rank averages nothing, vectors come with the pixels, and the graph's parts are estimates.
    may_be_none = {"averaging", "motion", *parts["graph"]}
    for profile in (slow_to_decode, slow_to_compute[0]):
        places = profile.costs.places
        assert {place: list(steps) for place, (steps, _) in places.items()} == parts
        for steps, whole in places.values():
            assert min(whole.seconds, whole.cpu_seconds) > 0
            assert all(steps[name].seconds > 0 for name in steps.keys() - may_be_none)


@pytest.mark.slow  # it needs a machine that does nothing else
def test_the_parts_sum_to_the_whole_within_a_tenth(tmp_path, small_videos):
    manifest = videos_of(LARGE, 24, tmp_path)
    slow_reading = profiled(manifest, "data.num_workers=1", "training.batch_size=2", seconds=60)[0]
    slow_network = profiled(small_videos, "data.num_workers=1", "model.name=vit_tiny", seconds=60)
    for profile in (slow_reading, slow_network[0]):
        for parts, whole in sums(profile):
            assert parts == pytest.approx(whole, rel=SUMS_AGREE)
        together = profile.together
        found = together.cpu_seconds / together.clips
        assert profile.costs.cpu_seconds == pytest.approx(found, rel=2 * SUMS_AGREE)


def test_the_time_line_has_the_ranges_of_a_step_and_a_row_for_each_reader(slow_to_compute):
    events = slow_to_compute[1]["traceEvents"]
    names = [event.get("name") for event in events]
    for name in ("wait for clips", "loss", "forward", "backward", "optimiser"):
        assert names.count(name) >= 1
    reads = [event for event in events if event.get("name") == "read a clip"]
    assert len({event["tid"] for event in reads}) == 1  # one worker process
    steps = [event for event in events if event.get("name") == "backward"]
    # Both are on one clock: clips are read before and while steps are taken.
    assert min(read["ts"] for read in reads) < max(step["ts"] for step in steps)
    assert abs(reads[-1]["ts"] - steps[-1]["ts"]) < 60e6


def test_the_operators_that_take_most_of_a_step_are_named(slow_to_compute):
    operators = slow_to_compute[0].trace.operators
    assert operators.keys() & {"mm", "addmm", "bmm"}, "a network is matrix products"
    assert list(operators.values()) == sorted(operators.values(), reverse=True)
    assert sum(operators.values()) <= 1


def test_an_operator_has_the_time_that_it_takes_itself_where_the_device_is():
    taken = [("aten::mm", 1, 60), ("aten::add", 3, 20), ("backward", 99, 99), ("triton_0", 0, 20)]
    averages = [
        SimpleNamespace(key=key, self_cpu_time_total=cpu, self_device_time_total=gpu)
        for key, cpu, gpu in taken
    ]
    assert top_operators(averages, torch.device("cpu")) == {"add": 0.75, "mm": 0.25}
    on_gpu = top_operators(averages, torch.device("cuda"))
    assert on_gpu == {"mm": 0.6, "add": 0.2, "triton_0": 0.2}


def test_the_command_writes_its_numbers_a_picture_and_a_time_line(small_videos, tmp_path):
    finetuning = ("model.num_classes=3", "augment.rand_augment.layers=1", "data.num_workers=0")
    command = ["-m", "mgm_dali", "profile", CONFIG, f"data.train={small_videos}", *SETTINGS]
    status, said = launched(
        [*command, *finetuning, "--stage", "finetune", "--seconds", "5", "-o", tmp_path / "out"]
    )
    assert status == 1 and "label" in said  # the small videos have no labels
    status, said = launched(
        [*command, "--seconds", "5", "-o", tmp_path / "out", "--plan", "2xcpu 1000 videos 1 epoch"]
    )
    assert status == 0, said
    found = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert found["sentence"] in said
    for name in ("read", "index", "decode", "motion", "augment", "forward", "optimiser"):
        assert f"  {name} " in said
    assert "plan       2 x cpu" in said and "hours" in said
    assert (tmp_path / "out" / "profile.png").read_bytes().startswith(b"\x89PNG")
    assert gzip.decompress((tmp_path / "out" / "trace.json.gz").read_bytes()).startswith(b"{")


def test_two_ranks_are_profiled_together(small_videos, tmp_path):
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "mgm_dali", "profile"]
    status, said = launched(
        [
            *command,
            CONFIG,
            f"data.train={small_videos}",
            *SETTINGS,
            "--seconds",
            "5",
            "-o",
            tmp_path,
        ]
    )
    assert status == 0, said
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["ranks"] == 2
    assert len(found["of_ranks"]) == 2 and all(r["clips_per_second"] for r in found["of_ranks"])
    assert found["computing"]["averaging"]["seconds"] > 0
    assert found["costs"]["computing_steps"]["averaging"]["seconds"] > 0
    assert said.count("...") < 12  # one rank says what is done


def test_a_run_that_takes_motion_from_a_store_is_profiled(small_videos, tmp_path):
    extract(read_manifest(small_videos), tmp_path / "store", Recipe("codec"), num_workers=0)
    found, _ = profiled(small_videos, f"data.motion_store={tmp_path / 'store'}", seconds=5)
    assert found.settings["motion"] == "store"
    motion = found.costs.worker_steps["motion"]
    assert 0 < motion.seconds < found.costs.worker.seconds
    assert found.prepared is not None, "videos that are made anew are in no store"
    assert not any("motion_store" in one.change for one in found.advice)


def test_finetuning_with_all_its_augmentation_is_profiled(moving_shapes):
    found, _ = profiled(
        moving_shapes,
        *("augment.rand_augment.layers=2", "augment.mixup=0.8", "augment.repeats=2"),
        *("augment.erase=0.25", "training.batch_size=4", "training.accumulate_steps=3"),
        stage="finetune",
        seconds=5,
    )
    assert found.stage == "finetune" and found.settings["motion"] is None
    assert found.computing.num_clips % 2 == 0, "clips mix in pairs"
    assert found.settings["training.accumulate_steps"] == 3
    in_a_step = found.computing.parts["optimiser"].seconds / found.computing.num_clips
    share = found.computing.num_clips / (4 * 3)
    by_the_clip = found.costs.computing_steps["optimiser"].seconds
    assert by_the_clip == pytest.approx(in_a_step * share)
    assert not any("decoded_share" in one.change for one in found.advice)


def test_a_video_that_cannot_be_read_is_left_out_and_counted(tmp_path):
    manifest = videos_of(SMALL, 12, tmp_path)
    (tmp_path / "3.mp4").write_bytes(b"no video")
    (tmp_path / "5.mp4").unlink()
    os.mkfifo(tmp_path / "5.mp4")  # to read it would be to wait for ever
    found, _ = profiled(manifest, "data.max_skipped=0.5", seconds=5)
    assert found.reading.unreadable >= 2
    assert found.of_ranks[0].skipped >= found.reading.unreadable


def test_videos_that_crash_or_hang_their_reader_do_not_end_a_profile(tmp_path, monkeypatch):
    names = ("crashes_0.mp4", "hangs_1.mp4", *(f"{number}.mp4" for number in range(2, 8)))
    for name in names:
        shutil.copyfile(SMALL.path(), tmp_path / name)
    manifest = manifest_of(tmp_path / "videos.csv", [tmp_path / name for name in names]).path
    monkeypatch.setattr(loader, "ClipFeed", TreacherousFeed)
    limits = ("data.clip_timeout_seconds=1", "data.max_skipped=0.5")
    found, _ = profiled(manifest, *limits, "data.num_workers=2", seconds=5)
    assert found.reading.unreadable >= 2
    assert found.feeding.skipped >= 1


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").touch()
    arguments = ["profile", CONFIG, f"data.train={tmp_path}/none.csv", *SETTINGS]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "file" / "out")])
    assert isinstance(done.exception, UserError)
    assert "name another folder by -o" in str(done.exception)


def test_no_run_folder_is_made(small_videos, tmp_path):
    profiled(small_videos, f"output_dir={tmp_path / 'run'}", seconds=5)
    assert not (tmp_path / "run").exists()
