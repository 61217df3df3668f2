"""Pretraining with the options of masks: what is predicted, and how masks are computed."""

import pytest
import training_runs
from torch._inductor.exc import InductorError
from training_runs import losses_of
from videos import Clip

from mgm_dali.config import MaskConfig, RunConfig
from mgm_dali.errors import UserError
from mgm_dali.training import pretrain as pretrain_module
from mgm_dali.training.metrics import read_metrics
from mgm_dali.training.pretrain import pretrain
from mgm_dali.video.manifest import Video, write_manifest
from mgm_dali.video.reader import probe


def config_for(manifest, output, **mask):
    """Two steps on the small videos: 4 slices of 16 tokens, 12 of them hidden."""
    config = training_runs.config_for(manifest, output, max_steps=2, base_lr=1.5e-4)
    return config.model_copy(update={"mask": MaskConfig(**mask)})


@pytest.fixture(scope="module")
def plain_losses(moving_shapes, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "run"
    pretrain(config_for(moving_shapes, output))
    return losses_of(output)


def test_predicting_half_of_what_is_hidden_trains_and_says_so(
    moving_shapes, plain_losses, tmp_path
):
    pretrain(config_for(moving_shapes, tmp_path / "run", decoded_share=0.5))
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    assert "48 of 64 tokens hidden, 24 of them predicted" in log
    losses = losses_of(tmp_path / "run")
    assert losses[0] != plain_losses[0] and losses[0] == pytest.approx(plain_losses[0], rel=0.1)


@pytest.mark.slow
def test_compiled_masks_change_no_loss(moving_shapes, plain_losses, tmp_path):
    pretrain(config_for(moving_shapes, tmp_path / "run", compile=True))
    assert losses_of(tmp_path / "run") == plain_losses


def test_where_nothing_can_be_compiled_the_run_does_not_begin(moving_shapes, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InductorError(RuntimeError("no compiler"), None).with_traceback(None)

    monkeypatch.setattr(pretrain_module.torch, "compile", lambda *_, **__: refuse)
    with pytest.raises(UserError, match=r"mask\.compile: .*no compiler.*mask\.compile=false"):
        pretrain(config_for(moving_shapes, tmp_path / "run", compile=True))
    assert not (tmp_path / "run").exists()


def test_a_number_of_cells_that_nothing_looks_at_is_refused():
    with pytest.raises(ValueError, match="top_k: is for center: top_k and center: vote"):
        RunConfig.model_validate({"mask": {"top_k": 5}})
    assert RunConfig.model_validate({"mask": {"top_k": 5, "center": "vote"}}).mask.top_k == 5


@pytest.mark.parametrize("strategy", ["motion_guided", "tube"])
def test_clips_without_motion_are_counted_where_masks_follow_it(strategy, tmp_path):
    clips = Clip(num_frames=20), Clip("libvpx-vp9", "webm", num_frames=20)
    rows = [Video(path=clip.path(), label=0, **vars(probe(clip.path()))) for clip in clips]
    write_manifest(tmp_path / "videos.csv", rows, ["any"])
    config = config_for(tmp_path / "videos.csv", tmp_path / "run", strategy=strategy)
    motion = config.motion.model_copy(update={"without_vectors": "ignore"})
    pretrain(config.model_copy(update={"motion": motion}))
    shares = [m.get("no_motion_share") for m in read_metrics(tmp_path / "run/metrics.jsonl")]
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    if strategy == "tube":
        assert shares == [None, None] and "without motion" not in log
    else:
        assert shares == [0.5, 0.5] and "skipped 0  without motion 50%" in log
