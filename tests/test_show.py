"""Pictures of videos and runs: all are made, and none borrows what the network did not see."""

import av
import numpy as np
import pytest
import torch
from PIL import Image
from videos import Clip, shared

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig, RunConfig, dump_config, override_config
from mgm_dali.demo_videos import make_demo_videos
from mgm_dali.errors import UserError
from mgm_dali.masking import MASKS, make_mask
from mgm_dali.models import build_autoencoder, build_classifier
from mgm_dali.models.patches import patchify
from mgm_dali.models.saving import save_weights
from mgm_dali.report import clip_figures
from mgm_dali.report.clip_figures import CLIP_FIGURES, Subject
from mgm_dali.report.clips import as_manifest, config_for, read_shown_clip
from mgm_dali.report.options import ShowOptions
from mgm_dali.report.reconstruction import reconstructed_frames
from mgm_dali.report.show import RUN_FIGURES, show
from mgm_dali.training.pretrain import pretrain
from mgm_dali.video.manifest import read_manifest
from mgm_dali.video.reader import read_frames

QUICK = {"dpi": 50, "masks": ("tube", "motion_guided")}


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    make_demo_videos(root, 8, seed=2, num_workers=0)
    return root


@pytest.fixture(scope="module")
def runs(moving_shapes, tmp_path_factory):
    """Folders as runs leave them: one pretrained, one finetuned, and one without weights."""
    root = tmp_path_factory.mktemp("runs")
    model = ModelConfig(name="vit_micro", num_frames=8, image_size=64, decoder_depth=1)
    networks = {
        "pretrained": build_autoencoder(model),
        "finetuned": build_classifier(model.model_copy(update={"num_classes": 8})),
        "empty": None,
    }
    for name, network in networks.items():
        config = RunConfig.model_validate({"data": {"train": moving_shapes}, "model": model})
        (root / name).mkdir()
        (root / name / "config.yaml").write_text(dump_config(config))
        if network is not None:
            save_weights(network, model, root / name / "weights" / "step-1.safetensors")
    return root


@pytest.fixture(scope="module")
def sources(odd_files, runs, moving_shapes):
    """By the names in WRONG."""
    videos = {name: sorted(odd_files.rglob(f"{name}_*.mp4"))[0] for name in ("h264", "broken")}
    return videos | {"manifest": moving_shapes} | {path.name: path for path in runs.iterdir()}


def clip_of(path, *overrides):
    with as_manifest(path) as manifest:
        config = override_config(config_for(read_manifest(manifest)[0]), overrides)
        return read_shown_clip(config, manifest, 0, motion=True)


@pytest.mark.parametrize("pattern", ["h264_*.mp4", "hevc_*.mp4", "vp9_*.webm"])
def test_a_video_of_any_codec_is_drawn(odd_files, tmp_path, pattern):
    path = sorted(odd_files.rglob(pattern))[0]
    written = show(path, tmp_path, ShowOptions(**QUICK))
    assert [file.name for file in written] == ["motion.png", "motion-wheel.png", "masks.png"]
    for file in written:
        with Image.open(file) as picture:
            assert min(picture.size) > 100 and np.asarray(picture.convert("L")).std() > 5


def test_titles_say_where_motion_comes_from_and_what_was_done_to_it(odd_files):
    h264, hevc = (sorted(odd_files.rglob(f"{codec}_*.mp4"))[0] for codec in ("h264", "hevc"))
    plain = clip_of(h264).motion
    assert (plain.title, plain.note) == ("Motion vectors of the codec", "")
    assert plain.unit == "pixels a frame"
    motion = clip_of(hevc, "motion.subtract_camera=true", "motion.accumulate=window").motion
    assert motion.title == "Motion vectors by block_matching (hevc has none)"
    assert motion.note == "summed up between sampled frames, without the camera's motion"
    assert motion.unit == "pixels since the sampled frame before"
    none = clip_of(hevc, "motion.without_vectors=ignore").motion
    assert none.title == "Motion vectors are not read (hevc has none)" and not none.known.any()


def test_the_frames_shown_are_the_frames_of_the_file(odd_files):
    path = sorted(odd_files.rglob("h264_*.mp4"))[0]
    stride = 36 // 16
    start = int(0.5 * (36 - 16 * stride))
    expected = read_frames(path, [start + stride * number for number in range(16)])
    assert np.abs(clip_of(path).frames.astype(int) - expected.astype(int)).max() <= 1


