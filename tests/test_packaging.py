"""What `pip install .` would put on a machine."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", folder, ROOT], check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mgm_dali"}


def test_the_wheel_holds_every_module(wheel):
    inside = set(wheel.namelist())
    for folder, prefix in (("mgm_dali", ""), ("pipelines", "mgm_dali/"), ("models", "mgm_dali/")):
        for path in (ROOT / folder).rglob("*.py"):
            if not any(part.is_symlink() for part in path.parents):
                assert prefix + path.relative_to(ROOT).as_posix() in inside
    assert "mgm_dali/py.typed" in inside


def test_the_installed_package_runs_away_from_the_checkout(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = "import mgm_dali.pipelines.feed, mgm_dali.models; print(mgm_dali.models.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == tmp_path / "mgm_dali" / "models" / "__init__.py"
