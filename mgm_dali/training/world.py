"""The ranks that train together: who this process is, and what they say to one another."""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from mgm_dali.errors import UserError
from mgm_dali.launcher import set_rendezvous

__all__ = ["STOPPED_BY_ANOTHER", "World", "join_world"]

STOPPED_BY_ANOTHER = "stopped: another rank cannot go on, see its message"

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int
    device: torch.device
    store: Store | None = field(default=None, compare=False, repr=False)
    """Words that all ranks can read without meeting for it; None in a world of one, or one that
    somebody else has joined."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def require(self, problem: str | None) -> None:
        """Raises `UserError` on all ranks if one of them has a problem. All ranks must call it.

        A rank that raised alone would leave the others waiting for it.
        """
        if self.sum(torch.tensor([float(problem is not None)], device=self.device)):
            raise UserError(problem or STOPPED_BY_ANOTHER)

    def only_first(self, find: Callable[[], _Found], otherwise: _Found) -> _Found:
        """What the first rank finds; the others have `otherwise`. All ranks must call it.

        Raises `UserError`, on all ranks, if `find` does.
        """
        found, problem = otherwise, None
        if self.is_first:
            try:
                found = find()
            except UserError as error:
                problem = str(error)
        self.require(problem)
        return found

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the ranks, in place, on all of them."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def of_first(self, number: int) -> int:
        """A whole number of the first rank, on all of them. All ranks must call it."""
        mine = torch.tensor(int(number) if self.is_first else 0, device=self.device)
        return int(self.sum(mine))

    def text_of_first(self, text: str) -> str:
        """Some text of the first rank, on all of them. All ranks must call it."""
        own = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        length = self.of_first(len(own))
        sent = own if self.is_first else torch.empty(length, dtype=torch.uint8)
        return bytes(self.from_first(sent.to(self.device)).tolist()).decode()

    def from_first(self, tensor: Tensor) -> Tensor:
        """A tensor of the first rank, on all of them: theirs is overwritten. All must call it."""
        if self.size > 1:
            distributed.broadcast(tensor, 0)
        return tensor


_joined: list[World] = []
"""The world of this process: nobody can join twice."""


def join_world(device: torch.device) -> World:
    """Joins the other ranks, for the rest of this process's life.

    Ranks come from the environment of the launcher (deepspeed, torchrun, srun, mpirun); without
    one, this process is the whole world. A second call gives the same world. Raises `UserError` if
    the others cannot be reached.
    """
    if _joined:
        return _joined[0]
    if distributed.is_initialized():  # by the program that calls us
        return World(distributed.get_rank(), distributed.get_world_size(), device)
    set_rendezvous()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, size = next(rendezvous("env://"))
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the ranks cannot meet at {where}: {str(error).splitlines()[0]}; if hosts have "
            "several networks, GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the one to use"
        ) from error
    atexit.register(distributed.destroy_process_group)
    _joined.append(World(rank, size, device, store if size > 1 else None))
    return _joined[0]
