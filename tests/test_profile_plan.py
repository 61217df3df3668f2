"""Plans: what is asked, and the arithmetic."""

from types import SimpleNamespace

import pytest

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.profiling.costs import Costs, Machine
from mgm_dali.profiling.planning import (
    DATA_SETS,
    PEAK_TFLOPS,
    make_plan,
    plan_in_words,
    read_plan,
    why_not,
)
from mgm_dali.profiling.step_time import StepTime

READING, HANDING, AUGMENTING, COMPUTING = 0.04, 0.001, 0.003, 0.01
OPTIMISER = 0.002
"""Of computing."""
AVERAGED_BYTES = 200_000_000


def both(seconds):
    return StepTime(seconds, seconds)


def profile_of(device="NVIDIA H100 80GB HBM3", ranks=1, averaging=0.0, global_batch=None):
    """A profile in which a clip takes the times above; batches of 32 clips, 2 of each video."""
    costs = Costs(
        worker_steps={"read": both(0.0), "decode": both(READING)},
        worker=both(READING),
        file_bytes=1,
        graph_steps={"hand over": both(HANDING), "augment": both(AUGMENTING)},
        graph=both(HANDING + AUGMENTING),
        computing_steps={
            "forward": both(COMPUTING - OPTIMISER),
            "optimiser": both(OPTIMISER),
            "averaging": both(averaging / 32),
        },
        computing=both(COMPUTING + averaging / 32),
    )
    return SimpleNamespace(
        device=device,
        ranks=ranks,
        settings={
            "augment.repeats": 2,
            "training.batch_size": 32,
            "training.global_batch": global_batch,
            "training.accumulate_steps": global_batch // 32 if global_batch else 1,
        },
        machine=Machine(4, 8, 1e12, is_gpu=device != "CPU"),
        costs=costs,
        gflops_a_clip=345.0,
        computing=SimpleNamespace(gradient_bytes=AVERAGED_BYTES, averaging=both(averaging)),
        reading=SimpleNamespace(motion_bytes_a_frame=1000.0, video_bytes_a_frame=2000.0),
    )


def test_a_plan_is_read_as_people_write_it():
    asked = read_plan("8xH100 K400 800 epochs")
    assert (asked.num_devices, asked.device, asked.epochs) == (8, "h100", 800)
    assert (asked.num_videos, asked.mean_frames) == DATA_SETS["k400"]
    own = read_plan("2 x cpu 5000 videos of 120 frames 1.5 epochs")
    assert (own.num_devices, own.device, own.num_videos, own.mean_frames) == (2, "cpu", 5000, 120)
    assert own.epochs == 1.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8xH100",
        "H100 K400 800 epochs",
        "8xH100 K400",
        "8xB9000 K400 1 epoch",
        "1xcpu X 1 epoch",
        "0xH100 K400 1 epoch",
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"--plan: (found|no device|no data set)"):
        read_plan(text)


def test_one_device_of_the_kind_that_was_profiled_trains_as_fast_as_it_computes():
    plan = make_plan(profile_of(), read_plan("1xH100 1000 videos of 50 frames 10 epochs"))
    clips = 1000 * 10 * 2
    assert plan.clips == clips
    assert plan.hours * 3600 == pytest.approx(clips * COMPUTING)
    assert plan.cores_a_device == pytest.approx((READING + HANDING + AUGMENTING) / COMPUTING)
    assert plan.store_bytes == 1000 * 50 * 1000 and plan.video_bytes == 1000 * 50 * 2000
    assert not any("peak" in line or "averaged" in line for line in plan.assumed)


def test_several_devices_lose_what_averaging_gradients_takes():
    plan = make_plan(profile_of(), read_plan("4xH100 1000 videos 1 epoch"))
    step, averaging = 32 * COMPUTING, 2 * 3 / 4 * AVERAGED_BYTES / 50e9
    assert plan.clips_per_second == pytest.approx(4 * 32 / (step + averaging))
    assert plan.averaging_share == pytest.approx(averaging / (step + averaging))
    assert any("1 rank(s) were profiled" in line for line in plan.assumed)
    assert any("300 frames a video" in line for line in plan.assumed)


