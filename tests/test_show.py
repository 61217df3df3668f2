"""Pictures of videos and runs: all are made, and none borrows what the network did not see."""

import dataclasses

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from videos import Clip, shared

from mgm_dali.cli import app
from mgm_dali.config import ModelConfig, RunConfig, dump_config
from mgm_dali.demo_videos import make_demo_videos
from mgm_dali.errors import UserError
from mgm_dali.models import build_autoencoder, build_classifier
from mgm_dali.models.saving import save_weights
from mgm_dali.report.clip_figures import CLIP_FIGURES
from mgm_dali.report.options import ShowOptions
from mgm_dali.report.show import RUN_FIGURES, show
from mgm_dali.training.pretrain import pretrain
from mgm_dali.video.manifest import read_manifest, write_manifest

QUICK = {"dpi": 50, "masks": ("tube", "motion_guided")}
SHORT = ["model.num_frames=4"]


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    make_demo_videos(root, 8, seed=2, num_workers=0)
    return root


@pytest.fixture(scope="module")
def runs(moving_shapes, tmp_path_factory):
    """Folders as runs leave them: one pretrained, one finetuned, and one without weights.

    Each has losses, so that something could be drawn before an error is found.
    """
    root = tmp_path_factory.mktemp("runs")
    model = ModelConfig(name="vit_micro", num_frames=8, image_size=64, decoder_depth=1)
    networks = {
        "pretrained": build_autoencoder(model),
        "finetuned": build_classifier(model.model_copy(update={"num_classes": 8})),
        "empty": None,
    }
    for name, network in networks.items():
        config = RunConfig.model_validate(
            {"data": {"train": moving_shapes}, "model": model, "mask": {"ratio": 0.5}}
        )
        (root / name).mkdir()
        (root / name / "config.yaml").write_text(dump_config(config))
        (root / name / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        if network is not None:
            save_weights(network, model, root / name / "weights" / "step-1.safetensors")
    return root


@pytest.fixture(scope="module")
def sources(odd_files, runs, moving_shapes):
    """By the names in WRONG."""
    videos = {name: sorted(odd_files.rglob(f"{name}_*.mp4"))[0] for name in ("h264", "broken")}
    return videos | {"manifest": moving_shapes} | {path.name: path for path in runs.iterdir()}


@pytest.mark.parametrize("pattern", ["h264_*.mp4", "hevc_*.mp4", "vp9_*.webm"])
def test_a_video_of_any_codec_is_drawn(odd_files, tmp_path, pattern):
    path = sorted(odd_files.rglob(pattern))[0]
    written = show(path, tmp_path, ShowOptions(SHORT, **QUICK))
    assert [file.name for file in written] == ["motion.png", "motion-wheel.png", "masks.png"]
    for file in written:
        with Image.open(file) as picture:
            assert min(picture.size) > 100 and np.asarray(picture.convert("L")).std() > 5


def test_the_row_asked_for_is_drawn(moving_shapes, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setitem(CLIP_FIGURES, "motion", lambda subject: drawn.append(subject) or {})
    show(moving_shapes, tmp_path, ShowOptions(SHORT, row=3, figures=("motion",)))
    show(moving_shapes, tmp_path, ShowOptions(SHORT, figures=("motion",)))
    manifest = read_manifest(moving_shapes)
    assert [subject.clip.video for subject in drawn] == [manifest[3], manifest[0]]


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_every_figure_with_time_becomes_a_film(runs, odd_files, tmp_path, kind):
    short = ["model.num_frames=2", "model.position_frames=8"]
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
            "model": {"name": "vit_micro", "num_frames": 4, "image_size": 64, "decoder_depth": 1},
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


def test_weights_of_a_run_bring_the_runs_configuration(runs, odd_files, tmp_path, monkeypatch):
    """By the run, by its folder of weights and by the file; the size is what lies beside it."""
    drawn = []
    monkeypatch.setitem(CLIP_FIGURES, "motion", lambda subject: drawn.append(subject) or {})
    run = runs / "pretrained"
    for weights in (run, run / "weights", run / "weights" / "step-1.safetensors"):
        options = ShowOptions(weights=weights, figures=("motion",))
        show(sorted(odd_files.rglob("h264_*.mp4"))[0], tmp_path, options)
    assert [subject.config.mask.ratio for subject in drawn] == [0.5] * 3
    assert [subject.config.model.image_size for subject in drawn] == [64] * 3
    assert [subject.weights for subject in drawn] == ["pretrained, step 1"] * 3


def test_a_name_given_twice_is_drawn_once(moving_shapes, tmp_path):
    options = ShowOptions(figures=("masks", "masks"), masks=("tube", "tube"), dpi=50)
    assert [path.name for path in show(moving_shapes, tmp_path, options)] == ["masks.png"]


NO_NETWORK = {"figures": ("attention",)}
MOTION, LOSS = {"figures": ("motion",)}, {"figures": ("loss",)}
WRONG = {
    "a figure": ("h264", {"figures": ("mask",)}, "--only 'mask': .* did you mean 'masks'"),
    "a mask": ("h264", {"masks": ("motion_guide",)}, "did you mean 'motion_guided'"),
    "an animation": ("h264", {"animate": "avi"}, "--animate 'avi': .* known: gif, mp4"),
    "a key": ("h264", {"overrides": ["mask.raito=1"]}, "did you mean 'ratio'"),
    "a ratio": ("h264", {"overrides": ["mask.ratio=2"]}, "mask.ratio: .* less than 1"),
    "an override": ("h264", {"overrides": ["tube"]}, "expected key=value"),
    "no figure": ("h264", {"figures": ()}, "--only: names nothing; known: motion, masks"),
    "no mask": ("h264", {"masks": ()}, "--masks: names nothing; known: random, tube"),
    "two seeds": ("h264", {"seed": 3, "overrides": ["seed=4"]}, "--seed 3: seed=4 is given too"),
    "an unused layer": ("h264", {"layer": 3}, "--layer 3: no attention is drawn; leave it out"),
    "an unused token": ("h264", {"query": (0, 1, 2)}, "--query 0,1,2: no attention is drawn"),
    "an unused leak": ("h264", {"leak_statistics": True}, "--leak-statistics: no reconstruction"),
    "a leak of a classifier": ("finetuned", {"leak_statistics": True}, "no reconstruction is"),
    "unused masks": ("h264", {**MOTION, "masks": ("tube",)}, "--masks tube: no masks is drawn"),
    "an unused seed": ("h264", {**MOTION, "seed": 0}, "--seed 0: no masks or reconstruction is"),
    "an unused row": ("pretrained", {**LOSS, "row": 0}, "--row 0: no motion or .* --only motion"),
    "an unused film": ("empty", {**LOSS, "animate": "gif"}, "--animate gif: no motion or masks"),
    "a row of a run": ("pretrained", {"row": 24}, "no row 24; it lists 24"),
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


@pytest.mark.parametrize("folder", ["file", "file/deep/er"])
def test_pictures_go_into_a_folder_only(odd_files, tmp_path, folder):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"-o must be a folder, and .*file is a file"):
        show(sorted(odd_files.rglob("h264_*.mp4"))[0], tmp_path / folder)
    assert (tmp_path / "file").read_text() == "kept"


def test_why_a_video_cannot_be_read_is_said_once(moving_shapes, tmp_path, caplog):
    """It was indexed while it was whole, and is read as a row of the manifest."""
    whole = read_manifest(moving_shapes)[0]
    broken = dataclasses.replace(whole, path=tmp_path / "broken.mp4")
    broken.path.write_bytes(whole.path.read_bytes()[:200])
    write_manifest(tmp_path / "videos.csv", [broken], ())
    with pytest.raises(UserError, match=r"broken\.mp4"):
        show(tmp_path / "videos.csv", tmp_path / "out")
    assert not caplog.records


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--only", ","], "--only: names nothing"), (["--masks", ""], "--masks: names nothing")],
)
def test_an_empty_list_on_the_command_line_is_an_error(odd_files, tmp_path, arguments, message):
    video = sorted(odd_files.rglob("h264_*.mp4"))[0]
    result = CliRunner().invoke(app, ["show", str(video), "-o", str(tmp_path / "out"), *arguments])
    assert isinstance(result.exception, UserError) and message in str(result.exception)


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


def test_a_video_with_nothing_to_see_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="one frame only, and motion needs two"):
        show(Clip(num_frames=1).path(), tmp_path)
    with pytest.raises(UserError, match="2x2 are smaller than one patch of 16 pixels"):
        show(shared("hostile/pixfmt/mozilla_video_colr_nclx_rgb.mp4"), tmp_path)


def test_every_figure_is_either_of_a_clip_or_of_a_run():
    assert not CLIP_FIGURES.keys() & RUN_FIGURES.keys()
