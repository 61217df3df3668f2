"""`mgm-dali prepare` as its user meets it: what it says, under launchers, with any name."""

import os
import sys
from pathlib import Path

import pytest
from small_videos import manifest_of, write_video

from mgm_dali.cli import main
from mgm_dali.data_commands import prepare_videos
from mgm_dali.errors import UserError
from mgm_dali.video.manifest import Manifest, read_manifest
from mgm_dali.video.reader import probe
from mgm_dali.video.transcoding import TranscodeSettings

SETTINGS = TranscodeSettings(short_side=32)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Three videos."""
    root = tmp_path / "data"
    files = [write_video(root / f"clip {number}.mp4", number) for number in range(3)]
    return manifest_of(root / "videos.csv", files)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Runs the command line here."""
    monkeypatch.setattr(sys, "argv", ["mgm-dali", "prepare", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0


def test_it_says_what_it_did_and_what_comes_next(
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    manifest[1].path.write_text("not a video")
    folder = tmp_path / "out"
    arguments = (manifest.path, folder, "--short-side=80", "--gop=12", "--crf=25", "--fps=5")
    command(monkeypatch, *arguments)
    said = capfd.readouterr().err
    for line in (
        "short side 80 pixels, a key frame every 12 frames, 5 a second, crf 25\n",
        "libx264 core ",
        f"2 videos prepared in {folder}, 0 were there\n",
        "2 of them were smaller and keep their size, to the nearest 16 pixels\n",
        f"1 file(s) failed; all are listed in {folder}/failed-0.csv\n",
        " MB became ",
        " seconds of video a second\n",
        f"next: `mgm-dali extract {folder}/videos.csv -o STORE`",
    ):
        assert line in said
    assert "clip 1.mp4" in (folder / "failed-0.csv").read_text()
    made = read_manifest(folder / "videos.csv")
    assert {(video.width, round(video.fps, 6)) for video in made} == {(64, 5.0)}
    write_video(manifest[1].path, 1)
    command(monkeypatch, *arguments)
    assert f"1 videos prepared in {folder}, 2 were there\n" in capfd.readouterr().err
    assert not (folder / "failed-0.csv").exists()


def test_ranks_of_a_launcher_share_the_work(
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, prepared, unfinished in ((0, 2, 1), (1, 1, 0)):
        monkeypatch.setenv("RANK", str(rank))
        report = prepare_videos(manifest.path, tmp_path / "out", SETTINGS, num_workers=1)
        assert (report.prepared, report.unfinished_ranks) == (prepared, unfinished)
    assert "1 rank(s) are not done; the last one writes it" in capfd.readouterr().err
    assert len(read_manifest(tmp_path / "out/videos.csv")) == 3


def test_a_data_set_of_which_nothing_can_be_prepared_is_an_error(
    manifest: Manifest, tmp_path: Path
) -> None:
    for video in manifest:
        video.path.write_text("not a video")
    with pytest.raises(UserError, match="none of its videos could be prepared"):
        prepare_videos(manifest.path, tmp_path / "out", SETTINGS, num_workers=1)


def test_names_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff, "data"'))
    one = manifest_of(root / "videos.csv", [write_video(root / "http:x \udcfe.mp4")])
    report = prepare_videos(one.path, root / "-out %03d", SETTINGS, num_workers=1)
    assert (report.prepared, report.failed) == (1, [])
    (made,) = read_manifest(root / "-out %03d/videos.csv")
    assert probe(made.path).width == 32
