"""Lets timm be imported where torchvision's compiled operators do not fit the installed PyTorch.

A CPU build of PyTorch beside the torchvision wheel of the package index is such a pair: the wheel
is linked against CUDA, its operators do not load, and `import torchvision` (which timm runs) dies
with "operator torchvision::nms does not exist". So the names that are looked up are declared,
without an implementation: calling one still fails, loudly. The one operator that is called here,
RoIAlign in `models/detector.py`, is not among them: for it torchvision has a slower stand-in.
"""

import torch

__all__ = ["import_torchvision"]

_declared: list[torch.library.Library] = []  # a declaration lives as long as its Library


def import_torchvision() -> bool:
    """Imports torchvision; True if its operators work, False if only their names are declared."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
        import torchvision  # noqa: F401
    return not _declared
