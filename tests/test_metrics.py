"""What a run shows: its numbers come through whatever happens, and TensorBoard has the same."""

import io
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from shown_metrics import events_of, numbers, shown, steps_of, warned

from mgm_dali.config import RunConfig, dump_config
from mgm_dali.files import append_whole
from mgm_dali.training.metrics import MetricsFile, read_metrics

RNG = np.random.default_rng(0)
DISK_BYTES = 2000


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond: what is cut off is an `OSError`, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_tensorboard_shows_the_numbers_of_metrics_jsonl(tmp_path):
    with MetricsFile(tmp_path, 0, active=True) as metrics:
        for step in range(1, 6):
            metrics.write(numbers(step))
    assert read_metrics(tmp_path / "metrics.jsonl") == [numbers(step) for step in range(1, 6)]
    assert events_of(tmp_path).Tags()["scalars"] == ["train/loss", "train/lr", "val/loss"]
    for tag, name in (("train/loss", "loss"), ("val/loss", "val/loss")):
        expected = [(step, pytest.approx(numbers(step)[name])) for step in range(1, 6)]
        assert shown(tmp_path, tag) == expected


def test_steps_that_are_taken_again_are_shown_once(tmp_path):
    for first, last, factor in ((0, 6, 1), (4, 8, 10)):
        with MetricsFile(tmp_path, first, active=True) as metrics:
            for step in range(first + 1, last + 1):
                metrics.write({"step": step, "loss": factor * step})
    expected = [1, 2, 3, 4, 50, 60, 70, 80]
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == expected
    assert shown(tmp_path, "train/loss") == list(enumerate(expected, start=1))


def test_numbers_that_are_none_are_kept(tmp_path):
    with MetricsFile(tmp_path, 0, active=True) as metrics:
        metrics.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    assert np.isnan(read_metrics(tmp_path / "metrics.jsonl")[0]["loss"])
    assert np.isnan(shown(tmp_path, "train/loss")[0][1])
    assert shown(tmp_path, "train/grad_norm") == [(1, float("inf"))]


@pytest.mark.parametrize("as_shown", [np.array, torch.tensor])
def test_a_picture_comes_back_pixel_by_pixel(tmp_path, as_shown):
    pixels = RNG.integers(0, 256, (40, 72, 3), dtype=np.uint8)
    with MetricsFile(tmp_path, 0, active=True) as metrics:
        metrics.picture("clip", as_shown(pixels), 7)
    (event,) = events_of(tmp_path).Images("train/clip")
    decoded = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert event.step == 7
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8)])
def test_what_is_no_picture_is_refused(tmp_path, wrong):
    with MetricsFile(tmp_path, 0, active=True) as metrics, pytest.raises(ValueError, match="uint8"):
        metrics.picture("clip", wrong, 1)


def test_the_opening_lines_and_the_configuration_are_there_to_read(tmp_path):
    config = RunConfig(output_dir=tmp_path)
    with MetricsFile(tmp_path, 3, active=True, config=config) as metrics:
        metrics.text("opening", "device  CPU\nname    caf\udce9")
    for tag, value in (("opening", "device  CPU\nname    caf?"), ("config", dump_config(config))):
        (event,) = events_of(tmp_path).Tensors(f"{tag}/text_summary")
        lines = event.tensor_proto.string_val[0].decode().splitlines()
        assert [line.removeprefix("    ") for line in lines] == value.splitlines()
        assert event.step == 3


def test_other_ranks_write_nothing(tmp_path):
    config = RunConfig.model_validate({"training": {"wandb_project": "p"}})
    with MetricsFile(tmp_path, 0, active=False, config=config) as metrics:
        metrics.write(numbers(1))
        metrics.picture("clip", np.zeros((4, 4, 3), np.uint8), 1)
        metrics.text("opening", "words")
    assert list(tmp_path.iterdir()) == []


def test_what_a_full_disk_cuts_off_is_taken_back(tmp_path):
    file = tmp_path / "new" / "file"
    append_whole(file, b"a" * 600)
    with files_of_at_most(1000):
        with pytest.raises(OSError):
            append_whole(file, b"b" * 600)
        append_whole(file, b"c" * 400)
    assert file.read_bytes() == b"a" * 600 + b"c" * 400


def test_lines_that_a_full_disk_refuses_wait_and_are_written_when_there_is_room(tmp_path, caplog):
    with MetricsFile(tmp_path, 0, active=True) as metrics:
        with files_of_at_most(DISK_BYTES):
            for step in range(1, 61):
                metrics.write(numbers(step))
            there = steps_of(tmp_path)
            assert there == list(range(1, len(there) + 1)) and 0 < len(there) < 60
        metrics.write(numbers(61))
        metrics.write(numbers(62))
    assert steps_of(tmp_path) == list(range(1, 63))
    late = 61 - len(there)
    assert warned(caplog, "metrics.jsonl: cannot be written (File too large)") == 1
    assert warned(caplog, f"metrics.jsonl: is written again, {late} lines late") == 1
    assert warned(caplog, "TensorBoard: [Errno 27]") == 1
    assert [step for step, _ in shown(tmp_path, "train/loss")][-2:] == [61, 62], "goes on too"


def test_a_disk_that_stays_full_costs_lines_and_says_how_many(tmp_path, caplog):
    with files_of_at_most(DISK_BYTES), MetricsFile(tmp_path, 0, active=True) as metrics:
        for step in range(1, 61):
            metrics.write(numbers(step))
    lost = 60 - len(steps_of(tmp_path))
    assert warned(caplog, f"metrics.jsonl: lacks its last {lost} line(s)") == 1
    on_board = len(shown(tmp_path, "train/loss"))
    assert warned(caplog, f"TensorBoard: lacks {60 - on_board} entries") == 1


def test_a_board_that_cannot_be_written_ends_no_run(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("in the way")
    with MetricsFile(tmp_path, 0, active=True) as metrics:
        for step in range(1, 4):
            metrics.write(numbers(step))
            metrics.picture("clip", np.zeros((4, 4, 3), np.uint8), step)
        metrics.text("opening", "words")
    assert steps_of(tmp_path) == [1, 2, 3]
    assert warned(caplog, "the run goes on") == 1
    assert warned(caplog, "TensorBoard: lacks 7 entries") == 1


def test_damaged_lines_are_left_out_and_the_rest_is_read(tmp_path):
    whole = [json.dumps(numbers(step)).encode() for step in (1, 2)]
    lines = [whole[0], whole[1][:-9], b"\0" * 30, b"\xff\xfe", b"17", b'{"loss": 1}', whole[1]]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    with MetricsFile(tmp_path, 2, active=True) as metrics:
        metrics.write(numbers(3))
    assert read_metrics(tmp_path / "metrics.jsonl") == [numbers(step) for step in (1, 2, 3)]
