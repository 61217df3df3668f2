"""What all tests share: quiet threads, the marks' rules."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A GPU test is skipped without a GPU, unless MGM_REQUIRE_GPU forbids the skip."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("MGM_REQUIRE_GPU"):
            pytest.fail("MGM_REQUIRE_GPU is set, but PyTorch sees no GPU")
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(scope="session")
def moving_shapes(tmp_path_factory):
    """Twenty-four small H.264 files of eight classes, and their manifest."""
    from mgm_dali.demo_videos import DEMO_CLASSES, make_demo_videos
    from mgm_dali.video.manifest import Video, write_manifest
    from mgm_dali.video.reader import probe

    root = tmp_path_factory.mktemp("shapes")
    make_demo_videos(root, 24, seed=1, num_workers=0)
    videos = [
        Video(path=path, label=label, **vars(probe(path)))
        for label, name in enumerate(DEMO_CLASSES)
        for path in sorted((root / name).glob("h264_*.mp4"))
    ]
    write_manifest(root / "videos.csv", videos, list(DEMO_CLASSES))
    return root / "videos.csv"


@pytest.fixture(scope="session")
def eight_videos(moving_shapes):
    """A manifest of one of these for each class."""
    from feature_runs import one_of_each_class

    return one_of_each_class(moving_shapes)


@pytest.fixture
def small_shards(monkeypatch):
    """At most five views a shard, so two videos of two views each; a batch has five views."""
    from mgm_dali.training import feature_store

    monkeypatch.setattr(feature_store, "VIEWS_PER_SHARD", 5)
