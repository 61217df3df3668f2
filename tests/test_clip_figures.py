"""Figures of a clip: what is drawn is what a run would see and hide, and words say what it is."""

import numpy as np
import pytest
import torch
from videos import Clip

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ClipConfig, ModelConfig, RunConfig, override_config
from mgm_dali.demo_videos import make_demo_videos
from mgm_dali.masking import MASKS, make_mask
from mgm_dali.models import build_autoencoder
from mgm_dali.models.patches import patchify
from mgm_dali.models.reconstruction import reconstructed_frames
from mgm_dali.report import clip_figures
from mgm_dali.report.clip_figures import CLIP_FIGURES, Subject
from mgm_dali.report.clips import as_manifest, config_for, read_shown_clip
from mgm_dali.report.options import ShowOptions
from mgm_dali.video.manifest import read_manifest
from mgm_dali.video.reader import read_frames


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    make_demo_videos(root, 8, seed=2, num_workers=0)
    return root


def clip_of(path, *overrides):
    with as_manifest(path) as manifest:
        config = override_config(config_for(read_manifest(manifest)[0]), overrides)
        return read_shown_clip(config, manifest, 0, motion=True)


def test_titles_say_where_motion_comes_from_and_what_was_done_to_it(odd_files):
    h264, hevc = (sorted(odd_files.rglob(f"{codec}_*.mp4"))[0] for codec in ("h264", "hevc"))
    plain = clip_of(h264).motion
    assert plain.title == "Motion vectors of the codec"
    assert plain.note == "one of every 2 frames of the video"
    assert plain.unit == "pixels a frame of the video"
    motion = clip_of(hevc, "motion.subtract_camera=true", "motion.accumulate=window").motion
    assert motion.title == "Motion vectors by block_matching (hevc has none)"
    assert motion.note == (
        "one of every 2 frames of the video, summed up between sampled frames, "
        "without the camera's motion"
    )
    assert motion.unit == "pixels since the sampled frame before"
    none = clip_of(hevc, "motion.without_vectors=ignore").motion
    assert none.title == "Motion vectors are not read (hevc has none)" and not none.known.any()


def test_notes_say_which_frames_of_the_video_are_shown(odd_files):
    path = sorted(odd_files.rglob("h264_*.mp4"))[0]
    sampling = {
        "clip.stride_frames=1": "every frame of the video",
        "clip.stride_frames=3": "one of every 3 frames of a video of 36, the last one repeated",
        "clip.sampling=segments": "16 frames spread over the 36 of the video",
        "clip.target_fps=40": "one of every 1.2 frames of the video",
    }
    for override, expected in sampling.items():
        assert clip_of(path, override).sampling == expected


def test_the_frames_shown_are_the_frames_of_the_file(odd_files):
    path = sorted(odd_files.rglob("h264_*.mp4"))[0]
    stride = 36 // 16
    start = int(0.5 * (36 - 16 * stride))
    expected = read_frames(path, [start + stride * number for number in range(16)])
    assert np.abs(clip_of(path).frames.astype(int) - expected.astype(int)).max() <= 1


def test_every_mask_is_made_as_a_run_with_that_strategy_would(odd_files, monkeypatch):
    """`flow_warp` looks at motion over the window, the others at that of the frame."""
    path = sorted(odd_files.rglob("h264_*.mp4"))[0]
    drawn = {}
    monkeypatch.setattr(clip_figures, "mask_strip", lambda _, masks, *__: drawn.update(masks))
    overrides = ("mask.ratio=0.9", "mask.center=vote", "motion.subtract_camera=true")
    with as_manifest(path) as manifest:
        config = override_config(config_for(read_manifest(manifest)[0]), overrides)
        clip_figures.masks(Subject(config, manifest, ShowOptions()))
    assert [label.splitlines()[0] for label in drawn] == list(MASKS)
    assert "motion_guided\n(vote of 16)" in drawn
    grid = token_grid(config.model)
    for name, mask in zip(MASKS, drawn.values(), strict=True):
        clip = clip_of(path, *overrides, f"mask.strategy={name}")
        batch = clip.batch
        expected = make_mask(
            *(batch.motion, batch.motion_valid, batch.seed, grid),
            *(clip.config.mask, batch.motion_known),
        )
        assert mask.tolist() == expected.view(grid).tolist(), name


