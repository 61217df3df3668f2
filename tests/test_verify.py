"""Verification: a store is whole, or it is said which of its records are not."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_videos import keep, manifest_of, write_video
from typer.testing import CliRunner

from mgm_dali.cli import app
from mgm_dali.errors import UserError
from mgm_dali.motion import MotionField, codec
from mgm_dali.motion.extract import extract
from mgm_dali.motion.recipe import WITHOUT_VECTORS, Recipe, make_field
from mgm_dali.motion.store import MotionStore, MotionStoreWriter, StoreError, fingerprint
from mgm_dali.motion.verify import FINDINGS, VerifyReport, verify
from mgm_dali.video.manifest import Manifest, read_manifest, write_manifest
from mgm_dali.video.opening import VideoError

NUM_VIDEOS = 4
NUM_FRAMES = 20
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("data")
    return manifest_of(
        root / "videos.csv", [write_video(root / f"{n}.mp4", n) for n in range(NUM_VIDEOS)]
    )


@pytest.fixture(scope="module")
def whole(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole store, which nobody may harm."""
    folder = tmp_path_factory.mktemp("whole") / "motion"
    extract(manifest, folder, Recipe(), num_workers=1)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A whole store of the test's own."""
    return Path(shutil.copytree(whole, tmp_path / "motion"))


def flip_a_bit(folder: Path, frame: int) -> None:
    """In one frame of the record that was written last."""
    (shard,) = folder.glob("*.lmdb")
    content = bytearray(shard.read_bytes())
    frames = [at for at in range(len(content)) if content.startswith(ZSTD_MAGIC, at)]
    content[frames[-NUM_FRAMES:][frame] + 20] ^= 1
    shard.write_bytes(content)


def check(manifest: Manifest, folder: Path) -> tuple[int, dict[str, list[Path]]]:
    """How many are sound, and which are not."""
    report = verify(manifest, folder, num_workers=1)
    return report.sound, {
        name: [path for path, _ in bad] for name, bad in report.found.items() if bad
    }


def call(manifest: Manifest, folder: Path, *options: str) -> BaseException | None:
    command = ["extract", str(manifest.path), "-o", str(folder), "-j", "1", *options]
    return CliRunner().invoke(app, command).exception


def test_a_whole_store_is_sound_and_equals_what_the_videos_give(
    manifest: Manifest, folder: Path
) -> None:
    done: list[tuple[int, int]] = []
    report = verify(manifest, folder, num_workers=2, progress=lambda *counts: done.append(counts))
    assert report == VerifyReport(NUM_VIDEOS, NUM_VIDEOS, "", {name: [] for name in FINDINGS})
    assert done == [(number, NUM_VIDEOS) for number in range(1, NUM_VIDEOS + 1)]


def test_ranks_share_the_checks(manifest: Manifest, folder: Path) -> None:
    for rank, expected in ((0, 2), (1, 1), (2, 1)):
        assert verify(manifest, folder, num_workers=1, share=(rank, 3)).sound == expected


