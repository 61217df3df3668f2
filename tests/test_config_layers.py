"""Configurations based on one another: who wins, whose fault it is, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from mgm_dali.config import dump_config, load_config
from mgm_dali.config.layers import MOST_FILES_DEEP, Layer, merge_layers, read_layers
from mgm_dali.errors import UserError


def write(folder: Path, **files: str) -> Path:
    """Files by their stems; the path of the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, text in files.items():
        path = folder / f"{stem}.yaml"
        path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    (line,) = str(caught.value).splitlines()
    return line


def test_sections_are_merged_and_everything_else_is_replaced(tmp_path: Path) -> None:
    base = "mask:\n  ratio: 0.9\n  jitter: false\ntraining:\n  betas: [0.1, 0.2]\n"
    path = write(tmp_path, a=base, b="base: a.yaml\nmask:\n  ratio: 0.5\ntraining: {betas: [0, 1]}")
    config = load_config(path)
    assert (config.mask.ratio, config.mask.jitter) == (0.5, False)
    assert config.training.betas == (0, 1)


def test_of_several_bases_the_later_wins_and_the_file_and_its_overrides_win_over_all(
    tmp_path: Path,
) -> None:
    a, b = "seed: 1\nmask:\n  ratio: 0.1\n", "seed: 2\nmask:\n  jitter: false\n"
    path = write(tmp_path, a=a, b=b, c="base: [a.yaml, b.yaml]\n")
    config = load_config(path)
    assert (config.seed, config.mask.ratio, config.mask.jitter) == (2, 0.1, False)
    path = write(tmp_path, c="base: [b.yaml, a.yaml]\n")
    assert load_config(path).seed == 1
    path = write(tmp_path, c="seed: 3\nbase: [b.yaml, a.yaml]\n")
    assert load_config(path).seed == 3
    assert load_config(path, ["seed=4"]).seed == 4


def test_a_base_of_two_bases_counts_once_where_it_came_first(tmp_path: Path) -> None:
    root = "seed: 1\nmask:\n  ratio: 0.1\n"
    path = write(
        tmp_path,
        root=root,
        a="base: root.yaml\nmask:\n  ratio: 0.2\n",
        b="base: root.yaml\nseed: 2\n",
        c="base: [a.yaml, b.yaml]\n",
    )
    config = load_config(path)
    assert (config.seed, config.mask.ratio) == (2, 0.2)
    names = [Path(layer.name).stem for layer in read_layers(path)]
    assert names == ["root", "a", "b", "c"]


def random_tree(rng: np.random.Generator, depth: int = 0) -> dict[str, object]:
    """A section of a few keys; deeper ones become rarer."""
    keys = rng.choice(list("abcd"), size=rng.integers(1, 4), replace=False)
    is_section = rng.random(len(keys)) < 0.6 - 0.15 * depth
    return {
        str(key): random_tree(rng, depth + 1) if deeper else int(rng.integers(100))
        for key, deeper in zip(keys, is_section, strict=True)
    }


