"""Which process this is, and where all of them meet, from whichever launcher started it.

deepspeed and torchrun say it in PyTorch's own variables (RANK, WORLD_SIZE, MASTER_ADDR ...). srun
and Open MPI's mpirun say it in theirs, and not where to meet: `set_rendezvous` works that out.
RANK=0 WORLD_SIZE=1 in front of a command makes it a run of one process under any of them.
"""

import os
import re
import socket
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

from mgm_dali.errors import UserError

__all__ = [
    "first_host",
    "is_launched",
    "launcher_is_gone",
    "local_rank",
    "rank_and_world_size",
    "set_rendezvous",
]


class _Launcher(NamedTuple):
    """The variables in which a launcher tells each process its place."""

    name: str
    rank: str
    size: str
    local_rank: str
    local_size: str


_TORCH = _Launcher("deepspeed or torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MPIRUN = _Launcher(
    "mpirun",
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
_SRUN = _Launcher(
    "srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"
)
_INTERACTIVE_STEP = str(0xFFFFFFFA)
"""SLURM_STEP_ID of the shell that salloc opens on a node (slurm.h, SLURM_INTERACTIVE_STEP)."""
_MPIRUN_PORT = 29500
"""What deepspeed and torchrun take, too."""
_SRUN_PORTS = range(20000, 30000)
"""Above the usual services, below the ports that Linux gives to outgoing connections."""


def rank_and_world_size(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, number of ranks) as the launcher says; (0, 1) without one.

    Raises `UserError` if one of the two is missing or they cannot be.
    """
    launcher = _launcher(environ)
    if launcher is None:
        return 0, 1
    rank, size = (_number(environ, name, launcher) for name in (launcher.rank, launcher.size))
    if rank >= size:
        raise UserError(
            f"{launcher.rank}: rank {rank} cannot be one of {size} ({launcher.size}); unset what "
            "another launcher left, and start again"
        )
    return rank, size


def local_rank(environ: Mapping[str, str] = os.environ) -> int:
    """The number of this process among those of its machine, and so of the GPU that it takes.

    0 where srun shows each task one GPU alone (--gpus-per-task=1). Raises `UserError` if it is no
    number.
    """
    launcher = _launcher(environ)
    if launcher is None or not environ.get(launcher.local_rank):
        return 0
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if launcher is _SRUN and visible and "," not in visible:
        return 0
    return _number(environ, launcher.local_rank, launcher)


def set_rendezvous(environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets what PyTorch and DeepSpeed read: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.

    Also LOCAL_SIZE, where the launcher says it. A meeting place that is set already stays: it may
    be another than ours. Without a launcher this process is a world of its own, and meets nobody.
    Raises `UserError` if the variables contradict each other, or nothing says where rank 0 is.
    """
    launcher = _launcher(environ)
    rank, size = rank_and_world_size(environ)
    if launcher is not _TORCH:
        if (environ.get("WORLD_SIZE") or str(size)) != str(size):
            who = f"{launcher.name} started {size}" if launcher else "no launcher has set RANK"
            raise UserError(
                f"WORLD_SIZE: {environ['WORLD_SIZE']!r} is set, but {who}; unset it, or start with "
                "deepspeed, torchrun, srun or mpirun"
            )
        if size == 1:
            for meant_for_others in ("MASTER_ADDR", "MASTER_PORT"):
                environ.pop(meant_for_others, None)
    local_size = _local_size(environ, launcher)
    host = environ.get("MASTER_ADDR") or _master_host(environ, launcher, size, local_size)
    port = environ.get("MASTER_PORT") or str(_master_port(environ, launcher, size))
    if not _is_number(port) or not 0 < int(port) < 2**16:
        raise UserError(f"MASTER_PORT: {port!r} is no port; set a number from 1024 to 65535")
    environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank(environ)))
    environ.update(MASTER_ADDR=host, MASTER_PORT=port)
    if local_size is not None:
        environ["LOCAL_SIZE"] = str(local_size)


def is_launched() -> bool:
    """Whether a launcher started this process."""
    return _LAUNCHER_PID is not None


def launcher_is_gone() -> bool:
    """Whether a launcher started this process and has ended since: nobody looks after it now."""
    return _LAUNCHER_PID is not None and os.getppid() != _LAUNCHER_PID


