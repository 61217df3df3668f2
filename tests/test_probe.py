"""Probes from beginning to end: what is chosen, by what, and what is written."""

import csv
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from feature_runs import probe_config, write_networks
from made_features import examples_of, fitting_for, planted, table_of
from training_runs import LAUNCHERS, SETTINGS, launched
from typer.testing import CliRunner

from mgm_dali.cli import app
from mgm_dali.config.probe import ProbeConfig
from mgm_dali.errors import UserError
from mgm_dali.models import build_classifier
from mgm_dali.models.saving import save_weights
from mgm_dali.training.probe import PROBES, probe
from mgm_dali.training.probe_choice import Probe, choose, classified
from mgm_dali.training.probe_knn import KnnSetting
from mgm_dali.training.probe_report import setting_in_words
from mgm_dali.training.verdict import judge
from mgm_dali.video.manifest import read_manifest

torch.set_num_threads(1)

CLASSES, WIDTH = 6, 16
QUICK = {
    "linear": {"epochs": 10, "warmup_epochs": 1, "sgd_rates": [0.1, 1.0], "lars_rates": [6.4]},
    "attentive": {"epochs": 10, "rates": [3e-3], "weight_decays": [0.01]},
    "knn": {"neighbours": [1, 5]},
}


def with_tokens(features):
    """Four tokens of each view, whose mean is its feature."""
    noise = np.random.default_rng(0).normal(size=(*features.shape[:2], 4, features.shape[2]))
    tokens = features[:, :, None] + noise - noise.mean(axis=2, keepdims=True)
    return table_of(features, tokens=tokens)


def chosen_and_judged(kind, train_labels, val_labels, fitting, seed=0):
    features, _ = planted(len(train_labels), CLASSES, WIDTH, seed=seed)
    train = examples_of(with_tokens(features), train_labels)
    val = with_tokens(planted(len(val_labels), CLASSES, WIDTH, seed=7)[0])
    choice = choose(PROBES[kind], train, fitting)
    classify = PROBES[kind].fit([choice.settings[choice.best]], train, fitting)
    probabilities = classified(classify, val, CLASSES, fitting.goes_on)
    return choice, judge(probabilities, val_labels, (), 0)


def test_every_kind_of_the_configuration_is_in_the_table():
    kinds = ProbeConfig.model_fields["kinds"].default
    assert set(kinds) == set(PROBES)


@pytest.mark.parametrize("kind", PROBES)
def test_a_planted_signal_is_found(kind):
    labels, val_labels = (planted(n, CLASSES, WIDTH, seed=s)[1] for n, s in ((300, 0), (100, 7)))
    _, verdict = chosen_and_judged(kind, labels, val_labels, fitting_for(CLASSES, **QUICK))
    assert verdict.top1 > 0.95 and verdict.num_unreadable == 0


@pytest.mark.parametrize("kind", PROBES)
def test_random_labels_are_judged_at_chance(kind):
    rng = np.random.default_rng(4)
    labels, val_labels = rng.integers(0, CLASSES, 300), rng.integers(0, CLASSES, 300)
    choice, verdict = chosen_and_judged(kind, labels, val_labels, fitting_for(CLASSES, **QUICK))
    assert abs(verdict.top1 - 1 / CLASSES) < 0.08  # 4 deviations
    assert all(abs(top1 - 1 / CLASSES) < 0.28 for top1 in choice.held_out_top1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("weights"))["autoencoder"]


@pytest.fixture(scope="module")
def probed(tmp_path_factory, moving_shapes, weights):
    config = probe_config(moving_shapes, tmp_path_factory.mktemp("probe") / "run", weights)
    return config, probe(config)


