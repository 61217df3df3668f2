"""The measurements of the evidence on GPUs, small and on a CPU: they are sane, and able to fail."""

import ctypes
import json
import os
import sys
import time
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from gpu import (
    bad_input,
    bad_inputs,
    dali_decoder,
    decoding,
    endurance,
    flow,
    frames,
    iterating,
    loading,
    machine,
    mask_checks,
    measuring,
    operators,
    sizes,
)
from gpu.configs import decode_here
from gpu.defaults import IS_DEFAULT
from gpu.findings import Findings
from gpu.made_videos import made
from gpu.setting import ROOT, Setting

from mgm_dali.video.reader import VideoError, read_frames


@pytest.fixture
def setting(tmp_path):
    (tmp_path / "work").mkdir()
    return Setting(tmp_path / "work", seconds=60, cores=1, device="cpu", tiny=True)


@pytest.fixture
def findings(tmp_path):
    return Findings(tmp_path / "found.json")


def found_by(findings):
    """What a reader of the file sees."""
    return json.loads(findings._path.read_bytes())


def require_all_hold(findings):
    checks = found_by(findings)["checks"]
    assert checks and all(check["passed"] for check in checks), checks


def test_the_decoders_frames_are_pyavs_on_a_cpu_too(setting, findings):
    kinds = {name: kind for name, kind in frames.KINDS.items() if kind.cpu}
    assert len(kinds) >= 6
    frames.frames(setting, findings)
    require_all_hold(findings)
    assert len(found_by(findings)["checks"]) == len(kinds)


def test_a_frame_that_is_another_or_looks_otherwise_is_noticed():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (12, 16, 16, 3), np.uint8)
    numbers = [0, 4, 8]
    right = reference[numbers]
    assert dali_decoder.compared(right, reference, numbers).is_same
    shifted = dali_decoder.compared(reference[[0, 5, 8]], reference, numbers)
    assert shifted.foreign == (4,) and not shifted.is_same
    darker = right - (right >= 3) * np.uint8(3)
    comparison = dali_decoder.compared(darker, reference, numbers)
    assert not comparison.foreign and not comparison.is_same and 2 < comparison.mean <= 3
    with pytest.raises(ValueError, match="expected"):
        dali_decoder.compared(right[:2], reference, numbers)


def test_sizes_are_decoded_one_after_the_other_and_together(setting, findings):
    sizes.sizes(setting, findings)
    require_all_hold(findings)
    (row,) = found_by(findings)["figures"]["decoding by size"]
    assert row["clips/s"] > 1 and row["CPU ms/clip"] > 0


