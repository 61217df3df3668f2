"""What masks are made of is checked by shape and dtype alone, which waits for no device."""

import torch
from torch import Tensor

__all__ = ["require_tensor"]


def require_tensor(name: str, found: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raises `ValueError` if a tensor is of another shape or dtype."""
    if found.shape != shape or found.dtype != dtype:
        expected = f"{dtype} {list(shape)}"
        raise ValueError(f"{name}: expected {expected}, found {found.dtype} {list(found.shape)}")