def test_a_probe_writes_what_it_found(probed, weights):
    config, results = probed
    report = json.loads((config.output_dir / "probe.json").read_text())
    assert report["weights"] == str(weights)
    assert report["train"]["videos"] == 24 and report["val"]["unreadable"] == []
    for entry, result in zip(report["probes"], results, strict=True):
        assert entry["kind"] == result.kind and entry["setting"] == result.setting
        assert entry["held_out_top1"] == max(e["held_out_top1"] for e in entry["grid"])
        assert entry["val"]["top1"] == result.verdict.top1 and entry["val"]["chance"] == 1 / 8
        assert entry["val"]["num_videos"] == 24 and entry["held_out_videos"] == 8
    text = (config.output_dir / "probe.csv").read_text()
    table = list(csv.DictReader(text.splitlines()))
    assert [row["kind"] for row in table] == ["linear"] * 2 + ["attentive"] + ["knn"] * 2
    assert sum(row["chosen"] == "1" for row in table) == 3
    assert {row["neighbours"] for row in table} == {"", "1", "3"}
    said = (config.output_dir / "train.log").read_text()
    for kind in PROBES:
        assert f"{kind:<10} on val top-1" in said


def test_the_chosen_setting_is_trained_again_on_all_training_videos(
    moving_shapes, weights, tmp_path, monkeypatch
):
    fitted = []
    truth = torch.eye(8, dtype=torch.float64)[read_manifest(moving_shapes).labels]
    wrong, right, worse = (KnnSetting(misses + 1, 1.0) for misses in (1, 0, 2))

    def fit(settings, train, fitting):
        fitted.append((settings, len(train), fitting.num_classes))
        return lambda _, rows: torch.stack(
            [truth[rows].roll(s.neighbours - 1, 1) for s in settings]
        )

    monkeypatch.setitem(PROBES, "knn", Probe(lambda _: [wrong, right, worse], fit))
    (result,) = probe(probe_config(moving_shapes, tmp_path / "run", weights, kinds=("knn",)))
    assert fitted == [([wrong, right, worse], 16, 8), ([right], 24, 8)]
    assert result.choice.held_out_top1 == [0, 1, 0] and result.verdict.top1 == 1


def test_what_one_probe_found_is_kept_when_the_next_fails(
    moving_shapes, weights, tmp_path, monkeypatch
):
    def fails(settings, train, fitting):
        raise UserError(f"{len(settings)} settings, {len(train)} videos, {fitting.num_classes}")

    monkeypatch.setitem(PROBES, "linear", Probe(lambda _: [1], fails))
    config = probe_config(moving_shapes, tmp_path / "run", weights, kinds=("knn", "linear"))
    with pytest.raises(UserError, match="1 settings, 16 videos, 8"):
        probe(config)
    report = json.loads((tmp_path / "run/probe.json").read_text())
    assert [entry["kind"] for entry in report["probes"]] == ["knn"]


def test_a_second_probe_takes_the_same_features_and_finds_the_same(probed):
    config, results = probed
    again = probe(config)
    assert again == results
    said = (config.output_dir / "train.log").read_text()
    assert said.count("all are there and are taken as they are") == 2


def test_labels_of_val_have_no_say_in_the_choice(probed, moving_shapes, tmp_path):
    config, before = probed
    shutil.copytree(moving_shapes.parent, tmp_path / "set")
    permuted = tmp_path / "set/videos.csv"
    head, *lines = permuted.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    labels = np.random.default_rng(0).permutation([row[1] for row in rows])
    for row, label in zip(rows, labels, strict=True):
        row[1] = str(label)
    permuted.write_text("\n".join([head, *map(",".join, rows)]) + "\n")
    data = config.data.model_copy(update={"val": permuted})
    after = probe(config.model_copy(update={"output_dir": tmp_path / "run", "data": data}))
    assert [result.choice for result in after] == [result.choice for result in before]
    for one, other in zip(before, after, strict=True):
        assert one.verdict.confusion != other.verdict.confusion  # only the verdict knows


def test_a_classifier_is_probed_before_its_head(moving_shapes, weights, tmp_path):
    config = probe_config(moving_shapes, tmp_path / "run", weights, kinds=("knn",))
    other = config.model.model_copy(update={"num_classes": 3, "init": None})
    (tmp_path / "head").mkdir()
    save_weights(build_classifier(other), other, tmp_path / "head/c.safetensors")
    model = config.model.model_copy(update={"init": tmp_path / "head/c.safetensors"})
    (result,) = probe(config.model_copy(update={"model": model}))
    assert len(result.verdict.class_names) == 8


