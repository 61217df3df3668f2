"""Preparing a data set: every video once, whatever stops it, and a manifest that is right."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_videos import write_video

from mgm_dali.errors import UserError
from mgm_dali.files import partial_name
from mgm_dali.video import prepare as preparation
from mgm_dali.video.fingerprint import fingerprint
from mgm_dali.video.manifest import Manifest, Video, read_manifest, write_manifest
from mgm_dali.video.parts import part_paths
from mgm_dali.video.prepare import PrepareReport, prepare
from mgm_dali.video.reader import probe, read_frames
from mgm_dali.video.transcoding import TranscodeSettings

NUM_VIDEOS = 5
CLASS_NAMES = ("jump", "lie down, then rest", "run")
SETTINGS = TranscodeSettings(short_side=32)


def make_manifest(folder: Path, files: list[Path]) -> Manifest:
    """Labels 0, 1, 2, 0 ..., and none for the last one."""
    labels = [number % 3 for number in range(len(files) - 1)]
    rows = [
        Video(path=path, label=label, **vars(probe(path)))
        for path, label in zip(files, [*labels, None], strict=True)
    ]
    write_manifest(folder / "videos.csv", rows, CLASS_NAMES)
    return read_manifest(folder / "videos.csv")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Five videos: four H.264, of which one lies in a folder, and a VP9."""
    root = tmp_path / "data"
    files = [write_video(root / f"clip {number}.mp4", number) for number in range(NUM_VIDEOS - 1)]
    files[2] = files[2].rename(root / "clip-2.mp4")
    vp9 = write_video(root / "deep/er/vp9.webm", 9, encoder="libvpx-vp9", container="webm")
    return make_manifest(root, [*files, vp9])


def run(manifest: Manifest, folder: Path, **changes: Any) -> PrepareReport:
    options = {"settings": SETTINGS, "num_workers": 1} | changes
    return prepare(manifest, folder, **options)


def counts(report: PrepareReport) -> tuple[int, int, int]:
    return report.prepared, report.already_there, len(report.failed)


def assert_complete(manifest: Manifest, folder: Path) -> None:
    """OUT/videos.csv lists the transcoded file of every row, and there is no other file."""
    made = read_manifest(folder / "videos.csv")
    assert made.class_names == manifest.class_names
    assert [video.label for video in made] == [video.label for video in manifest]
    for before, after in zip(manifest, made, strict=True):
        assert probe(after.path).codec == after.codec == "h264"
        assert (after.width, after.height) == (32, 32)
        assert (after.num_frames, after.fps) == (before.num_frames, pytest.approx(before.fps))
        assert mean_brightness(after) == pytest.approx(mean_brightness(before), abs=4)
    assert set((folder / "videos").rglob("*.*")) == {video.path for video in made}


