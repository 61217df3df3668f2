"""Verification: a store is whole, or it is said which of its records are not."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_videos import manifest_of, write_video
from typer.testing import CliRunner

from mgm_dali.cli import app
from mgm_dali.errors import UserError
from mgm_dali.motion import MotionField, codec
from mgm_dali.motion.extract import extract
from mgm_dali.motion.recipe import WITHOUT_VECTORS, Recipe, make_field
from mgm_dali.motion.store import MotionStore, MotionStoreWriter, StoreError, fingerprint
from mgm_dali.motion.verify import VerifyReport, forget, verify
from mgm_dali.video.manifest import Manifest
from mgm_dali.video.opening import VideoError

NUM_VIDEOS = 4
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("data")
    return manifest_of(
        root / "videos.csv", [write_video(root / f"{n}.mp4", n) for n in range(NUM_VIDEOS)]
    )


@pytest.fixture
def folder(manifest: Manifest, tmp_path: Path) -> Path:
    """A whole store."""
    extract(manifest, tmp_path / "motion", Recipe(), num_workers=1)
    return tmp_path / "motion"


def flip_a_bit_of_the_last_frame(folder: Path) -> None:
    (shard,) = folder.glob("*.lmdb")
    content = bytearray(shard.read_bytes())
    content[content.rindex(ZSTD_MAGIC) + 20] ^= 1
    shard.write_bytes(content)


def test_a_whole_store_is_sound_and_equals_what_the_videos_give(
    manifest: Manifest, folder: Path
) -> None:
    done: list[tuple[int, int]] = []
    report = verify(manifest, folder, num_workers=2, progress=lambda *counts: done.append(counts))
    assert report == VerifyReport(NUM_VIDEOS, NUM_VIDEOS, [], [])
    assert done == [(number, NUM_VIDEOS) for number in range(1, NUM_VIDEOS + 1)]


def test_ranks_share_the_checks(manifest: Manifest, folder: Path) -> None:
    for rank, expected in ((0, 2), (1, 1), (2, 1)):
        assert verify(manifest, folder, num_workers=1, share=(rank, 3)).sound == expected


def test_a_flipped_bit_in_any_frame_is_found_and_repaired(manifest: Manifest, folder: Path) -> None:
    flip_a_bit_of_the_last_frame(folder)
    report = verify(manifest, folder, num_workers=1)
    assert report.sound == NUM_VIDEOS - 1
    ((path, reason),) = report.damaged
    assert "is broken" in reason
    assert forget(folder, [path]) == 1
    assert verify(manifest, folder, num_workers=1).missing[0][0] == path
    assert extract(manifest, folder, Recipe(), num_workers=1).written == 1
    assert verify(manifest, folder, num_workers=1).sound == NUM_VIDEOS


def test_a_field_that_is_not_the_videos_is_found(manifest: Manifest, folder: Path) -> None:
    path = manifest[2].path
    field = codec.read_motion(path)
    forged = field.vectors.copy()
    forged[5, 3, 3] += 1
    with MotionStoreWriter(folder, 0, 1) as writer:
        writer.add(fingerprint(path), MotionField(forged, field.valid, field.known))
    ((found, reason),) = verify(manifest, folder, num_workers=1).damaged
    assert found == path
    assert reason == "its record differs from what the video gives now"


def test_a_video_that_changed_or_went_is_missing(manifest: Manifest, tmp_path: Path) -> None:
    copies = []
    for video in manifest:
        copies.append(tmp_path / video.path.name)
        shutil.copyfile(video.path, copies[-1])
    moved = manifest_of(tmp_path / "videos.csv", copies)
    extract(moved, tmp_path / "motion", Recipe(), num_workers=1)
    write_video(copies[0], 77)
    copies[1].unlink()
    missing = dict(verify(moved, tmp_path / "motion", num_workers=1).missing)
    assert list(missing) == copies[:2]
    assert "no record of this file" in missing[copies[0]]
    assert "No such file" in missing[copies[1]]


def test_no_store_is_an_error(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no motion store there"):
        verify(manifest, tmp_path, num_workers=1)


def test_the_command_says_what_is_wrong_and_mends_it(manifest: Manifest, folder: Path) -> None:
    def call(*options: str) -> object:
        command = ["extract", str(manifest.path), "-o", str(folder), *options]
        return CliRunner().invoke(app, command).exception

    assert call("--verify") is None
    flip_a_bit_of_the_last_frame(folder)
    error = call("--verify")
    assert isinstance(error, UserError)
    assert f"extract {manifest.path} -o {folder} --repair` replaces what is damaged" in str(error)
    assert "is broken" in (folder / "damaged-0.csv").read_text()
    assert call("--repair") is None
    assert call("--verify") is None


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
