"""The command line: one clear line and status 1 for every error a user can cause."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mgm_dali import __version__
from mgm_dali.cli import main

ROOT = Path(__file__).parents[1]


def mgm_dali(*arguments, cwd=None):
    """The command as a shell starts it."""
    command = [sys.executable, "-m", "mgm_dali", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120, cwd=cwd
    )


@pytest.fixture
def error_line(monkeypatch, capfd):
    """Runs a command here and gives the one line it dies with: status 1, no traceback."""

    def run(*arguments, cwd=None):
        monkeypatch.setattr(sys, "argv", ["mgm-dali", *map(str, arguments)])
        if cwd:
            monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as left:
            main()
        said = capfd.readouterr().err.strip()
        assert left.value.code == 1, said
        assert "Traceback" not in said
        # What a command had to tell before it failed is plain text; the error is one line.
        *before, line = said.splitlines()
        assert line.startswith("error: ") and not any("rror" in other for other in before), said
        return line

    return run


@pytest.fixture
def empty_config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("device: cpu\nmodel:\n  name: vit_micro\n")
    return path


def test_help_names_every_command_and_comes_quickly():
    done = mgm_dali("--help")
    assert done.returncode == 0
    for command in (
        *("demo", "doctor", "index", "prepare", "extract", "pretrain", "finetune", "evaluate"),
        *("saliency", "show", "runs"),
    ):
        assert command in done.stdout
    assert "--local_rank" not in done.stdout


def test_the_version_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mgm-dali", "--version"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert capsys.readouterr().out.strip() == f"mgm-dali {__version__}"


@pytest.mark.parametrize("arguments", [["pretrain"], ["no-such-command"]])
def test_wrong_usage_has_its_own_status(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mgm-dali", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "missing.csv", "-o", "out"],
        pytest.param(["pretrain", "missing.yaml"], marks=pytest.mark.slow),  # waits for DeepSpeed
    ],
    ids=" ".join,
)
def test_an_error_leaves_no_traceback_in_a_shell(arguments, tmp_path):
    done = mgm_dali(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_the_option_that_deepspeeds_launcher_passes_is_taken(tmp_path, error_line):
    line = error_line("--local_rank=0", "pretrain", tmp_path / "missing.yaml")
    assert "no such config file" in line


def test_a_misspelt_key_is_one_line(empty_config, error_line):
    assert "did you mean 'ratio'" in error_line("pretrain", empty_config, "mask.raito=0.5")


def test_a_run_without_data_says_which_key_to_set(empty_config, error_line):
    line = error_line("pretrain", empty_config, f"output_dir={empty_config.parent / 'run'}")
    assert "data.train is not set" in line and "mgm-dali index" in line


def test_a_missing_manifest_is_one_line(empty_config, error_line):
    line = error_line("pretrain", empty_config, "data.train=nowhere.csv", cwd=empty_config.parent)
    assert "nowhere.csv: no such manifest" in line


def test_an_empty_manifest_is_one_line(empty_config, error_line):
    folder = empty_config.parent
    header = "path,label,num_frames,fps,width,height,codec,duration_seconds\n"
    (folder / "empty.csv").write_text(header)
    line = error_line("pretrain", empty_config, "data.train=empty.csv", cwd=folder)
    assert "empty.csv" in line and "mgm-dali index" in line


def test_a_label_out_of_range_is_one_line(empty_config, error_line):
    folder = empty_config.parent
    (folder / "videos.csv").write_text(
        "path,label,num_frames,fps,width,height,codec,duration_seconds\n"
        "a.mp4,7,40,25.0,64,64,h264,1.6\n"
    )
    settings = ("data.train=videos.csv", "model.num_classes=5")
    line = error_line("finetune", empty_config, *settings, cwd=folder)
    assert "label 7 does not fit 5 classes" in line


@pytest.mark.parametrize("num_classes", [2, 5])
def test_another_number_of_classes_than_are_named_is_one_line(
    empty_config, error_line, num_classes
):
    folder = empty_config.parent
    (folder / "videos.csv").write_text(
        "path,label,num_frames,fps,width,height,codec,duration_seconds\n"
        "a.mp4,1,40,25.0,64,64,h264,1.6\n"
    )
    (folder / "videos.classes.txt").write_text("walk\nrun\njump\n")
    settings = ("data.train=videos.csv", f"model.num_classes={num_classes}")
    line = error_line("finetune", empty_config, *settings, cwd=folder)
    assert f"has 3 class names beside it, and model.num_classes is {num_classes}" in line


def test_videos_whose_codec_has_no_vectors_are_one_line(empty_config, error_line):
    folder = empty_config.parent
    (folder / "videos.csv").write_text(
        "path,label,num_frames,fps,width,height,codec,duration_seconds\n"
        "a.webm,0,40,25.0,64,64,vp9,1.6\n"
    )
    line = error_line("pretrain", empty_config, "data.train=videos.csv", cwd=folder)
    assert "vp9" in line and "motion.without_vectors=block_matching" in line
    line = error_line("extract", "videos.csv", "-o", "motion", cwd=folder)
    assert "vp9" in line and "--without-vectors" in line


def test_a_folder_without_videos_is_one_line(tmp_path, error_line):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "zero.mp4").write_bytes(b"")
    line = error_line("index", tmp_path, "-o", tmp_path / "videos.csv")
    assert "none of its files is a readable video" in line
    assert not (tmp_path / "videos.csv").exists()
    assert "zero.mp4" in (tmp_path / "videos-rejected.csv").read_text()


def test_showing_what_is_no_video_is_one_line(tmp_path, error_line):
    (tmp_path / "text.mp4").write_text("no video")
    assert "text.mp4" in error_line("show", tmp_path / "text.mp4", "-o", tmp_path / "out")
    assert "neither a video nor a run" in error_line("show", tmp_path, "-o", tmp_path / "out")


def test_a_gpu_that_is_not_there_is_one_line(empty_config, error_line):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    line = error_line("pretrain", empty_config, "device=cuda")
    assert "PyTorch sees no GPU" in line and "mgm-dali doctor" in line


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    from mgm_dali import doctor

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run_doctor", interrupted)
    monkeypatch.setattr(sys, "argv", ["mgm-dali", "doctor"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_one_line(empty_config, error_line):
    (empty_config.parent / "file").write_text("")
    output = empty_config.parent / "file" / "run"
    line = error_line("pretrain", empty_config, f"output_dir={output}", "data.train=a.csv")
    assert str(output) in line


HEADER = "path,label,num_frames,fps,width,height,codec,duration_seconds\n"


def test_manifests_of_different_classes_are_one_line(empty_config, error_line):
    folder = empty_config.parent
    for name, classes in (("train", "run\nwalk\n"), ("val", "walk\nrun\n")):
        (folder / f"{name}.csv").write_text(HEADER + "a.mp4,0,40,25.0,64,64,h264,1.6\n")
        (folder / f"{name}.classes.txt").write_text(classes)
    settings = ("data.train=train.csv", "data.val=val.csv")
    line = error_line("finetune", empty_config, *settings, cwd=folder)
    assert "name different classes" in line


def test_motion_that_no_video_gives_is_an_error_and_listed(empty_config, error_line):
    folder = empty_config.parent
    (folder / "gone.csv").write_text(HEADER + "gone.mp4,0,40,25.0,64,64,h264,1.6\n")
    line = error_line("extract", "gone.csv", "-o", "motion", cwd=folder)
    assert "none of its videos could be read" in line
    assert "gone.mp4" in (folder / "motion" / "failed-0.csv").read_text()


def test_a_motion_store_that_is_not_there_is_one_line(empty_config, error_line):
    folder = empty_config.parent
    (folder / "videos.csv").write_text(HEADER + "a.mp4,0,40,25.0,64,64,h264,1.6\n")
    settings = ("data.train=videos.csv", "data.motion_store=nowhere")
    line = error_line("pretrain", empty_config, *settings, cwd=folder)
    assert "nowhere" in line and "mgm-dali extract" in line


def test_doctor_lists_what_this_machine_has(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["mgm-dali", "doctor"])
    with pytest.raises(SystemExit) as left:
        main()
    said = capfd.readouterr().out
    assert left.value.code == 0, said
    for name in ("PyTorch", "NVIDIA DALI", "DeepSpeed", "PyAV", "/dev/shm", "NVDEC"):
        assert name in said
    assert said.isascii(), "nothing is cut short"
