"""RandAugment against timm's: the same draws, and each operation the same pixels."""

import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from PIL import Image

from mgm_dali.clips import rand_augment as draws
from mgm_dali.clips.rand_augment import LEVELS, SIGNED, draw_layers
from mgm_dali.config import RandAugmentConfig
from mgm_dali.torchvision_ops import import_torchvision

import_torchvision()
pytest.importorskip("nvidia.dali")

from nvidia.dali import fn, pipeline_def  # noqa: E402
from timm.data import auto_augment as timm  # noqa: E402

from mgm_dali.pipelines.rand_augment import OPERATIONS, rand_augment  # noqa: E402

PAPER = RandAugmentConfig(layers=4)
GRAY = (128, 128, 128)
MAGNITUDES = (0, 3, 5, 7, 9)
SIZES = [(200, 400), (61, 47), (90, 133)]
"""(height, width); most are no multiple of anything."""


@dataclass(frozen=True)
class Agreement:
    """How far pixels may lie from timm's, in levels of 255, and where they are compared."""

    timm: str
    levels: int
    reason: str
    where: str = "everywhere"


AGREEMENT = {
    "auto_contrast": Agreement("AutoContrast", 1, "PIL multiplies by a rounded scale"),
    "equalize": Agreement("Equalize", 8, "OpenCV's formula, not PIL's: steps of another width"),
    "invert": Agreement("Invert", 0, "integers"),
    "rotate": Agreement("Rotate", 1, "rounding", "off the seam"),
    "posterize": Agreement("PosterizeIncreasing", 0, "integers"),
    "solarize": Agreement("SolarizeIncreasing", 0, "integers"),
    "solarize_add": Agreement("SolarizeAdd", 0, "integers"),
    "color": Agreement("ColorIncreasing", 1, "fixed point"),
    "contrast": Agreement("ContrastIncreasing", 1, "fixed point"),
    "brightness": Agreement("BrightnessIncreasing", 1, "PIL cuts off, DALI rounds"),
    "sharpness": Agreement("SharpnessIncreasing", 1, "rounding", "off the border"),
    "shear_x": Agreement("ShearX", 1, "rounding", "off the seam"),
    "shear_y": Agreement("ShearY", 1, "rounding", "off the seam"),
    "translate_x": Agreement("TranslateXRel", 1, "PIL interpolates"),
    "translate_y": Agreement("TranslateYRel", 1, "PIL interpolates"),
}
"""The border is the outermost pixel, which PIL leaves as it is. The seam is where picture and gray
meet: DALI blends them over a pixel, PIL does not."""


def textured(frames, height, width, seed=0):
    """Grains of a few pixels in all three channels, from 0 to 255, another in every frame."""
    noise = np.random.default_rng(seed).standard_normal((frames, height, width, 3))
    for axis in (1, 2) * 2:
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    low, high = noise.min((1, 2), keepdims=True), noise.max((1, 2), keepdims=True)
    brightest = np.array((255, 230, 200))  # so that no channel is stretched already
    return ((noise - low) / (high - low) * brightest).astype(np.uint8)


def augment(clips, operations, levels, *, device="cpu", seed=None):
    """The clips after their layers, from one batch: operations are names, `[clips][layers]`."""
    names = list(OPERATIONS)
    places = [np.array([names.index(name) for name in row], np.int32) for row in operations]
    levels = [np.array(row, np.int32) for row in levels]

    @pipeline_def(enable_conditionals=True, batch_size=len(clips), num_threads=2, seed=seed)
    def graph():
        pixels = fn.external_source(lambda: clips, layout="FHWC")
        if device == "gpu":
            pixels = pixels.gpu()
        chosen, strengths = fn.external_source(lambda: (places, levels), num_outputs=2)
        return rand_augment(pixels, chosen, strengths, num_layers=len(places[0]))

    pipeline = graph(device_id=0 if device == "gpu" else None)
    (output,) = pipeline.run()
    output = output.as_cpu()
    return [np.array(output.at(clip)) for clip in range(len(clips))]


