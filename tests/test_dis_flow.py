"""DIS flow: what is its own, beside the tests that every source passes."""

import importlib.util
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from videos import CLIPS

from mgm_dali.errors import UserError
from mgm_dali.motion import dis_flow


def test_without_opencv_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"`pip install mgm-dali\[dis\]`, or take block_matching"):
        dis_flow.read_motion(CLIPS["h264"].path())


@pytest.mark.skipif(not importlib.util.find_spec("cv2"), reason="needs OpenCV")
def test_it_keeps_to_one_thread() -> None:
    import cv2

    cv2.setNumThreads(2)
    dis_flow.read_motion(CLIPS["h264"].path(), [1])
    assert cv2.getNumThreads() == 1


@pytest.mark.skipif(not importlib.util.find_spec("cv2"), reason="needs OpenCV")
@pytest.mark.parametrize("size", [(44, 36), (40, 44), (64, 48), (46, 46)])
def test_small_pictures_have_the_same_field_whatever_else_is_asked_for(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """OpenCV changes its own settings while it looks at some of them."""
    path = write_noise(tmp_path / "noise.mp4", *size)
    whole = dis_flow.read_motion(path).vectors
    assert whole.any()
    for number in range(1, 6):
        assert np.array_equal(dis_flow.read_motion(path, [number]).vectors[0], whole[number])


def write_noise(path: Path, width: int, height: int) -> Path:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for _ in range(6):
            noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode(None))
    return path
