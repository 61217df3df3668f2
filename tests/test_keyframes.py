"""Clips lie around their moments, and people are where the pixels show them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_people import HEIGHT, WIDTH, detection_config, with_file, write_people
from training_runs import config_for

from mgm_dali.clips.keyframes import keyframes_of, people_in_clips
from mgm_dali.clips.sampling import frames_around
from mgm_dali.config import ClipConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines import placement
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.video.ava import Moments, read_actions, read_people
from mgm_dali.video.manifest import read_manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people") / "set", 3, 0)


def keyframes_in(made, first_second=0.0):
    moments = Moments()
    people = read_people(made.people, read_actions(made.actions), moments)
    manifest = read_manifest(made.manifest)
    return keyframes_of(manifest, people, moments, first_second, made.people), moments


@pytest.mark.parametrize("first_second", [0.0, 1.0, 2.5])
def test_a_moment_is_the_frame_that_its_second_shows(made, first_second):
    keyframes, moments = keyframes_in(made, first_second)
    names = list(moments.numbers)
    for row, number in enumerate(keyframes.moments):
        name, second = names[number]
        video = keyframes.manifest[row]
        assert video.path.stem == name
        assert video.keyframe == (second - first_second) * 10
        assert video.label == row, "a stand-in brings its own people"
        who = keyframes.people.moments[keyframes.first[row] : keyframes.past[row]]
        assert who.tolist() == [number, number]
    assert len(keyframes.people) == 2 * len(keyframes.moments), "of the lost nobody is left"
    assert not set(keyframes.lost) & set(keyframes.moments.tolist())
    assert len(keyframes.moments) + len(keyframes.lost) == 9
    assert len(keyframes.lost) == 3 * math.ceil(max(first_second - 1, 0))
    if keyframes.lost:
        assert keyframes.lost_in_words() == [
            f"{len(keyframes.lost)} moments: before the beginning or behind the end of the video"
        ]


def test_moments_that_no_video_shows_are_refused_with_the_reason(made, tmp_path):
    with pytest.raises(UserError, match=r"begin with second 900 \(detection.first_second\)"):
        keyframes_in(made, 900.0)
    (tmp_path / "v0").mkdir()
    (tmp_path / "v0" / "v1.mp4").write_bytes((made.manifest.parent / "v1.mp4").read_bytes())
    text = made.manifest.read_text().splitlines()
    (made.manifest.parent / "twice.csv").write_text(
        "\n".join([*text, text[1].replace("v0.mp4", f"{tmp_path}/v0/v1.mp4")])
    )
    people = read_people(made.people, read_actions(made.actions), moments := Moments())
    twice = read_manifest(made.manifest.parent / "twice.csv")
    with pytest.raises(UserError, match="are both video 'v1'; list one of them"):
        keyframes_of(twice, people, moments, 0.0, made.people)


@pytest.mark.parametrize("fps", [10.0, 25.0])
@pytest.mark.parametrize("target_fps", [None, 12.5])
def test_a_clip_lies_around_its_keyframe_and_repeats_the_ends(fps, target_fps):
    config = ClipConfig(stride_frames=4, target_fps=target_fps)
    stride = 4 * fps / target_fps if target_fps else 4
    for keyframe in (0, 7, 50, 99):
        frames = frames_around(config, 16, 100, fps, keyframe)
        assert frames[8] == keyframe
        for place, frame in enumerate(frames):
            exact = keyframe + (place - 8) * stride
            assert abs(frame - min(max(exact, 0), 99)) <= 0.5


def in_plain_numbers(keyframes, row, crop, size):
    """The people of a row in a clip: the box of each in its pixels, or None."""
    top, left, bottom, right = crop
    mirrored = left > right
    first, last = min(left, right), max(left, right)
    boxes = []
    for person in range(keyframes.first[row], keyframes.past[row]):
        x1, y1, x2, y2 = (min(max(float(v), 0), 1) for v in keyframes.people.corners[person])
        across = [(x * WIDTH - first) / (last - first) for x in (x1, x2)]
        if mirrored:
            across = [1 - across[1], 1 - across[0]]
        down = [(y * HEIGHT - top) / (bottom - top) for y in (y1, y2)]
        if not (0 <= sum(across) / 2 <= 1 and 0 <= sum(down) / 2 <= 1):
            continue
        box = [across[0], down[0], across[1], down[1]]
        boxes.append((person, [size * min(max(value, 0), 1) for value in box]))
    return boxes


def test_boxes_follow_the_crop_as_in_plain_numbers(made):
    keyframes, _ = keyframes_in(made)
    rng = np.random.default_rng(0)
    crops, rows = [], []
    for _ in range(200):
        top, left = int(rng.integers(0, HEIGHT - 20)), int(rng.integers(0, WIDTH - 20))
        bottom = int(rng.integers(top + 10, HEIGHT + 1))
        right = int(rng.integers(left + 10, WIDTH + 1))
        sides = (right, left) if rng.random() < 0.5 else (left, right)
        crops.append((top, sides[0], bottom, sides[1]))
        rows.append(int(rng.integers(len(keyframes.moments))))
    boxes, people = people_in_clips(keyframes, rows, np.array(crops), 64)
    assert boxes.dtype == np.float32
    seen = 0
    for clip, (row, crop) in enumerate(zip(rows, crops, strict=True)):
        mine = boxes[:, 0] == clip
        expected = in_plain_numbers(keyframes, row, crop, 64)
        assert people[mine].tolist() == [person for person, _ in expected]
        for found, (_, box) in zip(boxes[mine, 1:], expected, strict=True):
            assert np.allclose(found, box, atol=1e-4)
        seen += len(expected)
    assert 50 < seen < 350, "some middles are cut off, and some are not"


@pytest.mark.parametrize("crop", ["whole", "random_resized", "multi_scale", "center"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_people_are_where_the_pixels_show_them(made, tmp_path, crop, repeats):
    config = detection_config(made, made, tmp_path)
    augment = config.augment.model_copy(
        update={"crop": crop, "flip": True, "min_area": 0.3, "repeats": repeats}
    )
    config = config.model_copy(update={"augment": augment})
    keyframes, _ = keyframes_in(made)
    checked = set()
    share = Share(6)
    with ClipLoader(
        config, "finetune", share, needs_motion=False, manifest=keyframes.manifest
    ) as loader:
        batches = loader.endless()
        for _ in range(3):
            batch = next(batches)
            crops = batch.crop.numpy()
            boxes, people = people_in_clips(keyframes, batch.label.tolist(), crops, 64)
            for (clip, *corners), person in zip(boxes, people, strict=True):
                x1, y1, x2, y2 = (round(float(value)) for value in corners)
                middle = batch.video[int(clip), :, 4, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
                if middle.shape[1] < 3 or middle.shape[2] < 3:
                    continue
                is_bright = bool(keyframes.people.does[person, 0])
                brightness = float(middle.mean())
                assert (brightness > 1.5) if is_bright else (brightness < -1.2), brightness
                checked.add((is_bright, bool(crops[int(clip), 1] > crops[int(clip), 3])))
    assert len(checked) == 4, "bright and dark, mirrored and not"


def test_a_bad_film_is_warned_of_once_and_each_of_its_moments_counts(made, tmp_path, caplog):
    bad = with_file(made, "v1.mp4", b"no video", tmp_path / "bad")
    keyframes, _ = keyframes_in(bad)
    config = detection_config(bad, bad, tmp_path)
    with ClipLoader(
        config, "evaluate", Share(4), needs_motion=False, manifest=keyframes.manifest
    ) as loader:
        assert sum(len(batch) for batch in loader) == 12
    assert [record.getMessage().count("v1.mp4") for record in caplog.records] == [1]
    assert len(loader.skipped) == loader.num_skipped == 3


def test_on_a_gpu_moments_of_films_are_not_decoded_by_nvdec(made, tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "choose_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(placement, "has_nvdec", lambda: True)
    config = detection_config(made, made, tmp_path)
    manifest = read_manifest(made.manifest)
    keyframes, _ = keyframes_in(made)
    chosen = placement.choose_placement(config, keyframes.manifest, needs_motion=False)
    assert chosen.decode == "cpu" and "a whole film for every moment" in chosen.reason
    large = replace(manifest, widths=manifest.widths + 100, heights=manifest.heights + 100)
    assert placement.choose_placement(config, large, needs_motion=False).decode == "nvdec"


def test_a_stand_in_brings_its_own_people(made, tmp_path):
    bad = with_file(made, "v1.mp4", b"no video", tmp_path / "bad")
    config = detection_config(bad, bad, tmp_path)
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_skipped": 1.0})})
    keyframes, _ = keyframes_in(bad)
    with ClipLoader(
        config, "finetune", Share(9), needs_motion=False, manifest=keyframes.manifest
    ) as loader:
        (batch,) = loader
    assert len(loader.replaced) == 3
    shown = batch.label[loader.replaced]
    assert all(keyframes.manifest[int(row)].path.stem != "v1" for row in shown)
    assert all(
        keyframes.manifest[int(row)].path.stem == "v1" for row in batch.index[loader.replaced]
    )
    boxes, people = people_in_clips(keyframes, batch.label.tolist(), batch.crop.numpy(), 64)
    for (clip, *corners), person in zip(boxes, people, strict=True):
        x1, y1, x2, y2 = (round(float(value)) for value in corners)
        middle = float(batch.video[int(clip), :, 4, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean())
        assert (middle > 1.5) == bool(keyframes.people.does[person, 0])


def test_batches_say_which_part_of_the_frame_they_show(moving_shapes, tmp_path):
    config = config_for(moving_shapes, tmp_path)
    with ClipLoader(config, "evaluate", Share(5), needs_motion=False) as loader:
        batch = next(iter(loader))
    manifest = loader.manifest
    for row, crop in zip(batch.index.tolist(), batch.crop.tolist(), strict=True):
        video = manifest[row]
        side = min(video.height, video.width)
        assert crop[2] - crop[0] == crop[3] - crop[1] == side
    assert batch.crop.dtype == torch.int64