@pytest.mark.parametrize("frame", [0, NUM_FRAMES // 2, NUM_FRAMES - 1])
def test_a_flipped_bit_of_any_frame_is_found(manifest: Manifest, folder: Path, frame: int) -> None:
    flip_a_bit(folder, frame)
    report = verify(manifest, folder, num_workers=1)
    ((_, reason),) = report.found["damaged"]
    assert report.sound == NUM_VIDEOS - 1 and f"frame {frame} is broken" in reason


def test_what_is_found_is_listed_and_repaired(manifest: Manifest, folder: Path) -> None:
    flip_a_bit(folder, 10)
    error = call(manifest, folder, "--verify")
    assert isinstance(error, UserError)
    assert f"extract {manifest.path} -o {folder} --repair` replaces what is damaged" in str(error)
    assert "frame 10 is broken" in (folder / "damaged-0.csv").read_text()
    assert call(manifest, folder, "--repair") is None
    assert call(manifest, folder, "--verify") is None
    assert not (folder / "damaged-0.csv").exists()


def test_ranks_repair_what_another_number_of_ranks_has_written(
    manifest: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_a_bit(folder, 3)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert call(manifest, folder, "--repair") is None
    assert check(manifest, folder) == (NUM_VIDEOS, {})


def test_a_repair_adds_what_is_missing_and_leaves_what_is_sound(
    manifest: Manifest, tmp_path: Path
) -> None:
    folder = tmp_path / "motion"
    write_manifest(tmp_path / "half.csv", list(manifest)[:2], ())
    extract(read_manifest(tmp_path / "half.csv"), folder, Recipe(), num_workers=1)
    before = MotionStore(folder).read_motion(manifest[0].path)
    assert check(manifest, folder) == (2, {"missing": [video.path for video in list(manifest)[2:]]})
    assert call(manifest, folder, "--repair") is None
    assert check(manifest, folder) == (NUM_VIDEOS, {})
    assert np.array_equal(MotionStore(folder).read_motion(manifest[0].path).vectors, before.vectors)


def test_a_field_that_is_not_the_videos_is_said_and_never_replaced(
    manifest: Manifest, folder: Path
) -> None:
    """All the others are then of the same decoder: one new record would mix two."""
    path = manifest[2].path
    field = codec.read_motion(path)
    forged = field.vectors.copy()
    forged[5, 3, 3] += 1
    with MotionStoreWriter(folder, 0, 1) as writer:
        keep(writer, fingerprint(path), MotionField(forged, field.valid, field.known))
    assert check(manifest, folder) == (NUM_VIDEOS - 1, {"different": [path]})
    error = call(manifest, folder, "--repair")
    assert "not whole yet: 1 other when made anew: a decoder has changed" in str(error)
    assert check(manifest, folder)[1] == {"different": [path]}


def test_a_wrong_manifest_costs_no_record(manifest: Manifest, folder: Path, tmp_path: Path) -> None:
    rows = list(manifest)
    wrong = [replace(rows[0], num_frames=rows[0].num_frames - 3), *rows[1:]]
    write_manifest(tmp_path / "wrong.csv", wrong, ())
    mistaken = read_manifest(tmp_path / "wrong.csv")
    assert check(mistaken, folder) == (NUM_VIDEOS - 1, {"misfit": [rows[0].path]})
    assert "index them again" in str(call(mistaken, folder, "--repair"))
    assert check(manifest, folder) == (NUM_VIDEOS, {})


def test_a_reader_that_is_too_slow_or_cannot_run_costs_no_record(
    manifest: Manifest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path / "two.csv", list(manifest)[:2], ())
    two = read_manifest(tmp_path / "two.csv")
    monkeypatch.setattr("mgm_dali.motion.verify.seconds_allowed", lambda *_: 0.0)
    sound, found = check(two, folder)
    assert sound < 2 and list(found) == ["unchecked"]
    assert "not whole yet" in str(call(two, folder, "--repair"))
    monkeypatch.undo()
    assert check(manifest, folder) == (NUM_VIDEOS, {})


def test_a_store_whose_source_is_not_installed_is_checked_but_not_compared(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    extract(manifest, tmp_path, Recipe("dis_flow"), num_workers=1)
    monkeypatch.setitem(sys.modules, "cv2", None)
    report = verify(manifest, tmp_path, num_workers=1)
    assert (report.sound, report.compared) == (NUM_VIDEOS, 0)
    assert "dis_flow needs OpenCV" in report.not_compared
    flip_a_bit(tmp_path, 4)
    assert "dis_flow needs OpenCV" in str(call(manifest, tmp_path, "--repair"))
    monkeypatch.undo()
    assert check(manifest, tmp_path)[0] == NUM_VIDEOS - 1


def test_a_video_that_changed_is_missing_and_one_that_went_is_not_checked(
    manifest: Manifest, tmp_path: Path
) -> None:
    copies = []
    for video in manifest:
        copies.append(tmp_path / video.path.name)
        shutil.copyfile(video.path, copies[-1])
    moved = manifest_of(tmp_path / "videos.csv", copies)
    extract(moved, tmp_path / "motion", Recipe(), num_workers=1)
    write_video(copies[0], 77)
    copies[1].unlink()
    found = check(moved, tmp_path / "motion")[1]
    assert found == {"missing": [copies[0]], "unchecked": [copies[1]]}


def test_no_store_and_a_shard_that_was_cut_short_are_errors(
    manifest: Manifest, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="no motion store there"):
        verify(manifest, tmp_path, num_workers=1)
    (shard,) = folder.glob("*.lmdb")
    shard.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match=shard.name):
        verify(manifest, folder, num_workers=1)


def test_verification_takes_no_other_option(manifest: Manifest, folder: Path) -> None:
    for options in (["--repair"], ["--source", "codec"], ["--without-vectors", "ignore"]):
        error = call(manifest, folder, "--verify", *options)
        assert isinstance(error, SystemExit) and error.code == 2


BAD_RECIPES = [
    ({"source": "store"}, "--source 'store': expected one of block_matching, codec, dis_flow"),
    ({"source": "flow"}, "--source 'flow': expected one of"),
    ({"without_vectors": "guess"}, "--without-vectors 'guess': expected one of error"),
    (
        {"source": "block_matching", "without_vectors": "ignore"},
        "--without-vectors ignore: is for --source codec",
    ),
    ({"source": "raft"}, "--weights FILE: is needed with --source raft"),
    ({"weights": Path("raft.pth")}, "--weights FILE: is needed with --source raft"),
]


@pytest.mark.parametrize(("choices", "reason"), BAD_RECIPES)
def test_choices_that_do_not_go_together_are_refused(choices, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Recipe(**choices)


@pytest.mark.parametrize("without_vectors", WITHOUT_VECTORS)
def test_a_recipe_makes_the_field_of_a_video_without_vectors_as_it_says(
    without_vectors: str, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "v.webm", 3, encoder="libvpx-vp9", container="webm")
    (video,) = manifest_of(tmp_path / "videos.csv", [path])
    recipe = Recipe(without_vectors=without_vectors)
    if without_vectors == "error":
        with pytest.raises(VideoError, match="none of its vp9 frames carries motion vectors"):
            make_field(recipe, video)
        return
    field, by_source = make_field(recipe, video)
    assert not by_source
    assert field.valid[1:].all() == (without_vectors != "ignore") and not field.valid[0]
    if without_vectors != "ignore":
        with pytest.raises(VideoError, match="index it again"):
            make_field(recipe, replace(video, num_frames=video.num_frames + 1))


def test_a_video_whose_field_would_fill_the_memory_is_refused(manifest: Manifest) -> None:
    with pytest.raises(VideoError, match=r"would take 7\.9 GB of memory; make it smaller"):
        make_field(Recipe(), replace(manifest[0], num_frames=24_800_000))


def test_a_store_is_never_filled_in_two_ways(manifest: Manifest, folder: Path) -> None:
    assert MotionStore(folder).choices == {"source": "codec"}
    with pytest.raises(StoreError, match="was filled with `--source codec`, now block_matching"):
        extract(manifest, folder, Recipe("block_matching"), num_workers=1)
    extract(manifest, folder, Recipe(without_vectors="ignore"), num_workers=1)
    assert MotionStore(folder).choices == {"source": "codec", "without_vectors": "ignore"}
    extract(manifest, folder, Recipe(), num_workers=1)
    assert MotionStore(folder).choices["without_vectors"] == "ignore"


def test_what_a_source_needs_is_asked_for_before_any_work(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(recipe: Recipe) -> str:
        with pytest.raises(UserError) as caught:
            extract(manifest, tmp_path / "motion", recipe, num_workers=1)
        assert not (tmp_path / "motion").exists()
        return str(caught.value)

    weights = tmp_path / "raft.pth"
    weights.write_bytes(b"no weights")
    assert "cannot be read as plain tensors" in start(Recipe("raft", weights=weights))
    assert str(tmp_path / "none.pth") in start(Recipe("raft", weights=tmp_path / "none.pth"))
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install mgm-dali[dis]" in start(Recipe("dis_flow"))
    assert "pip install mgm-dali[dis]" in start(Recipe(without_vectors="dis_flow"))
    if not torch.cuda.is_available():
        assert "DALI finds no GPU here" in start(Recipe("optical_flow"))


def test_a_store_of_other_weights_is_another_store(tmp_path: Path) -> None:
    choices = []
    for content in (b"a", b"b"):
        weights = tmp_path / "raft.pth"
        weights.write_bytes(content)
        choices.append(Recipe("raft", weights=weights).choices())
    assert choices[0]["source"] == "raft" and choices[0] != choices[1]
