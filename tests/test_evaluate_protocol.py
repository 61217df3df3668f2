"""The test views against VideoMAE's, written as plain loops from a description of them.

Ours differ in two roundings. VideoMAE resizes a frame until its short side is 224 pixels and then
cuts the square at a whole pixel of the resized frame; ours is cut at a whole pixel of the source.
Its dense views start at a frame that is sampled, a multiple of the stride; ours at any frame.
"""

import numpy as np
import pytest

from mgm_dali.clips.crops import view_crop
from mgm_dali.clips.draw import view_decoding
from mgm_dali.clips.sampling import view_frames
from mgm_dali.config import ClipConfig, RunConfig
from mgm_dali.video.manifest import Video

LENGTHS = (*range(1, 140), 300, 301, 1000, 65537)


def videomae_segments(num_frames, video_frames):
    """SSv2: starts and centres of equal segments in order; view k takes every 2nd from the k-th."""
    segment = video_frames / num_frames
    both = [int(segment * i) for i in range(num_frames)]
    both += [int(segment / 2 + segment * i) for i in range(num_frames)]
    both.sort()
    return [both[0::2], both[1::2]]


def videomae_dense(num_frames, stride, video_frames, num_segments):
    """K400: every stride-th frame, the last one repeated; windows of them evenly spread."""
    every = list(range(0, video_frames, stride))
    while len(every) < num_frames:
        every.append(every[-1])
    step = (len(every) - num_frames) / (num_segments - 1)
    return [every[int(k * step) : int(k * step) + num_frames] for k in range(num_segments)]


@pytest.mark.parametrize("num_frames", [8, 16, 32])
def test_two_views_from_segments_are_videomaes_on_ssv2(num_frames):
    config = ClipConfig(sampling="segments")
    for length in LENGTHS:
        ours = [view_frames(config, num_frames, length, 25.0, k, 2).tolist() for k in range(2)]
        assert ours == videomae_segments(num_frames, length), length


def test_five_dense_views_start_within_a_stride_of_videomaes():
    config = ClipConfig(sampling="dense", stride_frames=4)
    for length in LENGTHS:
        theirs = np.array(videomae_dense(16, 4, length, 5))
        ours = np.array([view_frames(config, 16, length, 25.0, k, 5) for k in range(5)])
        assert ours.shape == theirs.shape == (5, 16)
        assert (np.abs(ours - theirs) < 4).all(), length


@pytest.mark.parametrize("num_crops", [1, 2, 3, 5])
@pytest.mark.parametrize(("width", "height"), [(340, 256), (240, 320), (427, 240), (256, 256)])
def test_crops_lie_about_a_pixel_from_videomaes(width, height, num_crops):
    side, scale = min(width, height), 224 / min(width, height)
    room = max(int(width * scale), int(height * scale)) - 224
    for place in range(num_crops):
        crop = view_crop(height, width, place, num_crops)
        theirs = room / 2 if num_crops == 1 else int(place * room / (num_crops - 1))
        assert abs(max(crop.top, crop.left) * scale - theirs) < 1.2
        assert (crop.height, crop.width, crop.flip) == (side, side, False)
        assert crop.top >= 0 and crop.left >= 0
        assert crop.bottom <= height and crop.right <= width


@pytest.mark.parametrize(("segments", "crops"), [(1, 1), (2, 3), (5, 3), (3, 2), (1, 4)])
def test_any_number_of_segments_and_crops_makes_so_many_views(segments, crops):
    config = RunConfig.model_validate(
        {
            "clip": {"sampling": "segments"},
            "evaluation": {"num_segments": segments, "num_crops": crops},
        }
    )
    video = Video(None, 0, 100, 25.0, 340, 256, "h264", 4.0)
    views = [view_decoding(config, video, 0, view) for view in range(segments * crops)]
    seen = {(*view.frames.tolist(), view.cuts[0].crop.left) for view in views}
    assert len(seen) == segments * crops
    assert len({view.cuts[0].crop.left for view in views}) == crops
    assert [view.cuts[0].view for view in views] == list(range(segments * crops))
    assert all(view.frames.max() < 100 and len(view.frames) == 16 for view in views)