def mean_brightness(video: Video) -> float:
    return float(read_frames(video.path, [video.num_frames // 2]).mean())


def test_every_video_is_made_once_and_then_there(manifest: Manifest, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    folder = tmp_path / "out"
    report = run(manifest, folder, num_workers=2, progress=lambda *now: done.append(now))
    assert done == [(number, NUM_VIDEOS) for number in range(1, NUM_VIDEOS + 1)]
    assert counts(report) == (NUM_VIDEOS, 0, 0)
    assert_complete(manifest, folder)
    files = {path: path.stat().st_mtime_ns for path in folder.glob("videos/*/*")}
    assert report.source_bytes == sum(video.path.stat().st_size for video in manifest)
    assert report.output_bytes == sum(path.stat().st_size for path in files)
    assert report.prepared_seconds == pytest.approx(sum(v.duration_seconds for v in manifest))
    again = run(manifest, folder)
    assert counts(again) == (0, NUM_VIDEOS, 0)
    assert (again.output_bytes, again.prepared_seconds) == (report.output_bytes, 0)
    assert files == {path: path.stat().st_mtime_ns for path in folder.glob("videos/*/*")}


def test_the_parts_say_which_output_is_of_which_source(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "out")
    (part,) = (tmp_path / "out/parts").iterdir()
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    made = read_manifest(tmp_path / "out/videos.csv")
    assert [line["source"] for line in lines] == [str(video.path) for video in manifest]
    assert [tmp_path / "out" / line["output"] for line in lines] == [video.path for video in made]


CHANGES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"gop": 8}, "gop 16, now 8;"),
    ({"gop": 8, "crf": 23}, "gop 16, now 8; crf 20, now 23;"),
    ({"short_side": 64}, "short_side 32, now 64;"),
    ({"fps": 7.5}, "fps source, now 7.5;"),
)


def test_other_settings_or_encoders_are_refused_with_the_difference(
    manifest: Manifest, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    run(manifest, folder)
    before = (folder / "videos.csv").read_bytes()
    for changes, difference in CHANGES:
        with pytest.raises(UserError, match=f"was prepared with {difference} go on as before"):
            run(manifest, folder, settings=replace(SETTINGS, **changes))
    note = folder / "prepare.json"
    said = note.read_text()
    note.write_text(said.replace("subme=7", "subme=9"))
    with pytest.raises(UserError, match="was prepared with options subme=9, now subme=7;"):
        run(manifest, folder)
    for broken in ("", "[]", '{"settings": 3}', "{}"):
        note.write_text(broken)
        with pytest.raises(UserError, match=r"prepare\.json: does not describe a preparation"):
            run(manifest, folder)
    note.write_text(said)
    assert (folder / "videos.csv").read_bytes() == before
    assert counts(run(manifest, folder)) == (0, NUM_VIDEOS, 0)


def test_a_folder_holds_the_videos_of_one_manifest(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "out")
    other = Path(shutil.copy(manifest.path, manifest.path.with_name("val.csv")))
    with pytest.raises(UserError, match=r"with manifest videos\.csv, now val\.csv;"):
        run(read_manifest(other), tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    foreign = make_manifest(tmp_path / "foreign", [write_video(tmp_path / "foreign.mp4", 5)])
    with pytest.raises(UserError, match="holds the videos of another manifest, such as clip 0"):
        run(foreign, tmp_path / "out")
    with pytest.raises(UserError, match="is prepared already"):
        run(read_manifest(tmp_path / "out/videos.csv"), tmp_path / "out")


def test_a_changed_source_is_made_anew_and_the_others_stay(
    manifest: Manifest, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    run(manifest, folder)
    before = [video.path for video in read_manifest(folder / "videos.csv")]
    write_video(manifest[1].path, 77)
    assert counts(run(manifest, folder)) == (1, NUM_VIDEOS - 1, 0)
    after = [video.path for video in read_manifest(folder / "videos.csv")]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True, True, True]


def test_a_moved_data_set_and_equal_files_need_no_new_outputs(
    manifest: Manifest, tmp_path: Path
) -> None:
    run(manifest, tmp_path / "out")
    moved = tmp_path / "elsewhere"
    shutil.copytree(manifest.path.parent, moved)
    copy = shutil.copy(moved / "clip 0.mp4", moved / "its copy.mp4")
    grown = make_manifest(moved, [*(moved / v.path.name for v in list(manifest)[:3]), Path(copy)])
    report = run(grown, tmp_path / "out")
    assert counts(report) == (0, 4, 0)
    paths = [video.path for video in read_manifest(tmp_path / "out/videos.csv")]
    assert paths[0] == paths[3] and len(set(paths)) == 3


def test_a_damaged_output_is_made_anew(manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    run(manifest, folder)
    victim = read_manifest(folder / "videos.csv")[3].path
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    assert counts(run(manifest, folder)) == (1, NUM_VIDEOS - 1, 0)
    assert victim.read_bytes() == whole


def test_bad_files_are_listed_and_the_rest_goes_on(manifest: Manifest, tmp_path: Path) -> None:
    manifest[0].path.unlink()
    manifest[1].path.write_text("not a video")
    write_video(manifest[3].path, 3, num_frames=12)
    report = run(manifest, tmp_path / "out")
    assert counts(report) == (2, 0, 3)
    reasons = {path.name: reason for path, reason in report.failed}
    assert list(reasons) == ["clip 0.mp4", "clip 1.mp4", "clip 3.mp4"]
    assert "No such file" in reasons["clip 0.mp4"]
    assert "cannot be decoded" in reasons["clip 1.mp4"]
    assert "12 frames can be read, the manifest promises 20" in reasons["clip 3.mp4"]
    made = read_manifest(tmp_path / "out/videos.csv")
    assert [video.label for video in made] == [2, None]
    assert made.class_names == CLASS_NAMES


def test_two_ranks_write_the_manifest_of_one(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "alone")
    folder = tmp_path / "together"
    first = run(manifest, folder, share=(1, 2))
    assert (counts(first), first.unfinished_ranks) == ((2, 0, 0), 1)
    assert not (folder / "videos.csv").exists()
    second = run(manifest, folder, share=(0, 2))
    assert (counts(second), second.unfinished_ranks) == ((3, 0, 0), 0)
    assert_complete(manifest, folder)
    for name in ("videos.csv", "videos.classes.txt"):
        assert (folder / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    more = [run(manifest, folder, share=(rank, 3)) for rank in range(3)]
    assert [report.unfinished_ranks for report in more] == [2, 1, 0]
    assert sum(report.already_there for report in more) == NUM_VIDEOS
    assert len(list((folder / "parts").iterdir())) == 3, "earlier ones are gone"
    assert (folder / "videos.csv").read_bytes() == (tmp_path / "alone/videos.csv").read_bytes()


def test_a_part_of_an_earlier_call_does_not_pass_for_that_of_a_rank_that_died(
    manifest: Manifest, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    for rank in (0, 1):
        run(manifest, folder, share=(rank, 2))
    write_video(manifest[1].path, 77)

    def die(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(manifest, folder, share=(1, 2), progress=die)
    old = (folder / "videos.csv").read_bytes()
    assert run(manifest, folder, share=(0, 2)).unfinished_ranks == 1
    assert (folder / "videos.csv").read_bytes() == old
    assert run(manifest, folder, share=(1, 2)).unfinished_ranks == 0
    assert (folder / "videos.csv").read_bytes() != old
    parts = part_paths(folder, manifest, 2)
    assert sorted((folder / "parts").iterdir()) == sorted(parts)
    write_manifest(manifest.path, list(manifest)[:3], CLASS_NAMES)
    fewer = run(read_manifest(manifest.path), folder, share=(0, 2))
    assert fewer.unfinished_ranks == 1, "parts of other rows"


PROGRAM = """
import sys, time
from pathlib import Path
from mgm_dali.video.manifest import read_manifest
from mgm_dali.video.prepare import prepare
from mgm_dali.video.transcoding import TranscodeSettings

def progress(done, total):
    if done == int(sys.argv[3]):
        print("stopped", flush=True)
        time.sleep(600)

if __name__ == "__main__":
    settings = TranscodeSettings(short_side=32)
    manifest = read_manifest(sys.argv[1])
    prepare(manifest, Path(sys.argv[2]), settings, num_workers=1, progress=progress)
"""


def test_a_killed_run_goes_on_where_it_was(manifest: Manifest, tmp_path: Path) -> None:
    folder, program = tmp_path / "out", tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *map(str, (program, manifest.path, folder, 2))]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        process.kill()
    # The third may be done or not. What a kill leaves of the one in hand looks like this:
    finished = len(list(folder.glob("videos/*/*.mp4")))
    assert finished in (2, 3) and not (folder / "videos.csv").exists()
    some = next(folder.glob("videos/*/*.mp4"))
    some.with_name(f".{'0' * 32}.mp4.{process.pid}.partial").write_bytes(some.read_bytes()[:500])
    for leftover in folder.glob("videos/*/.*.partial"):
        os.utime(leftover, (0, 0))  # younger ones may be of a rank that has begun again
    assert counts(run(manifest, folder)) == (NUM_VIDEOS - finished, finished, 0)
    assert_complete(manifest, folder)


def prepare_on_a_disk_that_fills_up(folder: Path, settings: TranscodeSettings, video: Video) -> Any:
    """The third video meets a full disk, in its worker process."""
    if video.path.name == "clip-2.mp4":
        output = folder / preparation._output_path(fingerprint(video.path))
        output.parent.mkdir(parents=True)
        partial_name(output).symlink_to("/dev/full")
    return preparation._prepare_video(folder, settings, video)


def test_a_disk_that_fills_up_keeps_what_is_prepared(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    monkeypatch.setattr(preparation, "_prepare_video", prepare_on_a_disk_that_fills_up)
    with pytest.raises(UserError, match="out: the disk is full; what is prepared stays: make room"):
        run(manifest, folder)
    monkeypatch.undo()
    finished = len(list(folder.glob("videos/*/*.mp4")))
    assert finished in (2, 3), "the fourth may have been in hand"
    assert not (folder / "videos.csv").exists()
    assert counts(run(manifest, folder)) == (NUM_VIDEOS - finished, finished, 0)
    assert_complete(manifest, folder)
