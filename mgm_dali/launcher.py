"""Which process this is, from the environment of whichever launcher started it."""

import os

__all__ = ["local_rank", "rank_and_world_size"]


def rank_and_world_size() -> tuple[int, int]:
    """(rank, number of ranks) as deepspeed, torchrun or srun say; (0, 1) without a launcher."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
