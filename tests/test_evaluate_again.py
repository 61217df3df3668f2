"""Judging into a folder that holds a judgement: what is replaced is said, and never for nothing."""

import json
import shutil

import pytest
import torch
from feature_runs import write_networks
from safetensors.torch import load_file
from thread_ranks import on_ranks
from training_runs import config_for
from typer.testing import CliRunner

from mgm_dali.cli import app
from mgm_dali.config import dump_config
from mgm_dali.errors import UserError
from mgm_dali.models import LoadReport, build_classifier
from mgm_dali.training.classes import with_num_classes
from mgm_dali.training.evaluate import evaluate
from mgm_dali.training.evaluation_lines import nothing_judged, replaced_judgement
from mgm_dali.training.judging import Watcher
from mgm_dali.training.multi_view import evaluate_network, judge_weights
from mgm_dali.training.world import World

torch.set_num_threads(1)

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("weights"))["classifier"]


@pytest.fixture
def run(eight_videos, weights, tmp_path):
    """The folder of a finetuned run, judged on eight videos; its config."""
    config = config_for(eight_videos, tmp_path / "run")
    (tmp_path / "run/weights").mkdir(parents=True)
    for path in weights.parent.iterdir():
        name = "step-1.safetensors" if path == weights else path.name
        shutil.copy(path, tmp_path / "run/weights" / name)
    (tmp_path / "run/config.yaml").write_text(dump_config(config))
    evaluate(config)
    return config


def log_of(config):
    return (config.output_dir / "train.log").read_text()


def with_values(config, section, **values):
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def test_the_same_judgement_again_replaces_nothing(run):
    before = (run.output_dir / "evaluation.json").read_text()
    evaluate(run)
    assert (run.output_dir / "evaluation.json").read_text() == before
    assert "replaces" not in log_of(run)


def test_another_judgement_says_which_one_it_replaces(run, moving_shapes, tmp_path):
    class_map = tmp_path / "map.csv"
    class_map.write_text("trained,judged\nright,right\nleft,left\n")
    others = [
        with_values(run, "evaluation", merge="logits"),
        with_values(run, "evaluation", num_segments=1),
        with_values(run, "evaluation", class_map=class_map),
        with_values(run, "data", val=moving_shapes),
    ]
    for times, other in enumerate(others, start=1):
        evaluate(other)
        assert log_of(run).count("replaces   the judgement of") == 2 * times - 1
        evaluate(run)
        assert log_of(run).count("replaces   the judgement of") == 2 * times
    said = [line for line in log_of(run).splitlines() if "replaces" in line]
    how = "class map none, views per video 2, merge probabilities"
    assert f"the judgement of {run.data.val} ({how}) in {run.output_dir}; to keep" in said[0]
    assert "merge logits" in said[1] and "views per video 1" in said[3]
    assert f"class map {class_map}" in said[5] and f"of {moving_shapes} " in said[7]


def test_both_are_kept_by_the_command_that_the_log_names(run, tmp_path):
    evaluate(with_values(run, "evaluation", merge="logits"))
    evaluate(run)
    before = {path.name: path.read_bytes() for path in run.output_dir.glob("[ep]*.*")}
    assert {"evaluation.json", "predictions.csv", "per_class.csv"} <= before.keys()
    form = f"output_dir=NEW model.init={run.output_dir}"
    assert form in log_of(run)
    keys = [*form.replace("NEW", str(tmp_path / "new")).split(), "evaluation.merge=logits"]
    arguments = ["evaluate", str(run.output_dir / "config.yaml"), *keys]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "new/evaluation.json").read_text())
    assert found["merge"] == "logits" and found["weights"].startswith(str(run.output_dir))
    assert {path.name: path.read_bytes() for path in run.output_dir.glob("[ep]*.*")} == before


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\xff\x00", '"data"'])
def test_what_is_no_judgement_is_none_that_is_replaced(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text, encoding="latin-1")
    assert replaced_judgement(tmp_path, {"data": "val.csv"}) is None


def test_names_that_are_commands_to_a_terminal_are_told_harmlessly(tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps({"data": "\x1b[2Jold\n.csv"}))
    said = replaced_judgement(tmp_path, {"data": "val.csv", "people": "p.csv"})
    assert "of \\x1b[2Jold\\n.csv (people none)" in said
    said = nothing_judged(None, "videos", [{"path": "\x1b[2J\n", "reason": "is empty"}])
    assert said.isprintable() and "none of its 1 videos" in said


def copied(manifest, folder, damage):
    """A copy of the set; `damage(folder, rows)` may spoil its files and its rows."""
    shutil.copytree(manifest.parent, folder)
    path = folder / manifest.name
    head, *lines = path.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    damage(folder, rows)
    path.write_text("\n".join([head, *map(",".join, rows)]) + "\n")
    return path


def empty_all(folder, rows):
    for row in rows:
        (folder / row[0]).write_bytes(b"")


@pytest.fixture
def unreadable(run, tmp_path):
    """The run's config, of a copy of its set of which nothing can be read."""
    return with_values(run, "data", val=copied(run.data.val, tmp_path / "empty", empty_all))


def test_a_set_of_which_nothing_can_be_read_replaces_no_result(run, unreadable):
    before = {path.name: path.read_bytes() for path in run.output_dir.glob("[ep]*.*")}
    told = rf"{unreadable.data.val}: none of its 8 videos .*; the first is .*\.mp4: .*No result was"
    with pytest.raises(UserError, match=told) as caught:
        evaluate(unreadable)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in run.output_dir.glob("[ep]*.*")} == before


def test_all_ranks_stop_where_nothing_can_be_read(unreadable):
    config = with_num_classes(unreadable)
    source = LoadReport(config.output_dir, [], [])

    def work(world):
        try:
            evaluate_network(config, build_classifier(config.model), world, source, lambda: None)
        except UserError as error:
            return str(error)

    found = on_ranks(2, work)
    assert found[0] == found[1] and "none of its 8 videos could be judged" in found[0]


def test_while_training_it_is_said_and_counts_as_wrong(unreadable, weights):
    config, said = with_num_classes(unreadable), []
    watcher = Watcher(said.append, lambda: None)
    assert judge_weights(config, ALONE, load_file(weights), watcher)["val/top1"] == 0
    assert "none of its 8 videos could be judged; the first is" in said[0]
    assert "8 videos, 8 of them unreadable" in said[1]


def test_what_could_not_be_read_is_told_of_this_judgement_alone(run, tmp_path):
    """Of one video nothing can be read, of another its first half alone."""

    def spoil(folder, rows):
        (folder / rows[2][0]).write_bytes(b"no video")
        path = folder / rows[4][0]
        data = path.read_bytes()
        start, end = data.index(b"mdat"), data.index(b"moov")
        middle = (start + end) // 2
        path.write_bytes(data[:middle] + b"\xff" * (end - 4 - middle) + data[end - 4 :])

    bad = with_values(run, "data", val=copied(run.data.val, tmp_path / "bad", spoil))
    found = evaluate(bad)
    (unread,), (partly,) = found.unreadable, found.incomplete
    names = [line.split(",")[0] for line in bad.data.val.read_text().splitlines()[1:]]
    assert unread["path"].endswith(names[2]) and unread["reason"]
    assert partly["path"].endswith(names[4]) and "decoded" in partly["reason"]
    assert (found.num_unreadable, found.num_incomplete) == (1, 1)
    assert evaluate(run).unreadable == evaluate(run).incomplete == []
    assert not (run.output_dir / "skipped.csv").exists(), "that is training's"