@pytest.mark.parametrize("change", ["border=grow", "jitter=false", "center=vote", "center=top_k"])
def test_a_label_names_an_option_where_it_changes_the_mask(odd_files, monkeypatch, change):
    path = sorted(odd_files.rglob("h264_*.mp4"))[0]
    drawn = []
    monkeypatch.setattr(clip_figures, "mask_strip", lambda _, masks, *__: drawn.append(masks))
    changed = set()
    for seed in range(4):  # a border may be far from one rectangle
        for overrides in ([], [f"mask.{change}"]):
            with as_manifest(path) as manifest:
                overrides = [f"seed={seed}", "mask.ratio=0.4", *overrides]
                config = override_config(config_for(read_manifest(manifest)[0]), overrides)
                clip_figures.masks(Subject(config, manifest, ShowOptions()))
        usual, other = (list(masks.values()) for masks in drawn[-2:])
        pairs = zip(MASKS, usual, other, strict=True)
        changed |= {name for name, one, two in pairs if one.tolist() != two.tolist()}
    assert list(drawn[0]) == list(MASKS)
    assert {label.splitlines()[0] for label in drawn[1] if "\n" in label} == changed


def test_a_note_says_where_flow_warp_follows_another_motion(odd_files, monkeypatch):
    notes = []
    monkeypatch.setattr(clip_figures, "mask_strip", lambda *found: notes.append(found[-1]))
    for overrides in ([], ["motion.accumulate=window"], ["mask.strategy=flow_warp"]):
        with as_manifest(sorted(odd_files.rglob("h264_*.mp4"))[0]) as manifest:
            config = override_config(config_for(read_manifest(manifest)[0]), overrides)
            for masks in (("tube", "flow_warp"), ("tube",)):
                clip_figures.masks(Subject(config, manifest, ShowOptions(masks=masks)))
    assert [bool(note) for note in notes] == [True, False, False, False, True, False]


def test_notes_say_whose_network_it_is_and_what_it_saw(moving_shapes):
    model = ModelConfig(name="vit_micro", num_frames=8, image_size=64)
    config = RunConfig(model=model, clip=ClipConfig(stride_frames=2))
    network = build_autoencoder(model).eval()
    subject = Subject(config, moving_shapes, ShowOptions(), network, "pretrain, step 1")
    (made,) = CLIP_FIGURES["reconstruction"](subject).values()
    assert made.note == (
        "weights: pretrain, step 1; one of every 2 frames of the video; "
        "mask: motion guided, 75% hidden"
    )
    (looks,) = CLIP_FIGURES["attention"](subject).values()
    assert looks.note == (
        "weights: pretrain, step 1, layer 4 of 4, mean over heads; "
        "one of every 2 frames of the video; the whole clip is seen, nothing hidden"
    )


def test_a_video_shorter_than_a_clip_is_drawn_and_the_picture_says_so():
    motion = clip_of(Clip(num_frames=5).path()).motion
    assert motion.note == "every frame of a video of 5, the last one repeated"


@pytest.fixture(scope="module")
def hidden_half():
    config = ModelConfig(name="vit_micro", num_frames=4, image_size=64)
    torch.manual_seed(0)
    autoencoder = build_autoencoder(config).eval()
    mask = torch.rand(2, 32, generator=torch.Generator().manual_seed(1)).argsort(1) < 16
    return autoencoder, torch.randn(2, 3, 4, 64, 64), mask


def test_visible_patches_are_shown_as_they_are(hidden_half):
    autoencoder, video, mask = hidden_half
    with torch.inference_mode():
        made = reconstructed_frames(autoencoder, video, mask)
    std, mean = (
        torch.tensor(v).view(3, 1, 1, 1) for v in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406))
    )
    assert torch.allclose(patchify(made)[~mask], patchify(video * std + mean)[~mask], atol=1e-5)


def test_what_is_hidden_does_not_show_unless_it_is_asked_for(hidden_half):
    autoencoder, video, mask = hidden_half
    tokens = mask.view(2, 1, 2, 4, 4).repeat_interleave(2, 2)
    pixels = tokens.repeat_interleave(16, 3).repeat_interleave(16, 4).expand_as(video)
    # Noise, not a shift: a leak of the contrast must be seen as well as one of the brightness.
    other = torch.where(pixels, 5 * torch.randn_like(video), video)
    with torch.inference_mode():
        honest = [reconstructed_frames(autoencoder, v, mask) for v in (video, other)]
        leaky = [reconstructed_frames(autoencoder, v, mask, True) for v in (video, other)]
    assert torch.equal(*honest)
    assert (leaky[0] - leaky[1]).abs().max() > 0.1