def leaves(tree: dict[str, object], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    found: dict[tuple[str, ...], object] = {}
    for key, value in tree.items():
        place = (*above, key)
        found |= leaves(value, place) if isinstance(value, dict) else {place: value}
    return found


def test_merging_equals_writing_one_leaf_after_the_other() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        trees = [random_tree(rng) for _ in range(rng.integers(1, 5))]
        before = yaml.safe_dump(trees)
        expected: dict[tuple[str, ...], object] = {}
        for tree in trees:
            for place, value in leaves(tree).items():
                for other in list(expected):
                    shorter = min(len(other), len(place))
                    if other[:shorter] == place[:shorter]:  # a value where a section was, or back
                        del expected[other]
                expected[place] = value
        assert leaves(merge_layers(Layer("", tree) for tree in trees)) == expected
        assert yaml.safe_dump(trees) == before, "a layer was changed"


def test_paths_count_from_the_folder_of_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one", root="seed: 1\n", a="base: root.yaml\n")
    write(tmp_path / "two", b="base: ../one/a.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("two/b.yaml").seed == 1
    monkeypatch.chdir(tmp_path / "one")
    assert load_config("../two/b.yaml").seed == 1


def test_what_a_run_keeps_has_no_base(tmp_path: Path) -> None:
    path = write(tmp_path, a="seed: 5\n", b="base: a.yaml\nmask:\n  ratio: 0.5\n")
    config = load_config(path)
    alone = write(tmp_path / "run", config=dump_config(config))
    assert "base:" not in dump_config(config) and load_config(alone) == config


@pytest.mark.parametrize(
    ("a", "b", "culprit"),
    [
        ("mask:\n  raito: 0.9\n", "mask:\n  ratio: 0.5\n", "a"),
        ("mask:\n  ratio: 0.9\n", "mask:\n  raito: 0.5\n", "b"),
        ("mask:\n  ratio: 9\n", "mask:\n  jitter: false\n", "a"),
        ("mask:\n  ratio: 0.9\n", "mask:\n  ratio: 9\n", "b"),
        ("mask: 3\n", "seed: 1\n", "a"),
        ("training:\n  betas: [0.9, x]\n", "training:\n  epochs: 3\n", "a"),
        ("clip:\n  sampling: segments\n", "clip:\n  target_fps: 12\n", "b"),
    ],
)
def test_an_error_names_the_file_it_stands_in(tmp_path: Path, a: str, b: str, culprit: str) -> None:
    path = write(tmp_path, a=a, b="base: a.yaml\n" + b)
    assert refusal(path).startswith(f"{tmp_path / culprit}.yaml: ")


def test_an_error_of_an_override_names_the_override(tmp_path: Path) -> None:
    path = write(tmp_path, a="mask:\n  ratio: 0.9\n")
    assert refusal(path, "seed=1", "mask.raito=0.5").startswith("override 'mask.raito=0.5': ")
    assert refusal(path, "mask.ratio=9").startswith("override 'mask.ratio=9': mask.ratio: ")
    assert "training.epochs" in refusal(path, "training.epochs.more=9")
    assert "base: stands in a YAML file" in refusal(path, "base=a.yaml")


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({"a": "base: a.yaml\n"}, "a.yaml is this file, or based on it"),
        ({"a": "base: c.yaml\n", "b": "base: a.yaml\n", "c": "base: b.yaml\n"}, "b.yaml -> "),
        ({"a": "base: no.yaml\n"}, "no.yaml does not exist; paths count from the folder of"),
        ({"a": f"base: {'x' * 300}.yaml\n"}, "cannot be read (File name too long)"),
        ({"a": 'base: "a\\0b"\n'}, "does not exist"),
        ({"a": "base: .\n"}, "is no file"),
        ({"a": "base: /dev/zero\n"}, "/dev/zero is no file"),
        ({"a": "base: pipe\n"}, "pipe is no file"),
        ({"a": "base: link.yaml\n"}, "link.yaml is this file, or based on it"),
        ({"a": "base:\n"}, "expected the path of a YAML file, or a list of them, found None"),
        ({"a": "base: {a: b}\n"}, "found {'a': 'b'}"),
        ({"a": "base: [b.yaml, 3]\n"}, "found ['b.yaml', 3]"),
        ({"b": "- 1\n", "a": "base: b.yaml\n"}, "b.yaml: expected a mapping of keys"),
        ({"b": "x: [1\n", "a": "base: b.yaml\n"}, "b.yaml: is not valid YAML"),
        ({"a": "mask:\n  ratio: 0.9\n  ratio: 0.75\n"}, "ratio stands there twice"),
        ({"a": "? [1, 2]\n: x\n"}, "a.yaml: "),
        ({"a": "output_dir: 2024-13-45\n"}, "a.yaml: is not valid YAML: month must be in"),
        ({"b": "x: !!python/name:os.getcwd\n", "a": "base: b.yaml\n"}, "b.yaml: is not valid"),
        ({"b": "x: " + "[" * 5000, "a": "base: b.yaml\n"}, "nested too deeply"),
        ({"b": "mask: &m {x: *m}\n", "a": "base: b.yaml\nmask: &n {x: *n}\n"}, "without an end"),
    ],
)
def test_what_can_be_no_base_is_refused_in_one_line(
    tmp_path: Path, files: dict[str, str], part: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "a.yaml")
    line = refusal(write(tmp_path, **files))
    assert part in line and str(tmp_path) in line


def test_long_rows_of_bases_are_refused(tmp_path: Path) -> None:
    files = {f"f{n}": f"base: f{n - 1}.yaml\n" for n in range(1, 2000)}
    write(tmp_path, f0="seed: 7\n", **files)
    assert load_config(tmp_path / f"f{MOST_FILES_DEEP - 1}.yaml").seed == 7
    for n in (MOST_FILES_DEEP, 1999):
        assert f"more than {MOST_FILES_DEEP} files in a row" in refusal(tmp_path / f"f{n}.yaml")
