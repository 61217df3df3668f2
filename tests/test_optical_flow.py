"""DALI's optical flow: all but the GPU's own part, which `make test-gpu` tests by its results."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from nvidia.dali import backend, fn
from translation import where_it_was
from videos import CLIPS, Clip

from mgm_dali.errors import UserError
from mgm_dali.motion import MOTION_SOURCES, optical_flow
from mgm_dali.video.reader import VideoError


def flow_by_translation(pair: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As DALI's operator gives it: of the later frame to the earlier, one vector for 4x4 pixels."""
    past, present = pair
    assert min(present.shape[:2]) >= 256, "the hardware refuses small pictures"
    rows, columns = -(-present.shape[0] // 4), -(-present.shape[1] // 4)
    flow = np.empty((1, rows, columns, 2), np.float32)
    flow[:] = where_it_was(present, past)
    return flow


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return optical_flow.make_pipeline(
        lambda pairs: fn.python_function(pairs, function=flow_by_translation), device_id=None
    )


@pytest.mark.parametrize(("width", "height"), [(320, 272), (162, 114), (300, 130)])
@pytest.mark.parametrize("pan", [(3, -1), (-2, 2), (0, 5)])
def test_what_the_operator_finds_arrives_with_its_sign_and_scale(
    pan: tuple[int, int], width: int, height: int, pipeline: Any
) -> None:
    clip = Clip(width=width, height=height, start=(40, 30), velocity=pan, pan=pan, num_frames=7)
    field = optical_flow.read_motion_with(pipeline, clip.path())
    assert field.vectors.shape == (7, -(-height // 8), -(-width // 8), 2)
    assert field.valid.tolist() == [False, *6 * [True]]
    assert (field.pixels()[1:] == pan).all()


def test_more_pairs_than_a_run_takes_are_taken_in_turns(pipeline: Any) -> None:
    clip = Clip(num_frames=40, start=(20, 20), velocity=(2, 1), pan=(2, 1))
    assert clip.num_frames > 2 * optical_flow.PAIRS_AT_ONCE
    field = optical_flow.read_motion_with(pipeline, clip.path())
    assert field.valid[1:].all() and (field.pixels()[1:] == (2, 1)).all()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    optical_flow._pipeline_on_gpu.cache_clear()
    monkeypatch.setattr(backend, "GetCUDADeviceCount", lambda: 0)
    yield
    optical_flow._pipeline_on_gpu.cache_clear()


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_error_names_what_runs_on_the_cpu() -> None:
    with pytest.raises(UserError, match="no GPU here; dis_flow and block_matching run on the CPU"):
        MOTION_SOURCES["optical_flow"](CLIPS["h264"].path(), None, None)


def test_what_the_operator_refuses_is_an_error_of_the_video_in_a_line() -> None:
    def refuse(_pair: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise ValueError("Width size 8 should be between\n32 and 8192")

    pipeline = optical_flow.make_pipeline(
        lambda pairs: fn.python_function(pairs, function=refuse), device_id=None
    )
    with pytest.raises(VideoError, match="the GPU gave no optical flow for it") as caught:
        optical_flow.read_motion_with(pipeline, CLIPS["h264"].path())
    assert "\n" not in str(caught.value)