def apply(name, clips, levels):
    """The clips after one operation, whose levels are a number a clip; nothing is selected."""

    @pipeline_def(batch_size=len(clips), num_threads=2, device_id=None)
    def graph():
        pixels = fn.external_source(lambda: clips, layout="FHWC")
        return OPERATIONS[name](pixels, fn.external_source(lambda: np.int32(levels)))

    (output,) = graph().run()
    return [np.array(output.at(clip)) for clip in range(len(clips))]


def timm_operation(name, magnitude, sign, size, monkeypatch):
    """timm's operation with its draws fixed: a function of one frame."""
    monkeypatch.setattr(timm, "_randomly_negate", lambda value: value * sign)
    hparams = {"interpolation": Image.Resampling.BILINEAR, "img_mean": GRAY}
    if name.startswith("translate") and magnitude:
        # timm moves by parts of a pixel. 200 x 400 is moved by whole ones at these magnitudes;
        # for other sizes timm is told the nearest whole number.
        length = size[name == "translate_x"]
        whole = np.floor(0.45 * magnitude / 10 * length + 0.5)
        hparams["translate_pct"] = whole / length / (magnitude / 10)
    operation = timm.AugmentOp(AGREEMENT[name].timm, 1.0, magnitude, hparams)
    return lambda frame: np.asarray(operation(Image.fromarray(frame)))


def compared(where, operation, size):
    """Where pixels are compared, bool `[H, W]`."""
    result = np.ones(size, bool)
    if where == "off the border":
        result[[0, -1]] = result[:, [0, -1]] = False
    if where == "off the seam":
        shown = operation(np.full((*size, 3), 255, np.uint8))[:, :, 0]
        padded = np.pad(shown, 1, constant_values=GRAY[0])  # a seam may run along the border
        around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        result = (around == shown[:, :, None, None]).all((2, 3))
    return result


def test_feed_and_graph_number_the_same_operations():
    assert tuple(OPERATIONS) == draws.OPERATIONS
    assert [AGREEMENT[name].timm for name in draws.OPERATIONS[1:]] == [
        operation.name for operation in timm_transform().ops
    ]


