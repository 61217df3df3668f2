"""Files that the decoder in the graph refuses: found, told, replaced, and nothing else is lost."""

from dataclasses import replace

import pytest
import torch
from rewritten_videos import spoil
from videos import Clip

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines import loader as loader_module
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.placement import Placement
from mgm_dali.pipelines.share import Share
from mgm_dali.video.manifest import Video, write_manifest
from mgm_dali.video.reader import probe

GOOD = Clip("libvpx-vp9", "mp4", 96, 64, 40, start=(0, 8), velocity=(1, 0), pan=(0, 1), gop=8)
SPOILED = {
    "inside": range(12, 16),
    "at the start": range(1),
    "everywhere but the start": range(1, 40),
}
"""Packets that are noise; the index, and what the manifest says, stay as they were."""
PLACEMENT = Placement(torch.device("cpu"), "nvdec", None, "NVDEC's branch, run by DALI on the CPU")


def manifest_with(folder, bad_rows, spoiled):
    """Eight files, every one different, of which some are bad."""
    videos = []
    for row in range(8):
        good = replace(GOOD, pan=(row, 1)).path()
        path = spoil(good, folder / f"{row}.mp4", spoiled if row in bad_rows else ())
        videos.append(Video(path=path, label=None, **vars(probe(good))))
    write_manifest(folder / "videos.csv", videos, ())
    return folder / "videos.csv"


def loader_for(manifest, batch_size, monkeypatch, *, by_graph=True, stage="finetune", **data):
    manifests = {"train": manifest, "val": manifest}
    config = RunConfig.model_validate(
        {
            "device": "cpu",
            "data": {"num_workers": 0, "max_skipped": 0.9, **manifests, **data},
            "model": {"name": "vit_micro", "num_frames": 8, "image_size": 64},
            "training": {"batch_size": batch_size},
            "evaluation": {"num_segments": 2, "num_crops": 1},
        }
    )
    placement = PLACEMENT if by_graph else replace(PLACEMENT, decode="cpu")
    monkeypatch.setattr(loader_module, "choose_placement", lambda *_, **__: placement)
    return ClipLoader(config, stage, Share(batch_size))


def clips_of(loader):
    """{row: its pixels} of one epoch."""
    return {
        row: batch.video[place]
        for batch in loader
        for place, row in enumerate(batch.index.tolist())
    }


def assert_lost_nothing_but(bad_rows, loader, clips, expected):
    """Every row arrived, bad ones as somebody else's picture, the others as PyAV reads them."""
    assert set(clips) == set(range(8))
    assert {skipped.index for skipped in loader.skipped} == set(bad_rows)
    assert all("the decoder refuses it" in skipped.reason for skipped in loader.skipped)
    for row, clip in clips.items():
        assert torch.equal(clip, expected[row]) == (row not in bad_rows)
        assert clip.std() > 0.1, "a picture, not a blank"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What PyAV reads where no file is bad."""
    with pytest.MonkeyPatch.context() as patch:
        manifest = manifest_with(tmp_path_factory.mktemp("good"), (), ())
        return clips_of(loader_for(manifest, 8, patch, by_graph=False))


@pytest.mark.parametrize("where", SPOILED)
@pytest.mark.parametrize("bad_rows", [(3,), (0, 5, 7)], ids=str)
def test_a_refused_file_has_a_stand_in_and_the_others_are_unharmed(
    where, bad_rows, expected, tmp_path, monkeypatch
):
    manifest = manifest_with(tmp_path, bad_rows, SPOILED[where])
    with loader_for(manifest, 8, monkeypatch) as loader:
        clips = clips_of(loader)
    assert_lost_nothing_but(bad_rows, loader, clips, expected)


@pytest.mark.parametrize(("batch_size", "prefetch"), [(1, 3), (2, 2)])
def test_a_refused_file_is_found_in_whichever_batch_it_comes(
    batch_size, prefetch, expected, tmp_path, monkeypatch
):
    order = list(expected)
    for bad in (order[0], order[3], order[-1]):
        (tmp_path / f"{bad}").mkdir()
        manifest = manifest_with(tmp_path / f"{bad}", (bad,), SPOILED["inside"])
        with loader_for(manifest, batch_size, monkeypatch, prefetch_batches=prefetch) as loader:
            clips = clips_of(loader)
        assert_lost_nothing_but((bad,), loader, clips, expected)


def test_an_evaluation_goes_on_without_the_views_of_a_refused_file(tmp_path, monkeypatch):
    manifest = manifest_with(tmp_path, (7,), SPOILED["at the start"])
    found, replaced = [], []
    with loader_for(manifest, 5, monkeypatch, stage="evaluate") as loader:
        for batch in loader:
            found += zip(batch.index.tolist(), batch.view.tolist(), strict=True)
            replaced += [int(batch.index[place]) for place in loader.replaced]
    views = [(row, view) for row in range(8) for view in range(2)]
    assert found[: len(views)] == views
    assert [row for row in replaced if row >= 0] == [7, 7]


def test_worker_processes_hear_of_a_refused_file(expected, tmp_path, monkeypatch):
    manifest = manifest_with(tmp_path, (3,), SPOILED["inside"])
    with loader_for(manifest, 8, monkeypatch, num_workers=1) as loader:
        clips = clips_of(loader)
    assert_lost_nothing_but((3,), loader, clips, expected)


def test_a_refused_file_has_the_same_stand_in_every_time(tmp_path, monkeypatch):
    manifest = manifest_with(tmp_path, (3,), SPOILED["inside"])
    epochs = []
    for _ in range(2):
        with loader_for(manifest, 8, monkeypatch) as loader:
            epochs.append([clips_of(loader), clips_of(loader)])
        assert loader.num_skipped == 2 and len(loader.skipped) == 1
    for one, two in zip(*epochs, strict=True):
        assert all(torch.equal(one[row], two[row]) for row in range(8))


@pytest.mark.parametrize("batch_size", [1, 8])
def test_where_every_file_is_refused_the_run_ends_in_one_line(batch_size, tmp_path, monkeypatch):
    manifest = manifest_with(tmp_path, range(8), SPOILED["everywhere but the start"])
    with loader_for(manifest, batch_size, monkeypatch) as loader:
        with pytest.raises(UserError) as caught:
            clips_of(loader)
    assert "\n" not in str(caught.value)
