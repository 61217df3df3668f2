"""DIS flow: what is its own, beside the tests that every source passes."""

import importlib.util
import sys

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
