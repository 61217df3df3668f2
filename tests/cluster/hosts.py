"""Two hosts on one machine, joined by a cable: alpha and beta, each with its own sshd.

A host is a set of Linux namespaces: its own network, processes, mounts and host name; the files are
shared, as on a cluster. It lives in one process. When that is killed, the kernel ends all others of
the host and takes the network away: nothing of it can be left behind.
"""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

__all__ = ["CABLE", "TOOLS", "Host", "make_hosts", "missing_tools"]

CABLE = "eth0"
TOOLS = {
    # Debian package: what we need of it
    "hostname": ("hostname",),
    "iproute2": ("ip",),
    "openssh-client": ("ssh", "ssh-keygen"),
    "openssh-server": ("sshd",),
    "pdsh": ("pdsh",),
    "util-linux": ("nsenter", "setpriv", "unshare"),
}
ADDRESSES = {"alpha": "10.93.0.1", "beta": "10.93.0.2"}

# $1 is the host's name, $2 the folder of its files. It goes on when the cable is plugged in.
START = """
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/ssh_config" /etc/ssh/ssh_config
mount -t tmpfs tmpfs /run
mkdir /run/sshd
echo ready
read -r _
exec "$(command -v sshd)" -D -e -f "$2/sshd_config"
"""
SSHD_CONFIG = """
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/client_key.pub"
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
LogLevel ERROR
ClientAliveInterval 5
ClientAliveCountMax 3
"""
SSH_CONFIG = """
Host *
    IdentityFile "{folder}/client_key"
    IdentitiesOnly yes
    BatchMode yes
    StrictHostKeyChecking yes
    UserKnownHostsFile "{folder}/known_hosts"
    ServerAliveInterval 5
    ServerAliveCountMax 3
    LogLevel ERROR
"""


class Process(NamedTuple):
    """A process of a host, by its number outside."""

    pid: int
    command: str
    environ: dict[str, str]


class Host:
    """One host; `first` is the number, outside, of its first process."""

    def __init__(self, name: str, first: int) -> None:
        self.name = name
        self.address = ADDRESSES[name]
        self.first = first

    def command(self, folder: Path, variables: dict[str, str], *words: object) -> list[str]:
        """What starts `words` on this host."""
        spaces = ["--net", "--uts", "--mount", "--pid"]
        settings = [f"{name}={value}" for name, value in variables.items()]
        enter = ["nsenter", "--target", str(self.first), *spaces]
        return [*enter, "--", "env", f"--chdir={folder}", *settings, *map(str, words)]

    def processes(self) -> list[Process]:
        """All that runs on it but its first; the dead that nobody has asked for do not count."""
        found = []
        own = (Path("/proc") / str(self.first) / "ns" / "pid").readlink()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state = re.sub(r".*\) ", "", (place / "stat").read_text())[0]
                if (place / "ns" / "pid").readlink() != own or state == "Z":
                    continue
                command = (place / "cmdline").read_bytes().decode(errors="replace")
                pairs = (place / "environ").read_bytes().decode(errors="replace").split("\0")
                environ = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
                found.append(Process(int(place.name), " ".join(command.split("\0")), environ))
        return [process for process in found if process.pid != self.first]

    def unplug(self) -> None:
        """Its cable is out: packets vanish, and nobody is told."""
        enter = ["nsenter", "--target", str(self.first), "--net"]
        subprocess.run([*enter, "ip", "link", "set", CABLE, "down"], check=True)

    def plug(self) -> None:
        """Gives the cable's end its address, and lets it carry."""
        enter = ["nsenter", "--target", str(self.first), "--net", "ip"]
        for words in (
            ["address", "replace", f"{self.address}/24", "dev", CABLE],
            *(["link", "set", name, "up"] for name in ("lo", CABLE)),
        ):
            subprocess.run([*enter, *words], check=True)


def missing_tools() -> list[str]:
    """The Debian packages that would have to be installed."""
    return [package for package, tools in TOOLS.items() if not all(map(shutil.which, tools))]


@contextmanager
def make_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """alpha and beta, which reach each other by name and by ssh, for as long as the block runs.

    Keys and configurations are written into `folder`.
    """
    _write_ssh_files(folder)
    (folder / "hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"{ADDRESSES[name]} {name}\n" for name in ADDRESSES)
    )
    with contextlib.ExitStack() as stack:
        lives = {name: stack.enter_context(_first_process(name, folder)) for name in ADDRESSES}
        hosts = [Host(name, _child_of(life.pid)) for name, life in lives.items()]
        ends = [[CABLE, "netns", str(host.first)] for host in hosts]
        make = ["ip", "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1]]
        subprocess.run(make, check=True)
        for host in hosts:
            host.plug()
            life = lives[host.name]
            assert life.stdin is not None
            life.stdin.write("\n")
            life.stdin.flush()
        for host in hosts:
            _wait_for_ssh(host, folder)
        yield hosts[0], hosts[1]


def _write_ssh_files(folder: Path) -> None:
    for name in ("host_key", "client_key"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True)
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=folder))
    (folder / "ssh_config").write_text(SSH_CONFIG.format(folder=folder))
    names = ",".join((*ADDRESSES, *ADDRESSES.values()))
    (folder / "known_hosts").write_text(f"{names} {(folder / 'host_key.pub').read_text()}")


@contextmanager
def _first_process(name: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The process in which a host lives. It also dies with this one, however that ends."""
    spaces = ["--net", "--uts", "--mount", "--propagation", "private", "--pid", "--mount-proc"]
    die_along = ["setpriv", "--pdeathsig", "KILL"]
    unshare = ["unshare", *spaces, "--fork", "--kill-child"]
    with (folder / f"sshd-{name}.log").open("w") as log:
        life = subprocess.Popen(
            [*die_along, *unshare, "bash", "-eu", "-c", START, "start", name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        assert life.stdout is not None
        if life.stdout.readline() != "ready\n":
            raise RuntimeError((folder / f"sshd-{name}.log").read_text())
        yield life
    finally:
        life.kill()
        life.communicate()


def _child_of(pid: int) -> int:
    return int((Path("/proc") / str(pid) / "task" / str(pid) / "children").read_text())


def _wait_for_ssh(host: Host, folder: Path) -> None:
    for _ in range(50):
        done = subprocess.run(
            host.command(folder, dict(os.environ), "ssh", host.name, "hostname"),
            capture_output=True,
            text=True,
        )
        if done.stdout.strip() == host.name:
            return
        time.sleep(0.1)
    raise RuntimeError(
        f"{host.name}: no ssh: {done.stderr}{(folder / f'sshd-{host.name}.log').read_text()}"
    )