def first_host(nodelist: str) -> str:
    """The first machine of a list as SLURM writes it: `node[01-04,07],gpu-a3` gives `node01`.

    Raises `ValueError` if it is no such list.
    """
    entry = re.match(r"(?:[^][,\s]|\[[0-9]+[-,0-9]*\])+(?=,|$)", nodelist)
    if entry is None:
        raise ValueError(f"{nodelist!r} is no list of machines")
    return re.sub(r"\[([0-9]+)[-,0-9]*\]", r"\1", entry[0])


def _launcher(environ: Mapping[str, str]) -> _Launcher | None:
    """Who started this process: the innermost, as one launcher may start another."""
    if environ.get(_TORCH.rank):
        return _TORCH
    if environ.get(_MPIRUN.rank):
        return _MPIRUN  # its daemons are started by srun, whose variables count them
    # Only srun counts the tasks of its step. The one process of a batch script, or of salloc's
    # shell, finds SLURM_NTASKS and even SLURM_PROCID, but nobody beside it.
    if environ.get(_SRUN.size) and environ.get("SLURM_STEP_ID") != _INTERACTIVE_STEP:
        return _SRUN
    return None


def _master_host(
    environ: Mapping[str, str], launcher: _Launcher | None, size: int, local_size: int | None
) -> str:
    if size == 1 or (launcher is _MPIRUN and local_size == size):
        return "127.0.0.1"
    # mpirun's own step leaves out the machine that it was called on, which has rank 0.
    lists = {_SRUN: "SLURM_STEP_NODELIST", _MPIRUN: "SLURM_JOB_NODELIST"}
    name = lists.get(launcher, "") if launcher else ""
    if environ.get(name):
        try:
            return first_host(environ[name])
        except ValueError as error:
            raise UserError(f"{name}: {error}; set MASTER_ADDR to the first of them") from None
    raise UserError(
        "MASTER_ADDR: is not set, and nothing else says which machine has rank 0; set it to that "
        "machine's name on all of them (mpirun -x MASTER_ADDR=NAME)"
    )


def _master_port(environ: Mapping[str, str], launcher: _Launcher | None, size: int) -> int:
    """The same number on all ranks, though they have not met."""
    if size == 1:
        return _free_port()
    if launcher is _MPIRUN:
        return _MPIRUN_PORT
    if launcher is _SRUN:  # another for each job and each of its first 16 steps
        job, step = (_number(environ, f"SLURM_{what}_ID", _SRUN) for what in ("JOB", "STEP"))
        return _SRUN_PORTS[(16 * job + step) % len(_SRUN_PORTS)]
    raise UserError(
        "MASTER_PORT: is not set, though RANK is; deepspeed and torchrun set both. By hand: the "
        "same free port for all ranks, as MASTER_PORT=29500"
    )


def _local_size(environ: Mapping[str, str], launcher: _Launcher | None) -> int | None:
    """How many ranks this machine has, if the launcher says it."""
    if launcher is None:
        return 1
    if launcher is not _SRUN:
        said = environ.get(launcher.local_size)
        return int(said) if said and _is_number(said) else None
    node = environ.get("SLURM_NODEID", "")
    if not _is_number(node):
        return None
    tasks = environ.get(_SRUN.local_size, "")  # of each node: `2(x3),1` is 2, 2, 2, 1
    nodes_before = int(node)
    for count, times in re.findall(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", tasks):
        if nodes_before < int(times or 1):
            return int(count)
        nodes_before -= int(times or 1)
    return None


def _number(environ: Mapping[str, str], name: str, launcher: _Launcher) -> int:
    text = environ.get(name, "")
    if not text:
        raise UserError(
            f"{name}: is not set, though {launcher.rank} is; start with {launcher.name}, which "
            f"sets both, or unset {launcher.rank}"
        )
    if not _is_number(text):
        raise UserError(f"{name}: {text!r} is no whole number; {launcher.name} sets it to one")
    return int(text)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,10}", text) is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_LAUNCHER_PID = os.getppid() if _launcher(os.environ) else None
"""As early as possible: a launcher that dies while this process starts is noticed too."""
