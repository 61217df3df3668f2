"""Motion by RAFT-Small, the optical flow network that the paper compares with (arXiv 2003.12039).

torchvision's network, with its published weights; a GPU is used where there is one. It is the
reference, not the way to train: on a CPU, a clip takes dozens of times as long as codec vectors.

N pairs, H W pixels.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.files import require_file
from mgm_dali.launcher import local_rank
from mgm_dali.motion.field import Grid, MotionField
from mgm_dali.motion.flow import cells_of_flow, grow_pictures
from mgm_dali.motion.neighbours import read_since_frame_before
from mgm_dali.video.opening import VideoError
from mgm_dali.video.reader import FrameNumbers
from mgm_dali.video.rgb import RgbConverter

if TYPE_CHECKING:
    import torch

__all__ = ["load_raft", "read_motion", "read_motion_with"]

GET_WEIGHTS = (
    "torchvision publishes them: `torchvision.models.optical_flow.Raft_Small_Weights.C_T_V2.url` "
    "says where"
)
NUM_UPDATES = 12
"""The network's own default, as in its published evaluation."""
SMALLEST_PIXELS = 128
"""Below this, the coarsest level of the correlation pyramid has no neighbours to interpolate."""
MULTIPLE_PIXELS = 8
"""Features have an eighth of the picture's size."""
LARGEST_PIXELS = 1920 * 1088
"""The features of all places are compared with those of all: at this size, that takes 9 GB."""
PAIRS_AT_ONCE_ON_GPU = 16
PIXELS_AT_ONCE_ON_GPU = PAIRS_AT_ONCE_ON_GPU * 340 * 256
"""Pairs of larger pictures than those of Kinetics go through the network in smaller groups."""

Pairs = Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""(the frame before, the frame), RGB `[H, W, 3]` each."""


def read_motion(path: str | Path, frames: FrameNumbers | None, weights: Path | None) -> MotionField:
    """Estimates the motion of frames (all by default) since the frame before each.

    In the order asked; repeats are allowed. Frame 0 is not valid. The network stays loaded in this
    process. Raises `UserError` if the weights are missing or of another network, and `VideoError`.
    """
    if weights is None:
        raise UserError(f"raft needs a file of weights, `--weights FILE`; {GET_WEIGHTS}")
    return read_motion_with(load_raft(weights), path, frames)


def read_motion_with(
    network: "torch.nn.Module", path: str | Path, frames: FrameNumbers | None = None
) -> MotionField:
    """As `read_motion`, by any network that is called as torchvision's RAFT is.

    `network(image1, image2, num_flow_updates=12)`, float32 `[N, 3, H, W]` from -1 to 1, gives a
    list of flows `[N, 2, H, W]` from the first image to the second, pixels; the last one counts.
    """
    import torch

    number = local_rank() % max(torch.cuda.device_count(), 1)
    device = torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")
    network = network.to(device).eval()

    def compare(pairs: Pairs) -> list[Grid]:
        height, width = pairs[0][0].shape[:2]
        if height * width > LARGEST_PIXELS:
            raise VideoError(
                path, f"its pictures of {width}x{height} are too large for raft; make them smaller"
            )
        pairs_per_run = max(1, PIXELS_AT_ONCE_ON_GPU // (height * width))
        grids = []
        for start in range(0, len(pairs), pairs_per_run):
            part = zip(*pairs[start : start + pairs_per_run], strict=True)
            past, present = (_as_input(images, device) for images in part)
            with torch.inference_mode():
                to_past = network(present, past, num_flow_updates=NUM_UPDATES)[-1]
            flows = to_past[:, :, :height, :width].permute(0, 2, 3, 1).float().cpu().numpy()
            grids += [cells_of_flow(flow) for flow in flows]
        return grids

    return read_since_frame_before(
        path,
        frames,
        prepare=RgbConverter(path),
        compare=compare,
        pairs_at_once=PAIRS_AT_ONCE_ON_GPU if device.type == "cuda" else 1,
    )


@cache
def load_raft(weights: Path) -> "torch.nn.Module":
    """torchvision's RAFT-Small with these weights; loaded once in a process.

    Takes a state dict as a .pth or .safetensors file and executes nothing of it. Raises `UserError`
    if it cannot be read or is of another network.
    """
    from mgm_dali.torchvision_ops import import_torchvision

    import_torchvision()
    from torchvision.models.optical_flow import raft_small

    network: torch.nn.Module = raft_small()
    needed, found = network.state_dict(), _read_state(weights)
    wrong = [
        name
        for name in sorted(needed.keys() | found.keys())
        if name not in needed or name not in found or needed[name].shape != found[name].shape
    ]
    if wrong:
        raise UserError(
            f"{weights}: is not of torchvision's RAFT-Small: {len(wrong)} tensors are missing, too "
            f"many or of another shape, such as {wrong[0]}; {GET_WEIGHTS}"
        )
    network.load_state_dict(found)
    return network


def _read_state(weights: Path) -> "dict[str, torch.Tensor]":
    import torch
    from safetensors.torch import load_file

    try:
        require_file(weights)
        if weights.suffix == ".safetensors":
            state: Any = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{weights}: cannot be read: {reason}; {GET_WEIGHTS}") from None
    except Exception as error:  # broken bytes make the unpickler fail in every way there is
        raise UserError(
            f"{weights}: cannot be read as plain tensors ({type(error).__name__}), and nothing of "
            f"it was executed; {GET_WEIGHTS}"
        ) from None
    if not isinstance(state, dict):
        raise UserError(f"{weights}: expected named tensors, found a {type(state).__name__}")
    return {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _as_input(images: Sequence[NDArray[np.uint8]], device: "torch.device") -> "torch.Tensor":
    """float32 `[N, 3, H, W]` from -1 to 1, grown to a size that the network takes."""
    import torch

    grown = grow_pictures(
        np.stack(images), smallest_pixels=SMALLEST_PIXELS, multiple=MULTIPLE_PIXELS
    )
    tensor = torch.from_numpy(grown).to(device)
    return tensor.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
