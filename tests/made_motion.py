"""Motion fields that are made, not measured: what is in them is known."""

from typing import NamedTuple

import torch
from torch import Tensor

from mgm_dali.config import MaskConfig
from mgm_dali.masking import MASKS, PatchGrid, make_mask

MASK_CONFIGS = {
    **{name: MaskConfig(strategy=name) for name in MASKS},
    "top_k": MaskConfig(center="top_k"),
    "vote": MaskConfig(center="vote"),
    "grow, no jitter": MaskConfig(border="grow", jitter=False),
}
"""All that makes a difference to how a mask is computed."""


class Made(NamedTuple):
    """What `make_mask` looks at, for B clips."""

    motion: Tensor
    valid: Tensor
    known: Tensor

    def mask(self, seed, grid, config):
        """`[B, t, h, w]` bool."""
        mask = make_mask(self.motion, self.valid, seed, grid, config, self.known)
        return mask.view(-1, *grid)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def seeds(count, seed=0):
    return torch.randint(0, 2**62, (count,), generator=generator(seed))


def still(grid, batch=1):
    shape = (batch, 2 * grid.t, 2 * grid.h, 2 * grid.w)
    motion, known = torch.zeros(*shape, 2), torch.ones(shape, dtype=torch.bool)
    return Made(motion, torch.ones(shape[:2], dtype=torch.bool), known)


def only(made, valid):
    """The same, of which only the frames `valid [B, T]` have vectors."""
    known = made.known & valid[:, :, None, None]
    return Made(made.motion * known[..., None], valid, known)


def quarter_pixels(grid, batch=1, seed=0, longest=6):
    """Every cell its own vector, in the codec's quarter pixels: short, so that many tie."""
    made = still(grid, batch)
    steps = torch.randint(-longest, longest + 1, made.motion.shape, generator=generator(seed))
    return made._replace(motion=steps / 4)


def scaled(grid, batch=1, seed=0):
    """As after a crop is resized: any fraction, a third of them between two eighths of a pixel."""
    made = still(grid, batch)
    motion = 3 * torch.randn(made.motion.shape, generator=generator(seed))
    sixteenths = (motion * 16).round() / 16
    return made._replace(motion=torch.where(made.motion[..., :1] + motion > 1, sixteenths, motion))


def some_frames(grid, batch=1, seed=0):
    """Half of the frames have no vectors, and of one clip in two the first ones."""
    made = quarter_pixels(grid, batch, seed)
    valid = torch.rand(made.valid.shape, generator=generator(seed + 1)) > 0.5
    valid[::2, : 2 * grid.t // 3] = False
    return only(made, valid)


def holes(grid, batch=1, seed=0):
    """A third of the blocks could not be predicted, and some frames have none at all."""
    made = some_frames(grid, batch, seed)
    known = made.known & (torch.rand(made.known.shape, generator=generator(seed + 2)) > 0.3)
    return Made(made.motion * known[..., None], made.valid, known)


def moving_block(grid, batch=1, seed=0, cells=2):
    """A block of `cells` x `cells` that bounces from border to border; all else is still."""
    made = still(grid, batch)
    start = torch.randint(0, 1000, (batch, 2), generator=generator(seed)).tolist()
    for clip in range(batch):
        for frame in range(2 * grid.t):
            corner = []
            for place, size in zip(start[clip], (2 * grid.h, 2 * grid.w), strict=True):
                room = max(size - cells, 1)
                way = (place + frame) % (2 * room)
                corner.append(min(way, 2 * room - way))
            row, column = corner
            vector = torch.tensor((8.0, -8.0))
            made.motion[clip, frame, row : row + cells, column : column + cells] = vector
    return made


def huge(grid, batch=1, seed=0):
    """Vectors beyond all frames, some of which overflow when they are squared."""
    made = still(grid, batch)
    lengths = torch.tensor((0.0, -0.0, 200.0, 300.0, -361.9, 5e3, -1e30, 3e38))
    which = torch.randint(0, len(lengths), made.motion.shape, generator=generator(seed))
    return made._replace(motion=lengths[which])


def fast(grid, batch=1, seed=0):
    """Cells that jump by a few cells, in and out of the frame."""
    made = still(grid, batch)
    return made._replace(motion=12 * torch.randn(made.motion.shape, generator=generator(seed)))


def no_motion(grid, batch=1, seed=0):
    del seed
    return still(grid, batch)


def no_vectors(grid, batch=1, seed=0):
    del seed
    return only(still(grid, batch), torch.zeros(batch, 2 * grid.t, dtype=torch.bool))


KINDS = {
    "quarter pixels": quarter_pixels,
    "scaled": scaled,
    "some frames": some_frames,
    "holes": holes,
    "moving block": moving_block,
    "huge": huge,
    "fast": fast,
    "no motion": no_motion,
    "no vectors": no_vectors,
}


def one_cell(path, grid, pixels=6.0):
    """One clip in which one cell moves: its (row, column) in each frame, None for no vectors."""
    made = still(PatchGrid(len(path) // 2, grid.h, grid.w))
    valid = torch.tensor([[place is not None for place in path]])
    for frame, place in enumerate(path):
        if place is not None:
            made.motion[0, frame, place[0], place[1], 0] = pixels
    return only(made, valid)
