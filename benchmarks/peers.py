"""The other libraries, each in an environment of its own, and the processes in which all are timed.

    PEERS_FOLDER/decord/bin/python    has decord, and behind it what the project has
    PEERS_FOLDER/decord/filled        what was installed; written last, so a torn one is made anew

The project's own environment gets nothing.
"""

import json
import os
import re
import select
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mgm_dali.errors import UserError

__all__ = ["PEERS", "Peer", "PeerError", "Worker", "start"]

WORKER = Path(__file__).with_name("peer_worker.py")
SECONDS_ALLOWED = 300.0
"""For one answer. A peer is known to wait for ever on some files."""


class PeerError(UserError):
    """A peer cannot be installed, or gave no answer; the message says why in one line."""


@dataclass(frozen=True)
class Peer:
    """A library and how its environment is made."""

    requirement: str
    borrows_packages: bool = False
    """Sees the project's packages behind its own: a PyTorch for each would take gigabytes."""
    borrows_ffmpeg: bool = False
    """Has no FFmpeg and takes what the machine has: gets PyAV's, so that both decode alike."""


PEERS: dict[str, Peer] = {
    "mv-extractor": Peer("motion-vector-extractor==2.0.0"),
    "decord": Peer("decord==0.6.0", borrows_packages=True),
    # From 0.14 on, the files on the package index are linked against CUDA.
    "torchcodec": Peer("torchcodec==0.13.0", borrows_packages=True, borrows_ffmpeg=True),
}


class Worker:
    """A process that times tasks, started anew after it was lost; `close` it in the end."""

    def __init__(
        self, python: Path, environment: dict[str, str], problem: str = "", script: Path = WORKER
    ) -> None:
        """`problem` is why there can be no process; every task is answered with it."""
        self._python = python
        self._script = script
        self._environment = environment
        self._problem = problem
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(
        self, task: str, arguments: dict[str, Any], seconds_allowed: float | None = None
    ) -> dict[str, float]:
        """CPU and wall seconds of one task, and the frames it gave.

        Raises `PeerError` if it fails, dies or takes longer than is allowed (`SECONDS_ALLOWED`,
        unless it is said).
        """
        if self._problem:
            raise PeerError(self._problem)
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        order = json.dumps({"task": task, "arguments": arguments}) + "\n"
        try:
            process.stdin.write(order.encode())
            process.stdin.flush()
        except BrokenPipeError:
            pass  # noticed below
        seconds_allowed = seconds_allowed or SECONDS_ALLOWED
        ready, _, _ = select.select([process.stdout], [], [], seconds_allowed)
        line = process.stdout.readline() if ready else b""
        if not line:
            self.close()
            raise PeerError(
                f"its process died with status {process.returncode}"
                if ready
                else f"no answer in {seconds_allowed:g} s; it was killed"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        if not answer["frames"]:
            raise PeerError("gave no frame")
        return answer

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [self._python, self._script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self._environment},
        )


def start(name: str, folder: Path, say: Callable[[str], None], script: Path = WORKER) -> Worker:
    """A worker for a peer, installed below `folder` if need be; any other name is the project's."""
    if name not in PEERS:
        return Worker(Path(sys.executable), {}, script=script)
    peer, own = PEERS[name], folder.absolute() / name
    python, filled = own / "bin/python", own / "filled"
    if not filled.exists() or filled.read_text() != str(peer):
        say(f"installing {peer.requirement} into {own}")
        if problem := _install(peer, own, python):
            return Worker(python, {}, problem)
        filled.write_text(str(peer))
    environment = {"LD_LIBRARY_PATH": _ffmpeg_of_pyav(own)} if peer.borrows_ffmpeg else {}
    return Worker(python, environment, script=script)


def _install(peer: Peer, folder: Path, python: Path) -> str:
    """Why it did not succeed, or nothing."""
    options = ["--no-deps"] if peer.borrows_packages else []
    venv.create(folder, with_pip=True, clear=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--only-binary=:all:", *options, peer.requirement],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return f"pip install {peer.requirement}: {said[-1] if said else done.stderr[-200:]}"
    if peer.borrows_packages:
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return ""


def _ffmpeg_of_pyav(folder: Path) -> str:
    """A search path on which PyAV's FFmpeg is found by its usual names; empty if it brings none.

    libavcodec-5e6b81c2.so.62.28.102 is linked as libavcodec.so.62.
    """
    spec = find_spec("av")
    assert spec is not None and spec.origin is not None
    libraries = Path(spec.origin).parents[1] / "av.libs"
    usual = folder / "ffmpeg"
    usual.mkdir(exist_ok=True)
    for library in libraries.glob("lib*"):
        name = re.fullmatch(r"(lib(?:av|sw)\w+)-\w+(\.so\.\d+)[.\d]*", library.name)
        if name is not None:
            link = usual / (name[1] + name[2])
            link.unlink(missing_ok=True)
            link.symlink_to(library)
    # The libraries find one another by their own names, beside the links they do not lie.
    return f"{usual}:{libraries}" if libraries.is_dir() else ""
