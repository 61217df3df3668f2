"""A pipe is no input: every command says so at once, where opening it would wait for ever."""

import os
import signal

import pytest
from small_videos import manifest_of, write_video
from typer.testing import CliRunner

from mgm_dali.cli import app
from mgm_dali.errors import UserError

SECONDS = 60
CONFIG = "configs/smoke/pretrain.yaml output_dir={out}"
NO_INPUTS = {
    "list of videos": "index {pipe} -o {out}/videos.csv",
    "manifest to prepare": "prepare {pipe} {out}",
    "manifest to extract": "extract {pipe} -o {out}",
    "weights of RAFT": "extract {videos} -o {out} --source raft --weights {pipe}",
    "configuration": "pretrain {pipe}",
    "manifest to train on": f"pretrain {CONFIG} data.train={{pipe}}",
    "weights to start from": f"pretrain {CONFIG} data.train={{videos}} model.init={{pipe}}",
    "class map": f"evaluate {CONFIG} data.val={{videos}} evaluation.class_map={{pipe}}",
    "boxes": "saliency {videos} {pipe}",
    "what is drawn": "show {pipe} -o {out}",
    "weights to import": "import {pipe} -o {out}",
    "weights to export": "export {pipe} -o {out} --to safetensors",
}


@pytest.fixture
def in_time():
    """Ends a test that waits."""

    def too_long(*_):
        raise TimeoutError("it waits for the pipe")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("what", NO_INPUTS)
def test_a_pipe_is_refused_at_once(what, tmp_path):
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    videos = manifest_of(tmp_path / "videos.csv", [write_video(tmp_path / "0.mp4")]).path
    command = NO_INPUTS[what].format(pipe=pipe, videos=videos, out=out)
    found = CliRunner().invoke(app, command.split())
    assert isinstance(found.exception, UserError), found.output
    assert str(pipe) in str(found.exception)


@pytest.mark.usefixtures("in_time")
def test_a_pipe_is_no_official_list(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 walk\n")
    (tmp_path / "testlist01.txt").write_text("walk/a.avi\n")
    os.mkfifo(tmp_path / "trainlist01.txt")
    command = f"index {tmp_path} -o {tmp_path}/out/videos.csv --layout ucf101"
    found = CliRunner().invoke(app, command.split())
    assert isinstance(found.exception, UserError), found.output
    assert "trainlist01.txt" in str(found.exception)


@pytest.mark.parametrize("output", ["", ".", "/dev/null"])
@pytest.mark.parametrize("layout", [(), ("--layout", "ucf101")], ids=["folder", "lists"])
def test_an_output_that_cannot_be_is_found_before_the_videos(layout, output, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the work has begun")

    for begins in ("index_source", "read_layout"):
        monkeypatch.setattr(f"mgm_dali.data_commands.{begins}", never)
    found = CliRunner().invoke(app, ["index", str(tmp_path), "-o", output, *layout])
    assert isinstance(found.exception, OSError)