def test_the_row_asked_for_is_drawn(moving_shapes, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setitem(CLIP_FIGURES, "motion", lambda subject: drawn.append(subject) or {})
    show(moving_shapes, tmp_path, ShowOptions(row=3, figures=("motion",)))
    show(moving_shapes, tmp_path, ShowOptions(figures=("motion",)))
    manifest = read_manifest(moving_shapes)
    assert [subject.clip.video for subject in drawn] == [manifest[3], manifest[0]]


def test_every_mask_is_made_as_a_run_with_that_strategy_would(odd_files, monkeypatch):
    """`flow_warp` looks at motion over the window, the others at that of the frame."""
    path = sorted(odd_files.rglob("h264_*.mp4"))[0]
    drawn = {}
    monkeypatch.setattr(clip_figures, "mask_strip", lambda _, masks, *__: drawn.update(masks))
    overrides = ("mask.ratio=0.9", "mask.center=vote", "motion.subtract_camera=true")
    with as_manifest(path) as manifest:
        config = override_config(config_for(read_manifest(manifest)[0]), overrides)
        clip_figures.masks(Subject(config, manifest, ShowOptions()))
    assert list(drawn) == list(MASKS)
    grid = token_grid(config.model)
    for name, mask in drawn.items():
        clip = clip_of(path, *overrides, f"mask.strategy={name}")
        batch = clip.batch
        expected = make_mask(
            *(batch.motion, batch.motion_valid, batch.seed, grid),
            *(clip.config.mask, batch.motion_known),
        )
        assert mask.tolist() == expected.view(grid).tolist(), name


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_every_figure_with_time_becomes_a_film(runs, odd_files, tmp_path, kind):
    short = ["model.num_frames=2"]
    options = ShowOptions(short, weights=runs / "pretrained", animate=kind, **QUICK)
    written = show(sorted(odd_files.rglob("h264_*.mp4"))[0], tmp_path, options)
    films = [path for path in written if path.suffix == f".{kind}"]
    stems = ["motion", "motion-wheel", "masks", "reconstruction", "attention"]
    assert [path.stem for path in films] == stems
    assert [path.stem for path in written if path.suffix == ".png"] == stems
    for path in films:
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 2


def test_a_run_is_drawn(moving_shapes, tmp_path):
    config = RunConfig.model_validate(
        {
            "output_dir": tmp_path / "run",
            "device": "cpu",
            "data": {"train": moving_shapes, "num_workers": 0},
            "clip": {"stride_frames": 2},
            "model": {"name": "vit_micro", "num_frames": 8, "image_size": 64, "decoder_depth": 1},
            "training": {"max_steps": 2, "batch_size": 4},
        }
    )
    pretrain(config)
    pictures, options = tmp_path / "pictures", ShowOptions(dpi=60)
    written = {path.name for path in show(tmp_path / "run", pictures, options)}
    of_clips = (f"{name}-{n}.png" for name in ("reconstruction", "attention") for n in range(3))
    assert written == {"loss.png", *of_clips}
    assert all((pictures / name).stat().st_size > 5000 for name in written)


def test_of_a_run_any_figure_of_any_row_can_be_asked_for(runs, tmp_path):
    options = ShowOptions(figures=("motion", "attention"), row=5, layer=1, query=(3, 0, 3), dpi=50)
    written = show(runs / "finetuned", tmp_path, options)
    assert [path.name for path in written] == ["motion.png", "motion-wheel.png", "attention.png"]
    written = show(runs / "empty", tmp_path, ShowOptions(figures=("masks",), row=0, **QUICK))
    assert [path.name for path in written] == ["masks.png"]


def test_weights_alone_tell_how_large_the_network_is(runs, odd_files, tmp_path):
    weights = runs / "finetuned" / "weights" / "step-1.safetensors"
    options = ShowOptions(weights=weights, figures=("attention",), dpi=50)
    assert show(sorted(odd_files.rglob("vp9_*.webm"))[0], tmp_path, options)


NO_NETWORK = {"figures": ("attention",)}
WRONG = {
    "a figure": ("h264", {"figures": ("mask",)}, "--only 'mask': .* did you mean 'masks'"),
    "a mask": ("h264", {"masks": ("motion_guide",)}, "did you mean 'motion_guided'"),
    "an animation": ("h264", {"animate": "avi"}, "--animate 'avi': .* known: gif, mp4"),
    "a key": ("h264", {"overrides": ["mask.raito=1"]}, "did you mean 'ratio'"),
    "a ratio": ("h264", {"overrides": ["mask.ratio=2"]}, "mask.ratio: .* less than 1"),
    "an override": ("h264", {"overrides": ["tube"]}, "expected key=value"),
    "a row of a video": ("h264", {"row": 1}, "--row 1: .* no manifest"),
    "a row of a manifest": ("manifest", {"row": 24}, "no row 24; it lists 24 .* 0 to 23"),
    "a loss of a video": ("h264", {"figures": ("loss",)}, "--only loss: .* run folder"),
    "no network": ("h264", NO_NETWORK, "--only attention: needs a network; .* --weights"),
    "a broken video": ("broken", {}, r"broken_00000\.mp4"),
    "a missing video": ("missing.mp4", {}, r"missing\.mp4: .*no such file"),
    "a missing manifest": ("missing.csv", {}, r"missing\.csv: no such manifest"),
    "no weights": ("empty", {}, "holds no weights; .* needs none"),
    "a figure not yet there": ("empty", {"figures": ("confusion",)}, r"no evaluation\.json"),
    "a classifier": ("finetuned", {"figures": ("reconstruction",)}, "weights have no decoder"),
    "a layer": ("finetuned", {"layer": 5}, "--layer 5: the encoder has the layers 1 to 4"),
    "a token": ("finetuned", {"query": (0, 4, 0)}, "--query 0,4,0: .* 4 slices of 4 rows and 4"),
    "another size": ("pretrained", {"overrides": ["model.decoder_depth=2"]}, "decoder_depth=1"),
}


@pytest.mark.parametrize(("source", "options", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_drawn_is_one_clear_line(source, options, message, sources, tmp_path):
    source = sources.get(source, tmp_path / source)
    with pytest.raises(UserError, match=message) as raised:
        show(source, tmp_path / "out", ShowOptions(**options))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists(), "nothing is drawn before it is known that all can be"


@pytest.mark.parametrize("weights", ["nowhere", "text", "other network"])
def test_weights_that_do_not_fit_are_one_clear_line(weights, odd_files, tmp_path):
    path = tmp_path / "weights.safetensors"
    if weights == "text":
        path.write_text("no weights")
    elif weights == "other network":
        small = ModelConfig(name="vit_micro", num_frames=4, image_size=32)
        save_weights(build_autoencoder(small), small, path)
        (tmp_path / "config.json").write_text('{"name": "vit_tiny"}')
    with pytest.raises(UserError, match=r"weights\.safetensors") as raised:
        video = sorted(odd_files.rglob("h264_*.mp4"))[0]
        show(video, tmp_path / "out", ShowOptions(weights=path))
    assert "\n" not in str(raised.value)


def test_a_video_shorter_than_a_clip_is_drawn_and_the_picture_says_so():
    motion = clip_of(Clip(num_frames=5).path()).motion
    assert motion.note == "a video of 5 frames whose last one is repeated"


def test_a_video_with_nothing_to_see_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="one frame only, and motion needs two"):
        show(Clip(num_frames=1).path(), tmp_path)
    with pytest.raises(UserError, match="2x2 are smaller than one patch of 16 pixels"):
        show(shared("hostile/pixfmt/mozilla_video_colr_nclx_rgb.mp4"), tmp_path)


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
    other = video.clone()
    tokens = mask.view(2, 1, 2, 4, 4).repeat_interleave(2, 2)
    pixels = tokens.repeat_interleave(16, 3).repeat_interleave(16, 4).expand_as(video)
    other[pixels] += 1.0
    with torch.inference_mode():
        honest = [reconstructed_frames(autoencoder, v, mask) for v in (video, other)]
        leaky = [reconstructed_frames(autoencoder, v, mask, True) for v in (video, other)]
    assert torch.equal(*honest)
    assert (leaky[0] - leaky[1]).abs().max() > 0.1


def test_every_figure_is_either_of_a_clip_or_of_a_run():
    assert not CLIP_FIGURES.keys() & RUN_FIGURES.keys()