def test_the_command_prints_a_table(probed):
    config, results = probed
    arguments = ["probe", str(config.output_dir / "config.yaml"), "probe.kinds=[knn]"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert f"knn    neighbours {results[2].setting['neighbours']}, temperature 0.07" in done.stdout
    head, row = done.stdout.splitlines()
    place, verdict = head.index("95% interval"), results[2].verdict
    interval = f"{verdict.top1_low:.1%} to {verdict.top1_high:.1%}"
    assert row[: place + len("95% interval")].endswith(f"  {interval}")
    assert interval != f"{verdict.wilson_low:.1%} to {verdict.wilson_high:.1%}"


def test_a_setting_reads_as_words():
    words = setting_in_words({"optimiser": "lars", "learning_rate": 6.4, "weight_decay": 0.0})
    assert words == "optimiser lars, learning rate 6.4, weight decay 0"


def test_videos_that_are_learned_and_judged_are_counted_aloud(probed, moving_shapes, tmp_path):
    config, _ = probed
    assert (
        "24 of 24 videos of val are in train too" in (config.output_dir / "train.log").read_text()
    )
    shutil.copytree(moving_shapes.parent, tmp_path / "set")
    data = config.data.model_copy(update={"val": tmp_path / "set/videos.csv"})
    kinds = config.probe.model_copy(update={"kinds": ("knn",)})
    update = {"data": data, "probe": kinds, "output_dir": tmp_path / "run"}
    probe(config.model_copy(update=update))
    assert "are in train too" not in (tmp_path / "run/train.log").read_text()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", PROBES)
def test_heads_on_a_gpu_find_what_heads_on_a_cpu_find(kind):
    features, labels = planted(300, CLASSES, WIDTH)
    train = examples_of(with_tokens(features), labels)
    fitting = fitting_for(CLASSES, **QUICK)
    settings = PROBES[kind].settings(fitting.config)
    found = [
        PROBES[kind].fit(settings, train, replace(fitting, device=torch.device(device)))(
            train.table, train.rows
        )
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(found[0], found[1].cpu(), atol=0.02, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_find_what_one_finds(moving_shapes, weights, tmp_path, launcher):
    (tmp_path / "empty.yaml").write_text("")
    keys = [f"data.train={moving_shapes}", f"data.val={moving_shapes}", f"model.init={weights}"]
    keys += ["probe.linear.epochs=5", "probe.attentive.epochs=1", "probe.attentive.rates=[1.0e-3]"]
    module = {"torchrun": ["-m", "mgm_dali"], "deepspeed": ["--module", "mgm_dali"]}[launcher]
    reports = []
    for name, start in (("one", ["-m", "mgm_dali"]), ("two", [*LAUNCHERS[launcher], *module])):
        run = [*start, "probe", tmp_path / "empty.yaml", *SETTINGS, *keys]
        status, output = launched([*run, f"output_dir={tmp_path / name}"])
        assert status == 0, output
        assert output.count("written    ") == 1
        reports.append(json.loads((tmp_path / name / "probe.json").read_text()))
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_only_the_first_machine_needs_weights_and_keeps_features(moving_shapes, weights, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "init-0").mkdir()
    for path in weights.parent.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path / "init-0")
    keys = [*SETTINGS, f"data.train={moving_shapes}", f"data.val={moving_shapes}"]
    keys += [f"model.init={tmp_path}/init-$RANK/weights.safetensors", "probe.kinds=[knn]"]
    quoted = " ".join(f'"{key}"' for key in [*keys, f"output_dir={tmp_path}/run-$RANK"])
    line = f'exec "$0" -m mgm_dali probe {tmp_path}/empty.yaml {quoted}'
    status, output = launched(
        [*LAUNCHERS["torchrun"], "--no-python", "sh", "-c", line, sys.executable]
    )
    assert status == 0, output
    assert (tmp_path / "run-0/probe.json").exists()
    assert not (tmp_path / "run-1/features").exists()