@pytest.fixture
def programs(monkeypatch):
    """Programs of the evidence find their modules."""
    paths = [str(ROOT / "scripts"), str(ROOT)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.mark.usefixtures("programs")
def test_bad_inputs_are_told_and_good_ones_decoded_behind_them(setting, findings):
    bad_inputs.bad_inputs(setting, findings)
    require_all_hold(findings)
    found = found_by(findings)
    outcomes = {row["input"]: row["outcome"] for row in found["figures"]["bad inputs"]}
    assert outcomes["garbage.webm"] == outcomes["empty.webm"] == "refused"
    assert outcomes["yuv444p"] == "right"
    skipped = {row["file"] for row in found["figures"]["skipped by the loader"]}
    assert {"garbage.webm", "empty.webm", "truncated.webm"} <= skipped


@pytest.mark.parametrize(
    ("end", "seconds", "reason"),
    [
        ("os.kill(os.getpid(), 11)", 20.0, "ended with status -11"),
        ("time.sleep(60)", 2.0, "killed after 2 s"),
    ],
)
def test_a_bad_input_that_breaks_its_process_is_told_and_so_is_what_came_before(
    monkeypatch, tmp_path, end, seconds, reason
):
    (tmp_path / "gpu").mkdir()
    said = '{"outcome": "refused", "said": "no video"}'
    program = f"import os, time; print({said!r}, flush=True); {end}"
    (tmp_path / "gpu" / "bad_input.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bad_inputs, "SECONDS_ALONE", seconds)
    bad, behind = bad_inputs.alone("cpu", tmp_path, tmp_path)
    assert bad == {"outcome": "refused", "said": "no video"}
    assert not behind["is_same"] and reason in behind["said"]


def test_the_decoder_is_timed_with_its_cost_on_the_host(setting, findings):
    decoding.decoding(setting, findings)
    (row,) = found_by(findings)["figures"]["the decoder alone"]
    assert row["low"] <= row["clips/s"] <= row["high"]
    assert 0.05 < row["CPU ms/clip"] < 1000
    assert row["NVDEC %"] is None, "there is none"


def test_clips_of_the_source_lie_within_their_videos(setting):
    manifest = made(setting, "prepared", 2, encoder=setting.encoder)
    source = decoding.clip_source(manifest, 50, num_frames=8)
    encoded, numbers = source()
    assert len(encoded) == len(numbers) == 50
    starts = {int(frames[0]) for frames in numbers}
    assert starts <= set(range(40 - 28)) and len(starts) > 6
    assert all((np.diff(frames) == 4).all() for frames in numbers)


def test_the_loader_is_timed_with_the_threads_that_were_asked_for(setting, findings):
    loading.loading(setting, findings)
    rows = found_by(findings)["figures"]["loader"]
    assert [row["NVDEC threads"] for row in rows] == [1, 2]
    assert [row[IS_DEFAULT] for row in rows] == [False, True]
    assert all(row["clips/s"] > 1 and row["skipped"] == 0 for row in rows)


def test_contenders_differ_from_the_default_in_one_thing():
    full = Setting(Path("x"), seconds=1, cores=16)
    default, contenders = loading.as_it_is(full), loading.contenders(full)
    assert default == loading.Contender("nvdec", 2) and contenders.count(default) == 1
    for other in contenders:
        if other.decode == "nvdec" and other != default:
            pairs = zip(vars(default).values(), vars(other).values(), strict=True)
            assert sum(one != another for one, another in pairs) == 1
    assert {other.workers for other in contenders if other.decode == "cpu"} == {15}


def test_held_batches_and_resumed_loaders_are_checked(setting, findings, monkeypatch):
    monkeypatch.setattr(iterating, "NUM_HELD", 2)
    iterating.iterating(setting, findings)
    require_all_hold(findings)


def test_a_batch_that_differs_by_a_bit_is_noticed():
    from torch import int64, zeros

    from mgm_dali.clips.batch import ClipBatch

    numbers = {name: zeros(1, dtype=int64) for name in ("label", "index", "view", "seed")}
    motion, valid = zeros(1, 2, 2, 2, 2), zeros(1, 2, dtype=bool)
    one = ClipBatch(zeros(1, 3, 2, 16, 16), motion, valid, **numbers)
    other = ClipBatch(zeros(1, 3, 2, 16, 16), motion, valid, **numbers)
    assert not iterating.different_fields(one, other)
    other.video[0, 0, 0, 0, 0] = 1e-30
    assert iterating.different_fields(one, other) == ["video"]


def test_operators_are_compared_with_the_cpus_and_a_wrong_one_is_noticed(
    setting, findings, monkeypatch
):
    operators.operators(setting, findings)
    require_all_hold(findings)
    cut = operators.CUTTERS["cuda"]
    wrong = {**operators.CUTTERS, "cuda": lambda pixels, box, size: cut(pixels, box[::-1], size)}
    monkeypatch.setattr(operators, "CUTTERS", wrong)
    monkeypatch.setattr("mgm_dali.pipelines.graph.CUTTERS", wrong)
    operators.operators(setting, findings)
    verdicts = [check["passed"] for check in found_by(findings)["checks"]]
    half = len(verdicts) // 2
    assert all(verdicts[:half]) and not any(verdicts[half:])


def test_flow_is_measured_with_its_scale(setting, findings):
    flow.flow(setting, findings)
    (row,) = found_by(findings)["figures"]["optical flow"]
    assert row["median vector"] == "(-3.00, 2.00)" and row["share within 0.5"] == 1
    assert row["clips/s"] > 1


def test_growing_memory_is_told_from_tips():
    def points(*megabytes):
        return [{"batches": n, "host MB": value} for n, value in enumerate(megabytes)]

    tips = points(*(100 + 50 * (n % 2) for n in range(20)))
    assert endurance.growth_in_megabytes(tips, "host MB") == 0
    start = points(*([0.0] * 5 + [100.0] * 15))
    assert endurance.growth_in_megabytes(start, "host MB") == 0, "what comes early is no growth"
    leak = points(*(10.0 * n for n in range(20)))
    assert endurance.growth_in_megabytes(leak, "host MB") == 100


def test_memory_is_watched_while_batches_come(setting, findings):
    endurance.endurance(setting, findings)
    require_all_hold(findings)
    assert len(found_by(findings)["figures"]["memory on the way"]) == 4


def test_rates_are_those_that_were_made():
    def slow():
        while True:
            time.sleep(0.01)
            yield 4

    waits = count()
    rate = measuring.rate_of(slow(), 0.6, lambda: next(waits))
    assert 100 < rate.clips_per_second <= 400 and rate.low <= rate.clips_per_second <= rate.high
    assert next(waits) == 2 * measuring.NUM_STRETCHES, "before and behind each stretch"
    assert rate.cpu_ms_per_clip < 5, "to sleep costs nothing"

    def busy():
        while True:
            end = time.process_time() + 0.02
            while time.process_time() < end:
                pass
            yield 1

    assert 15 < measuring.rate_of(busy(), 0.3, lambda: None).cpu_ms_per_clip < 60


class FakeLibrary:
    """NVML as far as it is asked; each call gives 0, or the error that it is made with."""

    def __init__(self, decoder_error=0):
        self.decoders, self.decoder_error = cycle((40, 60)), decoder_error

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, _index, _device):
        return 0

    def nvmlDeviceGetDecoderUtilization(self, _device, busy, _period):
        ctypes.cast(busy, ctypes.POINTER(ctypes.c_uint))[0] = next(self.decoders)
        return self.decoder_error

    def nvmlDeviceGetUtilizationRates(self, _device, rates):
        ctypes.cast(rates, ctypes.POINTER(ctypes.c_uint))[0] = 90
        return 0


@pytest.mark.parametrize("error", [0, 3])
def test_the_gpus_load_is_the_mean_since_a_moment(monkeypatch, error):
    monkeypatch.setattr(measuring, "SAMPLE_SECONDS", 0.01)
    with measuring.Load(FakeLibrary(error)) as load:
        start = time.perf_counter()
        time.sleep(0.5)
        found = load.since(start)
    assert found["GPU %"] == 90
    assert found["NVDEC %"] is None if error else 45 < found["NVDEC %"] < 55
    assert load.since(time.perf_counter()) == {"NVDEC %": None, "GPU %": None}


def test_without_the_drivers_decoder_frames_come_from_the_cpu_and_that_is_said(
    findings, monkeypatch
):
    on_gpu = Setting(Path("x"), seconds=1, cores=16)
    monkeypatch.setattr("gpu.configs.can_load", lambda _library: True)
    assert decode_here(on_gpu, findings) == "nvdec" and not found_by(findings)["notes"]
    monkeypatch.setattr("gpu.configs.can_load", lambda _library: False)
    assert decode_here(on_gpu, findings) == "cpu"
    assert "decoded on the CPU" in found_by(findings)["notes"][0]


def test_what_cannot_be_imported_hides_nothing_else_of_the_machine(setting, findings, monkeypatch):
    for name in ("torch", "nvidia.dali", "mgm_dali.doctor", "gpu.best"):
        monkeypatch.setitem(sys.modules, name, None)
    machine.machine(replace(setting, device="cuda"), findings)
    found = found_by(findings)
    assert {row["library"] for row in found["figures"]["libraries"]} == set(machine.LIBRARIES)
    facts = {row["what"]: row["found"] for row in found["figures"]["machine"]}
    assert facts["cores"] and facts["numpy"] == np.__version__
    failed = [check for check in found["checks"] if "halted" in check["found"]]
    assert len(failed) >= 4, "each says what is missing"


def test_the_structure_that_nvdec_fills_has_the_size_of_nvidias():
    assert ctypes.sizeof(machine.DecoderCaps) == 88


def test_masks_that_differ_on_the_device_are_noticed(setting, findings, monkeypatch):
    made = {"moving block": mask_checks.KINDS["moving block"]}
    monkeypatch.setattr(mask_checks, "KINDS", made)
    mask_checks.same_masks(setting, findings)
    require_all_hold(findings)
    right, calls = mask_checks.make_mask, count()

    def wrong(*inputs):
        mask = right(*inputs)
        return mask.roll(1, 1) if next(calls) % 2 else mask

    monkeypatch.setattr(mask_checks, "make_mask", wrong)
    again = Findings(setting.folder / "again.json")
    mask_checks.same_masks(setting, again)
    assert not any(check["passed"] for check in found_by(again)["checks"])


@pytest.mark.slow
def test_the_files_for_a_gpu_can_be_made_and_pyav_reads_them(tmp_path, findings, monkeypatch):
    """PyAV stands in for NVDEC."""

    def decode(paths, numbers, _decoder):
        try:
            return [read_frames(path, list(of)) for path, of in zip(paths, numbers, strict=True)]
        except VideoError as error:
            raise RuntimeError(str(error)) from None

    for module in (frames, sizes, bad_input):
        monkeypatch.setattr(module, "decode", decode)
    for module in (frames, sizes, bad_inputs):
        monkeypatch.setattr(module, "require_nvdec", lambda _setting: None)
    monkeypatch.setattr(bad_inputs, "alone", lambda *paths: tuple(bad_input.outcomes(*paths)))
    monkeypatch.setattr(sizes, "_speed", lambda *_: None)
    monkeypatch.setattr(bad_inputs, "_in_a_training_set", lambda *_: None)
    setting = Setting(tmp_path / "work", seconds=60, cores=1)
    for section in (frames.frames, sizes.sizes, bad_inputs.bad_inputs):
        section(setting, findings)
    require_all_hold(findings)