@pytest.mark.parametrize("name", AGREEMENT)
def test_every_operation_gives_the_pixels_of_timms(name, monkeypatch):
    agreement = AGREEMENT[name]
    cases = [
        (clip, magnitude, sign)
        for clip in (textured(2, *size) for size in SIZES)
        for magnitude in MAGNITUDES
        for sign in ((1, -1) if name in SIGNED else (1,))
    ]
    clips, magnitudes, signs = zip(*cases, strict=True)
    levels = [m * s * LEVELS // 10 for m, s in zip(magnitudes, signs, strict=True)]
    found = apply(name, clips, levels)
    for (clip, magnitude, sign), ours in zip(cases, found, strict=True):
        size = clip.shape[1:3]
        operation = timm_operation(name, magnitude, sign, size, monkeypatch)
        where = compared(agreement.where, operation, size)
        assert where.mean() > 0.8
        for frame, our_frame in zip(clip, ours, strict=True):
            difference = our_frame.astype(int) - operation(frame)
            worst = np.abs(difference[where]).max()
            assert worst <= agreement.levels, f"{size}, {magnitude * sign}: {agreement.reason}"
        changes = name in ("auto_contrast", "equalize", "invert") or magnitude > 0
        assert (ours != clip).any() == (changes or name == "posterize")


def test_translation_at_timms_own_magnitude_is_exact_where_it_is_whole_pixels(monkeypatch):
    monkeypatch.setattr(timm, "_randomly_negate", lambda value: value)
    clip = textured(1, 200, 400)
    for name in ("translate_x", "translate_y"):
        operation = timm.AugmentOp(AGREEMENT[name].timm, 1.0, 7, {"img_mean": GRAY})
        expected = np.asarray(operation(Image.fromarray(clip[0])))
        (found,) = apply(name, [clip], [7 * LEVELS // 10])
        assert np.abs(found[0].astype(int) - expected).max() <= 1


def test_the_strongest_posterization_keeps_a_bit():
    clip = textured(1, 40, 50)
    (found,) = apply("posterize", [clip], [LEVELS])
    np.testing.assert_array_equal(found, clip & 0x80)


def test_identity_changes_nothing():
    clips = [textured(3, 33, 21), textured(1, 8, 8)]
    for found, clip in zip(augment(clips, [["identity"]] * 2, [[0], [777]]), clips, strict=True):
        np.testing.assert_array_equal(found, clip)


def test_flat_frames_survive_what_stretches_contrast():
    clips = [np.full((2, 20, 24, 3), value, np.uint8) for value in (0, 9, 255)]
    for name in ("auto_contrast", "equalize"):
        for found, clip in zip(apply(name, clips, [0] * 3), clips, strict=True):
            np.testing.assert_array_equal(found, clip)


def test_layers_follow_one_another_in_their_order():
    clip = textured(2, 40, 52)
    rows = [["invert", "solarize_add"], ["solarize_add", "invert"]]
    found = augment([clip] * 2, rows, [[0, LEVELS], [LEVELS, 0]])
    lighter = np.array([v + 110 if v < 128 else v for v in range(256)], np.uint8)
    np.testing.assert_array_equal(found[0], lighter[255 - clip])
    np.testing.assert_array_equal(found[1], 255 - lighter[clip])


def test_all_frames_of_a_clip_change_alike():
    clip = np.repeat(textured(1, 45, 60), 5, axis=0)
    names = list(OPERATIONS)
    found = augment([clip] * len(names), [[name] for name in names], [[LEVELS // 2]] * len(names))
    for frames in found:
        assert (frames == frames[0]).all()


@pytest.fixture(scope="module")
def mixed_batch():
    """Sixteen clips of many sizes with draws of their own, two layers each."""
    sizes = np.random.default_rng(3).integers(20, 90, (16, 2))
    clips = [textured(2, *size, seed=place) for place, size in enumerate(sizes)]
    config = RandAugmentConfig(layers=2, probability=0.9)
    drawn = [draw_layers(config, np.random.default_rng(place)) for place in range(16)]
    rows = [[draws.OPERATIONS[place] for place in operations] for operations, _ in drawn]
    levels = [levels.tolist() for _, levels in drawn]
    return clips, rows, levels, augment(clips, rows, levels)


def test_every_clip_of_a_batch_goes_through_its_own_layers(mixed_batch):
    clips, rows, levels, together = mixed_batch
    assert len({name for row in rows for name in row}) > 12
    for place, (clip, row) in enumerate(zip(clips, rows, strict=True)):
        for name, level in zip(row, levels[place], strict=True):
            (clip,) = apply(name, [clip], [level])
        np.testing.assert_array_equal(together[place], clip)


def test_a_clip_comes_out_alike_whatever_else_is_in_the_batch(mixed_batch):
    clips, rows, levels, together = mixed_batch
    for places in ([5], list(range(15, -1, -1))):
        found = augment(*([part[place] for place in places] for part in (clips, rows, levels)))
        for place, clip in zip(places, found, strict=True):
            np.testing.assert_array_equal(clip, together[place])


def test_dali_draws_nothing(mixed_batch):
    clips, rows, levels, together = mixed_batch
    for found, clip in zip(augment(clips, rows, levels, seed=1), together, strict=True):
        np.testing.assert_array_equal(found, clip)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_smallest_frames_go_through_every_operation(name):
    sizes = [(1, 1), (1, 30), (30, 1), (2, 3)]
    clips = [textured(1, 30, 30)[:, :height, :width].copy() for height, width in sizes]
    found = apply(name, clips, [LEVELS] * len(clips))
    assert [frames.shape for frames in found] == [clip.shape for clip in clips]


def timm_transform():
    return timm.rand_augment_transform("rand-m7-n4-mstd0.5-inc1", {"img_mean": GRAY})


@pytest.fixture(scope="module")
def timms_draws():
    """(operations `[applied]`, magnitudes `[applied]`) of six thousand images through timm."""
    transform, seen = timm_transform(), []
    for place, operation in enumerate(transform.ops, start=1):

        def record(magnitude, _, place):
            seen.append((place, magnitude))
            return ()

        operation.level_fn = partial(record, place=place)
        operation.aug_fn = lambda image, **_: image
    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(1)
    np.random.seed(1)
    for _ in range(6000):
        transform(None)
    random.setstate(state)
    np.random.set_state(numpy_state)
    operations, magnitudes = zip(*seen, strict=True)
    return np.array(operations), np.array(magnitudes)


@pytest.fixture(scope="module")
def our_draws():
    """(operations, levels) of six thousand clips, int32 `[24000]` each."""
    drawn = [draw_layers(PAPER, np.random.default_rng(seed)) for seed in range(6000)]
    return tuple(np.concatenate(part) for part in zip(*drawn, strict=True))


def test_draws_are_distributed_as_timms(our_draws, timms_draws):
    operations, levels = our_draws
    assert abs((operations > 0).mean() - len(timms_draws[0]) / 24000) < 0.015
    ours = np.bincount(operations[operations > 0], minlength=16) / 24000
    theirs = np.bincount(timms_draws[0], minlength=16) / 24000
    np.testing.assert_allclose(ours, theirs, atol=0.007)  # 1/30 each, four deviations
    np.testing.assert_allclose(theirs[1:], 1 / 30, atol=0.007)
    magnitudes = np.abs(levels[operations > 0]) / LEVELS * 10
    assert abs(magnitudes.mean() - timms_draws[1].mean()) < 0.03
    assert abs(magnitudes.std() - timms_draws[1].std()) < 0.02


def test_levels_are_negative_half_of_the_time_where_timm_negates_and_never_elsewhere(our_draws):
    operations, levels = our_draws
    assert (levels[operations == 0] == 0).all()
    for place, operation in enumerate(timm_transform().ops, start=1):
        negative = (levels[operations == place] < 0).mean()
        results = set()
        if operation.level_fn is not None:
            results = {operation.level_fn(7, operation.hparams) for _ in range(60)}
        assert (len(results) == 2) == (draws.OPERATIONS[place] in SIGNED)
        assert abs(negative - 0.5) < 0.08 if len(results) == 2 else negative == 0


def test_magnitudes_are_cut_to_the_scale_and_without_deviation_all_alike():
    wild = RandAugmentConfig(layers=16, magnitude=10, magnitude_std=30, probability=1)
    levels = np.abs(draw_layers(wild, np.random.default_rng(0))[1])
    assert levels.max() == LEVELS and levels.min() == 0
    calm = RandAugmentConfig(layers=16, magnitude=7, magnitude_std=0, probability=1)
    assert (np.abs(draw_layers(calm, np.random.default_rng(0))[1]) == 0.7 * LEVELS).all()


@pytest.mark.parametrize("probability", [0, 1])
def test_never_and_always_mean_what_they_say(probability):
    config = RandAugmentConfig(layers=16, probability=probability)
    for seed in range(50):
        operations, _ = draw_layers(config, np.random.default_rng(seed))
        assert ((operations > 0) == probability).all()


def test_no_layers_are_no_draws():
    operations, levels = draw_layers(RandAugmentConfig(layers=0), np.random.default_rng(0))
    assert operations.shape == levels.shape == (0,)
    assert operations.dtype == levels.dtype == np.int32


@pytest.mark.gpu
def test_the_gpu_gives_the_clips_of_the_cpu(mixed_batch):
    clips, rows, levels, on_cpu = mixed_batch
    names = [[name] for name in OPERATIONS]
    clip = textured(2, 61, 47)
    for sign in (1, -1):
        strong = [[sign * 7 * LEVELS // 10 if name in SIGNED else 7000] for (name,) in names]
        parts = ([clip] * len(names), names, strong)
        pairs = zip(names, augment(*parts, device="gpu"), augment(*parts), strict=True)
        for (name,), found, expected in pairs:
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() <= 1, name
    for found, expected in zip(augment(clips, rows, levels, device="gpu"), on_cpu, strict=True):
        assert np.abs(found.astype(int) - expected).mean() < 1
