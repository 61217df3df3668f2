"""Extraction: every video once, whatever stops it, and nothing left out in silence."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_videos import manifest_of, write_video

from mgm_dali.errors import UserError
from mgm_dali.motion import block_matching, codec, shard
from mgm_dali.motion import extract as extraction
from mgm_dali.motion.extract import ExtractReport, extract
from mgm_dali.motion.recipe import Recipe
from mgm_dali.motion.store import MotionStore, MotionStoreWriter, StoreError, fingerprint
from mgm_dali.motion.verify import verify
from mgm_dali.video.manifest import Manifest, read_manifest, write_manifest

NUM_VIDEOS = 6


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Six H.264 videos."""
    root = tmp_path_factory.mktemp("data")
    return manifest_of(
        root / "videos.csv", [write_video(root / f"{n}.mp4", n) for n in range(NUM_VIDEOS)]
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One that carries vectors, one of key frames alone, and one VP9."""
    root = tmp_path_factory.mktemp("mixed")
    files = [
        write_video(root / "plain.mp4", 1),
        write_video(root / "keys.mp4", 2, gop=1),
        write_video(root / "vp9.webm", 3, encoder="libvpx-vp9", container="webm"),
    ]
    return manifest_of(root / "videos.csv", files)


def run(
    manifest: Manifest, folder: Path, without_vectors: str = "error", **options: Any
) -> ExtractReport:
    """The report, without the size of the records, which is as it is."""
    recipe = Recipe(without_vectors=without_vectors)
    report = extract(manifest, folder, recipe, **{"num_workers": 1, **options})
    assert (report.written_bytes > 100 * report.written) == bool(report.written)
    return replace(report, written_bytes=0)


def report_of(
    written: int, already_there: int, without_vectors: dict[str, int] | None = None
) -> ExtractReport:
    return ExtractReport(written, already_there, 0, without_vectors or {}, [])


def assert_stored(manifest: Manifest, folder: Path) -> None:
    store = MotionStore(folder)
    for video in manifest:
        stored, live = store.read_motion(video.path), codec.read_motion(video.path)
        assert np.array_equal(stored.vectors, live.vectors)
        assert np.array_equal(stored.known, live.known)


def test_all_is_written_once_and_then_there(manifest: Manifest, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    report = run(manifest, tmp_path, num_workers=2, progress=lambda *counts: done.append(counts))
    assert report == report_of(NUM_VIDEOS, 0)
    assert done == [(number, NUM_VIDEOS) for number in range(1, NUM_VIDEOS + 1)]
    assert_stored(manifest, tmp_path)
    assert run(manifest, tmp_path) == report_of(0, NUM_VIDEOS)


def test_the_folder_may_have_any_bytes_for_a_name(manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff \n")
    assert run(manifest, folder) == report_of(NUM_VIDEOS, 0)
    assert_stored(manifest, folder)


def test_two_ranks_share_the_work_and_any_number_finds_it(
    manifest: Manifest, tmp_path: Path
) -> None:
    reports = [run(manifest, tmp_path, share=(rank, 2)) for rank in (0, 1)]
    assert [report.written for report in reports] == [3, 3]
    shards = sorted(path.name for path in tmp_path.glob("*.lmdb"))
    assert shards == ["shard-00000-of-00002.lmdb", "shard-00001-of-00002.lmdb"]
    holders = [shard.Shard(tmp_path / name, "read") for name in shards]
    for video in manifest:
        assert sum(fingerprint(video.path) in holder for holder in holders) == 1
    for holder in holders:
        holder.close()
    assert_stored(manifest, tmp_path)
    for world_size in (1, 3):
        found = [
            run(manifest, tmp_path, share=(rank, world_size)).already_there
            for rank in range(world_size)
        ]
        assert sum(found) == NUM_VIDEOS


RANK = """
import sys, time
from pathlib import Path
from mgm_dali.motion import store
from mgm_dali.motion.extract import extract
from mgm_dali.motion.recipe import Recipe
from mgm_dali.video.manifest import read_manifest

def progress(done, total):
    print(done, flush=True)
    if done == stop_after:
        print("stopped", flush=True)
        time.sleep(600)

if __name__ == "__main__":
    manifest, folder = read_manifest(sys.argv[1]), Path(sys.argv[2])
    rank, world_size, stop_after = map(int, sys.argv[3:])
    store.COMMIT_BYTES = 0  # each record at once
    extract(
        manifest,
        folder,
        Recipe(),
        num_workers=1,
        share=(rank, world_size),
        progress=progress,
    )
"""


def start_rank(
    manifest: Manifest, folder: Path, rank: int, world_size: int, stop_after: int = 0
) -> subprocess.Popen[str]:
    program = folder.with_name("rank.py")
    program.write_text(RANK)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = (program, manifest.path, folder, rank, world_size, stop_after)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_ranks_that_run_at_the_same_time_do_not_disturb_each_other(
    manifest: Manifest, tmp_path: Path
) -> None:
    folder = tmp_path / "motion"
    with start_rank(manifest, folder, 0, 2) as first, start_rank(manifest, folder, 1, 2) as second:
        assert [first.wait(), second.wait()] == [0, 0]
    assert_stored(manifest, folder)


def test_a_killed_extraction_goes_on_where_it_was(manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "motion"
    with start_rank(manifest, folder, 0, 1, stop_after=2) as process:
        assert process.stdout is not None
        assert "stopped\n" in iter(process.stdout.readline, "")
        process.kill()
    assert run(manifest, folder) == report_of(NUM_VIDEOS - 2, 2)
    assert_stored(manifest, folder)


@pytest.mark.slow
def test_an_extraction_killed_at_any_moment_loses_nothing_that_was_written(tmp_path: Path) -> None:
    files = [write_video(tmp_path / f"{number}.mp4", number) for number in range(60)]
    many = manifest_of(tmp_path / "videos.csv", files)
    folder = tmp_path / "motion"
    rng = np.random.default_rng(0)
    for num_videos in (1, 4, 9, 14, 21, 26):
        with start_rank(many, folder, 0, 2) as first, start_rank(many, folder, 1, 2) as second:
            assert first.stdout is not None
            assert f"{num_videos}\n" in iter(first.stdout.readline, "")
            time.sleep(rng.uniform(0, 0.05))
            first.kill()
            second.kill()
    outcome = run(many, folder, num_workers=2)
    assert outcome.written + outcome.already_there == len(files) and not outcome.failed
    assert outcome.already_there > 0
    assert verify(many, folder, num_workers=2).sound == len(files)


def test_bad_files_are_listed_and_the_rest_goes_on(manifest: Manifest, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.mp4" for number in range(NUM_VIDEOS)]
    for video, path in zip(manifest, files, strict=True):
        shutil.copyfile(video.path, path)
    copies = [replace(video, path=path) for video, path in zip(manifest, files, strict=True)]
    write_manifest(tmp_path / "videos.csv", copies, ())
    files[0].unlink()
    files[1].write_text("not a video")
    write_video(files[3], 40, num_frames=12)
    write_video(files[4], 41, width=80)
    report = run(read_manifest(tmp_path / "videos.csv"), tmp_path / "motion")
    assert report.written == 2
    reasons = {path.name: reason for path, reason in report.failed}
    assert list(reasons) == ["0.mp4", "1.mp4", "3.mp4", "4.mp4"]
    assert "No such file" in reasons["0.mp4"]
    assert "cannot be decoded" in reasons["1.mp4"]
    assert "the file has changed since" in reasons["3.mp4"]
    assert "the file has changed since" in reasons["4.mp4"]


def test_codecs_without_vectors_are_refused_before_any_work(
    mixed: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="1 vp9") as caught:
        run(mixed, tmp_path / "motion")
    assert str(mixed[2].path) in str(caught.value)
    assert "--without-vectors block_matching" in str(caught.value)
    assert not (tmp_path / "motion").exists()


def test_a_video_whose_codec_left_no_vectors_is_not_passed_over(
    mixed: Manifest, tmp_path: Path
) -> None:
    write_manifest(tmp_path / "h264.csv", list(mixed)[:2], ())
    report = run(read_manifest(tmp_path / "h264.csv"), tmp_path / "motion")
    assert (report.written, report.without_vectors) == (1, {})
    ((path, reason),) = report.failed
    assert path.name == "keys.mp4"
    assert "none of its h264 frames carries motion vectors" in reason


def test_block_matching_estimates_what_codecs_left_out(mixed: Manifest, tmp_path: Path) -> None:
    report = run(mixed, tmp_path, without_vectors="block_matching")
    assert report == report_of(3, 0, {"h264": 1, "vp9": 1})
    store = MotionStore(tmp_path)
    for video, source in zip(mixed, (codec, block_matching, block_matching), strict=True):
        stored, live = store.read_motion(video.path), source.read_motion(video.path)
        assert np.array_equal(stored.vectors, live.vectors)
        assert np.array_equal(stored.known, live.known)
        assert source is codec or stored.valid[1:].all()


def test_ignored_videos_have_fields_in_which_nothing_is_valid(
    mixed: Manifest, tmp_path: Path
) -> None:
    report = run(mixed, tmp_path, without_vectors="ignore")
    assert report == report_of(3, 0, {"h264": 1, "vp9": 1})
    store = MotionStore(tmp_path)
    assert store.read_motion(mixed[0].path).valid.any()
    for video in (mixed[1], mixed[2]):
        motion = store.read_motion(video.path)
        assert motion.vectors.shape == (video.num_frames, 8, 8, 2)
        assert not motion.vectors.any() and not motion.valid.any()
    with pytest.raises(StoreError, match="was filled with `--without-vectors ignore`"):
        run(mixed, tmp_path, without_vectors="block_matching")


def test_an_unknown_choice_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected one of error, block_matching, dis_flow"):
        run(manifest, tmp_path, without_vectors="guess")


def test_too_small_a_disk_is_told_at_the_start(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "STORED_CELL_BYTES", 1e12)
    with pytest.raises(StoreError, match="GB are free; make room or name a folder"):
        run(manifest, tmp_path)


def test_a_disk_that_fills_up_keeps_what_is_written(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(done: int, _: int) -> None:
        if done == 3:
            monkeypatch.setattr(shard, "_free_bytes", lambda _: 0)

    monkeypatch.setattr("mgm_dali.motion.store.COMMIT_BYTES", 0)  # each record at once
    with pytest.raises(StoreError, match="the disk is full"):
        run(manifest, tmp_path, progress=fill)
    monkeypatch.undo()
    with MotionStoreWriter(tmp_path, 0, 1) as writer:
        assert sum(writer.has(fingerprint(video.path)) for video in manifest) == 3
