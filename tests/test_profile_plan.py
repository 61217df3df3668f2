"""Plans: what is asked, and the arithmetic."""

from types import SimpleNamespace

import pytest

from mgm_dali.errors import UserError
from mgm_dali.profiling.costs import Costs, Machine, StepTime
from mgm_dali.profiling.planning import DATA_SETS, PEAK_TFLOPS, make_plan, plan_in_words, read_plan

READING, HANDING, AUGMENTING, NETWORK = 0.04, 0.001, 0.003, 0.01


def profile_of(device="NVIDIA H100 80GB HBM3", ranks=1, communication=0.0):
    """A profile in which a clip takes the times above; batches of 32 clips, 2 of each video."""
    graph = HANDING + AUGMENTING
    costs = Costs(
        worker_steps={"decode": StepTime(READING, READING)},
        worker=StepTime(READING, READING),
        graph_steps={"hand over": HANDING, "augment": AUGMENTING},
        graph=StepTime(graph, graph),
        network_steps={"forward": StepTime(NETWORK, NETWORK)},
        network=StepTime(NETWORK, 2 * NETWORK),
    )
    return SimpleNamespace(
        device=device,
        ranks=ranks,
        settings={
            "augment.repeats": 2,
            "training.batch_size": 32,
            "training.accumulate_steps": 1,
        },
        machine=Machine(4, 8, is_gpu=device != "CPU"),
        costs=costs,
        gflops_a_clip=345.0,
        computing=SimpleNamespace(gradient_bytes=200_000_000, communication_seconds=communication),
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
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"--plan: (found|no device|no data set)"):
        read_plan(text)


def test_one_device_of_the_kind_that_was_profiled_needs_no_assumption():
    plan = make_plan(profile_of(), read_plan("1xH100 1000 videos of 50 frames 10 epochs"))
    clips = 1000 * 10 * 2
    assert plan.clips == clips and plan.assumed == []
    assert plan.hours * 3600 == pytest.approx(clips * NETWORK)
    assert plan.cores_a_device == pytest.approx((READING + HANDING + AUGMENTING) / NETWORK)
    assert plan.store_bytes == 1000 * 50 * 1000 and plan.video_bytes == 1000 * 50 * 2000


def test_several_devices_lose_what_averaging_gradients_takes():
    plan = make_plan(profile_of(), read_plan("4xH100 1000 videos 1 epoch"))
    step = 32 * NETWORK
    averaging = 2 * 3 / 4 * 200e6 / 50e9
    assert plan.clips_per_second == pytest.approx(4 * 32 / (step + averaging))
    assert plan.communication_share == pytest.approx(averaging / (step + averaging))
    assert "one rank was profiled" in plan.assumed[0]


def test_averaging_that_was_measured_is_scaled_by_the_ring():
    plan = make_plan(profile_of(ranks=2, communication=0.1), read_plan("4xH100 ssv2 1 epoch"))
    averaging = 0.1 * (2 * 3 / 4) / (2 * 1 / 2)
    assert plan.assumed == []
    assert plan.clips_per_second == pytest.approx(4 * 32 / (32 * NETWORK + averaging))


@pytest.mark.parametrize("device", PEAK_TFLOPS)
def test_another_device_is_assumed_to_reach_a_share_of_its_peak_and_that_is_said(device):
    plan = make_plan(profile_of("CPU"), read_plan(f"1x{device} k400 1 epoch"))
    assert plan.clips_per_second == pytest.approx(0.4 * PEAK_TFLOPS[device] * 1e3 / 345)
    assert device.upper() in plan.assumed[0]
    # A GPU augments: of the graph's CPU time only the handing over is left.
    assert plan.cores_a_device == pytest.approx(plan.clips_per_second * (READING + HANDING))


def test_ranks_on_a_cpu_share_its_cores():
    one = make_plan(profile_of("CPU"), read_plan("1xcpu 1000 videos 1 epoch"))
    assert one.clips_per_second == pytest.approx(4 / READING)  # four workers bound it
    two = make_plan(profile_of("CPU", 2), read_plan("16xcpu 1000 videos 1 epoch"))
    cpu = READING + HANDING + AUGMENTING + 2 * NETWORK
    assert two.clips_per_second == pytest.approx(16 / cpu)  # 16 cores of both ranks together


def test_a_plan_in_words_has_its_numbers_and_its_assumptions():
    plan = make_plan(profile_of("CPU"), read_plan("8xH100 K400 800 epochs"))
    text = "\n".join(plan_in_words(plan))
    for number in ("240,258", "384.4 M clips", f"{plan.hours:,.1f} hours", "72.1 GB"):
        assert number in text
    assert all(line in text for line in plan.assumed)