def test_averaging_that_was_measured_counts_once():
    plan = make_plan(profile_of(ranks=4, averaging=0.1), read_plan("4xH100 ssv2 1 epoch"))
    assert plan.clips_per_second == pytest.approx(4 * 32 / (32 * COMPUTING + 0.1))
    two = make_plan(profile_of(ranks=4, averaging=0.1), read_plan("2xH100 ssv2 1 epoch"))
    ring = (2 * 1 / 2) / (2 * 3 / 4)
    assert two.clips_per_second == pytest.approx(2 * 32 / (32 * COMPUTING + 0.1 * ring))


def test_averaging_of_fewer_or_other_devices_is_not_taken_for_that_of_these():
    for profile in (profile_of(ranks=2, averaging=9.0), profile_of("CPU", 2, averaging=9.0)):
        plan = make_plan(profile, read_plan("8xH100 ssv2 1 epoch"))
        assert plan.averaging_share < 0.5
        assert any("2 rank(s) were profiled" in line for line in plan.assumed)


def test_a_global_batch_is_shared_by_the_devices():
    profile, asked = profile_of(global_batch=512), read_plan("4xH100 k400 1 epoch")
    averaging = 2 * 3 / 4 * AVERAGED_BYTES / 50e9
    plan = make_plan(profile, asked)
    a_clip = COMPUTING + 3 * OPTIMISER  # which now comes every 128 clips, and came every 512
    assert plan.clips_per_second == pytest.approx(4 * 128 / (128 * a_clip + averaging))


@pytest.mark.parametrize("device", PEAK_TFLOPS)
def test_another_device_is_assumed_to_reach_a_share_of_its_peak_and_that_is_said(device):
    plan = make_plan(profile_of("CPU"), read_plan(f"1x{device} k400 1 epoch"))
    assert plan.clips_per_second == pytest.approx(0.4 * PEAK_TFLOPS[device] * 1e3 / 345)
    assert device.upper() in plan.assumed[0]
    # A GPU augments: of the graph's CPU time only the handing over is left.
    assert plan.cores_a_device == pytest.approx(plan.clips_per_second * (READING + HANDING))


def test_ranks_on_a_cpu_share_its_cores():
    one = make_plan(profile_of("CPU"), read_plan("1xcpu 1000 videos 1 epoch"))
    cpu = READING + HANDING + AUGMENTING + COMPUTING
    assert one.clips_per_second == pytest.approx(4 / READING)  # four workers bound it
    assert one.cores_a_device == pytest.approx(cpu * 4 / READING)
    two = make_plan(profile_of("CPU", 2), read_plan("32xcpu 1000 videos 1 epoch"))
    averaging = 2 * 31 / 32 * AVERAGED_BYTES / 1e9
    a_rank = 16 / 32 / cpu  # 8 cores of each of 2 ranks
    assert two.clips_per_second == pytest.approx(32 * 32 / (32 / a_rank + averaging))


def test_what_cannot_be_planned_is_refused_before_anything_is_measured():
    config = RunConfig.model_validate({"training": {"batch_size": 64, "global_batch": 512}})
    assert why_not(read_plan("8xH100 k400 1 epoch"), config, "cuda") is None
    assert "cannot be shared by 3" in why_not(read_plan("3xH100 k400 1 epoch"), config, "cuda")
    assert "device=cpu" in why_not(read_plan("8xcpu k400 1 epoch"), config, "cuda")


def test_a_plan_in_words_has_its_numbers_and_its_assumptions():
    plan = make_plan(profile_of("CPU"), read_plan("8xH100 K400 800 epochs"))
    text = "\n".join(plan_in_words(plan))
    for number in ("240,258", "384.4 M clips", f"{plan.hours:,.2f} hours", "72.1 GB"):
        assert number in text
    assert plan.assumed and all(line in text for line in plan.assumed)
