"""Configuration: strict, and helpful when it is wrong."""

from pathlib import Path

import pytest

from mgm_dali.config import RunConfig, dump_config, load_config
from mgm_dali.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(tmp_path, text, overrides=()):
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, text), overrides)
    return str(caught.value)


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load_config(write(tmp_path, "")) == RunConfig()


def test_an_override_reaches_the_nested_key(tmp_path):
    config = load_config(write(tmp_path, "mask:\n  ratio: 0.5\n"), ["mask.ratio=0.9", "seed=3"])
    assert (config.mask.ratio, config.seed) == (0.9, 3)


def test_a_path_with_yaml_characters_is_still_a_path(tmp_path):
    config = load_config(write(tmp_path, ""), ["data.train=a: [b/videos.csv"])
    assert config.data.train == Path("a: [b/videos.csv")


def test_a_misspelt_key_names_the_nearest_known_one(tmp_path):
    message = error_of(tmp_path, "mask:\n  raito: 0.9\n")
    assert "mask.raito" in message and "did you mean 'ratio'" in message


def test_an_unknown_override_is_refused_like_a_key(tmp_path):
    assert "did you mean 'training'" in error_of(tmp_path, "", ["trainig.epochs=3"])


def test_a_number_that_yaml_reads_as_text_is_explained(tmp_path):
    message = error_of(tmp_path, "training:\n  max_steps: 1e3\n")
    assert "training.max_steps" in message and "write 1.0e+03 with a dot" in message
    assert (
        load_config(write(tmp_path, "training:\n  max_steps: 1.0e+3\n")).training.max_steps == 1000
    )
    assert "with a dot" not in error_of(tmp_path, "training:\n  max_steps: nan\n")


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("output_dir", "2024", "int"),
        ("data.train", "1.10", "float"),
        ("output_dir", "on", "bool"),
        ("output_dir", "2024-01-02", "date"),
        ("training.wandb_project", "7", "int"),
    ],
)
def test_a_number_where_text_stands_is_told_to_be_quoted(tmp_path, key, value, kind):
    message = error_of(tmp_path, "", [f"{key}={value}"])
    assert f"YAML reads it as {kind}, not as text; quote it: '{key}=\"...\"'" in message
    load_config(write(tmp_path, ""), [f'{key}="{value}"'])


def test_what_is_no_text_at_all_is_not_told_to_be_quoted(tmp_path):
    for value in ("", "[a, b]"):
        assert "quote" not in error_of(tmp_path, "", [f"output_dir={value}"])


def test_a_value_of_any_size_makes_a_short_message(tmp_path):
    alias = "a0: &a0 [1]"
    for depth in range(1, 7):
        alias += f", a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 9)}]"
    for text in (
        f"deepspeed: {{{alias}}}\nseed: *a6\n",
        f"mask:\n  ratio: 0x{'f' * 5000}\n",
        f"seed: {'x' * 100_000}\n",
        f"seed: {'1' * 4000}.5\n",
        f"seed: '{'1' * 100_000}x'\n",
    ):
        message = error_of(tmp_path, text)
        assert len(message.splitlines()) == 1 and len(message) < 1500


def test_every_problem_gets_its_own_line(tmp_path):
    message = error_of(tmp_path, "seed: -1\nmask:\n  ratio: 1.5\n")
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model:\n  num_frames: 15\n", "multiple of 2"),
        ("model:\n  image_size: 100\n", "multiple of 16"),
        ("mask:\n  strategy: tubes\n", "'tube'"),
        ("augment:\n  mixup: 0.8\ntraining:\n  batch_size: 3\n", "mix clips in pairs"),
        ("- a\n- b\n", "mapping"),
        ("a: [b\n", "not valid YAML"),
    ],
)
def test_a_wrong_value_says_what_is_expected(tmp_path, text, part):
    assert part in error_of(tmp_path, text)


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"no\.yaml: no such config file"):
        load_config(tmp_path / "no.yaml")


def test_an_override_needs_an_equals_sign(tmp_path):
    assert "key=value" in error_of(tmp_path, "", ["mask.ratio"])


def test_yaml_cannot_construct_objects(tmp_path):
    assert "not valid YAML" in error_of(tmp_path, "seed: !!python/object/apply:os.getcwd []\n")


def test_a_dumped_config_reads_back_equal(tmp_path):
    config = load_config(write(tmp_path, ""), ["data.train=a/b.csv", "training.betas=[0.9, 0.999]"])
    assert load_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_what_it_is_and_costs(path):
    load_config(path)
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    for word in ("Run:", "Hardware:", "Cost:", "Expected:", "Status:"):
        assert word in head, f"{path}: its head lacks {word!r}"


def test_there_are_configs():
    assert {path.parent.name for path in CONFIGS} >= {"smoke", "pretrain", "finetune"}


def test_what_the_models_name_decides_is_filled_in_and_kept(tmp_path):
    path = tmp_path / "c.yaml"
    for name, depth, attention in (
        ("vit_base", 4, "joint"),
        ("vit_large", 12, "joint"),
        ("vit_huge", 12, "joint"),
        ("timesformer_base", 4, "divided"),
    ):
        path.write_text(f"model: {{name: {name}}}\n")
        config = load_config(path)
        assert (config.model.decoder_depth, config.model.attention) == (depth, attention)
        assert f"decoder_depth: {depth}" in dump_config(config)
    config = load_config(path, ["model.attention=joint", "model.decoder_depth=2"])
    assert (config.model.decoder_depth, config.model.attention) == (2, "joint")
    with pytest.raises(UserError, match="vit_base attends jointly; divided is timesformer_base"):
        load_config(path, ["model.name=vit_base", "model.attention=divided"])
