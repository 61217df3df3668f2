"""Features: what the encoder says of each view, whichever rank computes it."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from feature_runs import ALONE, config_with, made, write_networks

from mgm_dali.errors import UserError
from mgm_dali.models.patches import patchify
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.training import features
from mgm_dali.training.features import splits_of
from mgm_dali.training.frozen import FrozenEncoder, open_encoder, pool_tokens
from mgm_dali.training.log import RunLog
from mgm_dali.training.world import World

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("kind", ["autoencoder", "classifier"])
@pytest.mark.usefixtures("small_shards")
def test_features_are_what_the_encoder_says_of_the_same_views(
    eight_videos, weights, tmp_path, kind
):
    config = config_with(
        eight_videos, tmp_path / "run", weights[kind], kinds=("linear", "attentive")
    )
    (_, val), _ = made(config)
    network = open_encoder(config, ALONE).network
    with ClipLoader(config, "evaluate", Share(5), needs_motion=False) as loader:
        for batch in loader:
            there = batch.index >= 0
            with torch.no_grad():
                if kind == "classifier":
                    mean = network.features(batch.video)
                    tokens = network.encode_tokens(patchify(batch.video))
                else:
                    tokens = network.encode(batch.video)
                    mean = tokens.mean(1)
            rows, views = batch.index[there].numpy(), batch.view[there].numpy()[:, None]
            assert torch.equal(val.take("mean", rows, views)[:, 0], mean[there])
            found = val.take("tokens", rows, views)[:, 0]
            expected = tokens[there].view(-1, 4, 2, 2, 2, 2, 128).mean((3, 5)).flatten(1, 3)
            torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=2e-3)
    assert val.is_read.all() and len(val) == 8


@pytest.mark.parametrize("per_side", [1, 2, 3, 4])
def test_tokens_are_pooled_over_parts_of_each_slice(per_side):
    tokens = torch.randn(2, 3 * 4 * 4, 5)
    found = pool_tokens(tokens, (3, 4, 4), per_side)
    placed = tokens.view(2, 3, 4, 4, 5)
    for clip, t, i, j in itertools.product(range(2), range(3), range(per_side), range(per_side)):
        rows = slice(i * 4 // per_side, -(-(i + 1) * 4 // per_side))
        columns = slice(j * 4 // per_side, -(-(j + 1) * 4 // per_side))
        expected = placed[clip, t, rows, columns].flatten(0, 1).mean(0)
        at = (t * per_side + i) * per_side + j
        torch.testing.assert_close(found[clip, at], expected)
    if per_side == 4:
        assert torch.equal(found, tokens)


class Recorded(World):
    """One of several ranks: what it would add to each sum is kept, in the order of the sums."""

    def sum(self, value):
        sums.append(value.clone())
        return value

    def only_first(self, find, otherwise):
        del find
        return otherwise

    def text_of_first(self, text):
        return text


sums = []


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.usefixtures("small_shards")
def test_the_shares_of_all_ranks_are_the_whole_and_nothing_is_there_twice(
    eight_videos, weights, tmp_path, size
):
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    (train, _), _ = made(config)
    encoder = open_encoder(config, ALONE)
    split = splits_of(config)[0]
    spec = train.spec
    totals = None
    for rank in range(size):
        sums.clear()
        world = Recorded(rank, size, torch.device("cpu"))
        every = list(range(spec.num_shards))
        maker = features.FeatureMaker(split, encoder, spec, tmp_path, world, every, [])
        with RunLog(tmp_path / "log", rank, 1) as log:
            maker.make(log, 0, lambda _: None)
        totals = (
            list(sums) if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
        )
    means, states = totals[0::2], totals[1::2]
    assert set(torch.cat(states).tolist()) == {2}
    whole = train.take("mean", np.arange(8)).flatten(0, 1)
    assert torch.equal(torch.cat(means), whole)


def test_an_unreadable_video_is_known_and_nothing_stands_in_for_it(eight_videos, weights, tmp_path):
    shutil.copytree(eight_videos.parent, tmp_path / "set")
    manifest = tmp_path / "set/eight.csv"
    bad = manifest.read_text().splitlines()[6].split(",")[0]
    (manifest.parent / bad).write_bytes(b"no video")
    config = config_with(manifest, tmp_path / "run", weights["autoencoder"])
    (train, _), _ = made(config)
    assert train.readable_rows.tolist() == [row for row in range(8) if row != 5]
    assert not train.take("mean", np.array([5])).any()
    (again, _), said = made(config)
    assert "all are there" in said, "what is kept knows the reason"
    for table in (train, again):
        assert list(table.reasons) == [5] and table.reasons[5]
    assert not (tmp_path / "run/skipped.csv").exists()


def test_features_that_are_no_numbers_are_refused(eight_videos, weights, tmp_path, monkeypatch):
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    encode = FrozenEncoder.__call__

    def spoiled(self, video, num_tokens=0):
        mean, tokens = encode(self, video, num_tokens)
        return mean * float("nan"), tokens

    monkeypatch.setattr(FrozenEncoder, "__call__", spoiled)
    with pytest.raises(
        UserError, match=r"weights\.safetensors: gives mean features of train videos"
    ):
        made(config)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_more_tokens_than_a_slice_has_are_refused(eight_videos, weights, tmp_path):
    values = {"kinds": ["attentive"], "attentive": {"tokens_per_side": 5}}
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"], probe=values)
    with pytest.raises(UserError, match=r"tokens_per_side: 5, but .* 4 x 4 tokens"):
        made(config)


def test_the_decoder_of_the_weights_need_not_be_the_configs(eight_videos, weights, tmp_path):
    config = config_with(eight_videos, tmp_path / "run", weights["autoencoder"])
    deeper = config.model.model_copy(update={"decoder_depth": 3})
    encoder = open_encoder(config.model_copy(update={"model": deeper}), ALONE)
    assert encoder.identity() == open_encoder(config, ALONE).identity()
    assert not encoder.report.missing
