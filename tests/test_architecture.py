"""The rules of the house, kept by reading the code."""

import ast
import configparser
import re
from pathlib import Path

import pytest

from mgm_dali import __version__

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("mgm_dali", "pipelines", "models")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.is_symlink() for part in path.parents)
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))

LAYERS = {
    # part: parts it may import; "parts" are the packages and top-level modules of mgm_dali
    "errors": set(),
    "files": set(),
    "in_words": set(),
    "launcher": {"errors"},
    "config": {"errors", "files"},
    "torchvision_ops": set(),
    "uniforms": set(),
    "video": {"errors", "config", "files"},
    "motion": {"errors", "config", "files", "launcher", "torchvision_ops", "video"},
    "clips": {"errors", "config", "files", "video", "motion"},
    "masking": {"errors", "config", "clips", "uniforms"},
    "pipelines": {
        *("errors", "config", "files", "launcher", "uniforms", "video", "motion", "clips"),
    },
    "models": {"errors", "config", "files", "clips", "torchvision_ops"},
    "runs": {"errors", "config", "files"},
    "training": {
        *("errors", "config", "files", "video", "motion", "clips", "masking", "pipelines"),
        *("models", "torchvision_ops", "launcher", "runs", "in_words"),
    },
    "profiling": {
        *("errors", "config", "files", "in_words", "video", "motion", "clips", "masking"),
        *("pipelines", "models", "training"),
    },
}
TOP = {
    *("report", "demo", "demo_videos", "demo_scenes", "doctor", "cli", "data_commands"),
    *("saliency_command", "index_table", "weights_commands"),
    *("runs_command", "probe_command", "plain_table", "data_cli", "profile_cli"),
    "profile_command",
}
LIBRARIES = {
    # heavy library: the only files or folders that may import it
    "av": (
        "mgm_dali/video",
        "mgm_dali/motion",
        "mgm_dali/report/saving.py",
        "mgm_dali/demo",
        "mgm_dali/doctor",
    ),
    "tensorboard": ("mgm_dali/training/tensor_board.py",),
    "wandb": ("mgm_dali/training/wandb_board.py",),
    "deepspeed": ("mgm_dali/training/engine.py",),
    "nvidia": (
        *("pipelines/graph.py", "pipelines/stream.py", "pipelines/rand_augment.py"),
        *("pipelines/resize.py", "mgm_dali/doctor.py", "mgm_dali/motion/optical_flow.py"),
    ),
    "cv2": ("mgm_dali/motion/dis_flow.py",),
    "torchvision": (
        *("mgm_dali/torchvision_ops.py", "mgm_dali/motion/raft.py", "models/detector.py"),
    ),
    "lmdb": ("mgm_dali/motion/shard.py",),
    "timm": ("models", "mgm_dali/training"),
    "matplotlib": ("mgm_dali/report",),
    "typer": ("mgm_dali/cli.py", "mgm_dali/data_cli.py", "mgm_dali/profile_cli.py"),
    "psutil": ("mgm_dali/profiling",),
    "pickle": ("models/weight_files.py",),  # to name its errors; nothing is unpickled by it
}
TORCH_FREE = (
    *("mgm_dali/video", "mgm_dali/motion", "mgm_dali/clips", "mgm_dali/runs"),
    *("pipelines/feed.py", "pipelines/pool.py", "pipelines/share.py", "pipelines/slots.py"),
    *("mgm_dali/profiling/__init__.py", "mgm_dali/profiling/feeds.py"),
)
TORCH_WHEN_CALLED = ("mgm_dali/motion/raft.py",)  # imports it inside functions alone


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports_of(path, *, at_run_time_only=False, when_loaded_only=False):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = {
        inner
        for node in ast.walk(tree)
        if (at_run_time_only and getattr(getattr(node, "test", 0), "id", "") == "TYPE_CHECKING")
        or (when_loaded_only and isinstance(node, ast.FunctionDef))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def part_of(path):
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] != "mgm_dali" else parts[1].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down_the_layers_only(path):
    part = part_of(path)
    if part in TOP or part in ("__init__", "__main__"):
        return
    assert part in LAYERS, f"{name_of(path)}: give the new part a place in LAYERS"
    for module in imports_of(path):
        if module.startswith("mgm_dali."):
            target = module.split(".")[1]
            assert target == part or target in LAYERS[part], f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_heavy_library_has_its_own_place(path):
    for module in imports_of(path):
        allowed = LIBRARIES.get(module.split(".")[0])
        assert allowed is None or name_of(path).startswith(allowed), (
            f"{name_of(path)} imports {module}"
        )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_worker_processes_load_is_free_of_torch(path):
    if name_of(path).startswith(TORCH_FREE):
        when_called = name_of(path) in TORCH_WHEN_CALLED
        modules = imports_of(path, at_run_time_only=True, when_loaded_only=when_called)
        assert not any(module.split(".")[0] == "torch" for module in modules)


@pytest.mark.parametrize("path", FILES + TESTS, ids=name_of)
def test_files_and_functions_fit_a_reader(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350, "one concept a file"
    assert text.isascii(), "plain ASCII"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_says_what_it_is_and_what_it_offers(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module opens with a docstring"
    names = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    if path.name in ("__main__.py", "__init__.py") and not names:
        return
    assert names, "__all__ is missing"
    offered = ast.literal_eval(names[0])
    assert offered == sorted(offered, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in offered:
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_the_packages_in_setup_cfg_are_the_folders_on_disk():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    folders = {"mgm_dali", "mgm_dali.pipelines", "mgm_dali.models"}
    folders |= {
        f"mgm_dali.{path.parent.name}"
        for path in (ROOT / "mgm_dali").glob("*/__init__.py")
        if not path.parent.is_symlink()
    }
    assert listed == folders


def test_the_links_point_where_setup_cfg_says():
    for name in ("pipelines", "models"):
        link = ROOT / "mgm_dali" / name
        assert link.is_symlink() and link.readlink() == Path("..") / name


def test_the_map_in_architecture_md_says_of_every_file_what_the_file_says():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for path in FILES:
        if path.name not in ("__init__.py", "__main__.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            row = f"| `{path.name}` | {ast.get_docstring(tree).splitlines()[0]} |"
            assert row in text, f"ARCHITECTURE.md lacks: {row}"
    for name in re.findall(r"`([a-z_]+\.py)`", text):
        assert any(path.name == name for path in FILES + TESTS), f"{name} does not exist"


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[([^\]]+)\]", text, re.MULTILINE)[1] == __version__


def test_the_readme_names_every_command():
    from mgm_dali.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in app.registered_commands:
        assert f"mgm-dali {command.name or command.callback.__name__}" in readme
