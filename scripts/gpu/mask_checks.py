"""Masks are the same to the bit on every device, whatever the strategy and the motion."""

from typing import Any

import torch
from made_motion import KINDS, MASK_CONFIGS

from gpu.findings import Findings
from gpu.setting import Setting
from mgm_dali.masking import PatchGrid, decoded_tokens, make_mask

__all__ = ["same_masks"]

GRID = PatchGrid(8, 14, 14)
NUM_DECODED = 8 * 147 // 2


def same_masks(setting: Setting, findings: Findings) -> None:
    """What is hidden, and half of it that is predicted, by the device and by the CPU."""
    clips = setting.pick(64, 2)
    for name, config in MASK_CONFIGS.items():
        with findings.claim(f"{name}: masks are the CPU's to the bit") as found:
            for kind, make in KINDS.items():
                made = make(GRID, clips)  # type: ignore[no-untyped-call]
                here, there = (_masks(made, config, where) for where in ("cpu", setting.device))
                if not all(map(torch.equal, here, there)):
                    raise ValueError(f"another mask for {kind}")
            found.append(f"{len(KINDS)} kinds of motion, {clips} clips each")


def _masks(made: Any, config: Any, device: str) -> list[torch.Tensor]:
    """Both on the host."""
    generator = torch.Generator().manual_seed(0)
    seed = torch.randint(2**62, (len(made.motion),), generator=generator).to(device)
    motion, valid, known = (each.to(device) for each in (made.motion, made.valid, made.known))
    mask = make_mask(motion, valid, seed, GRID, config, known)
    return [mask.cpu(), decoded_tokens(mask, seed, GRID, NUM_DECODED).cpu()]
