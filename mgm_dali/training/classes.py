"""How many classes there are, and that every label is one of them."""

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.video.manifest import Manifest, read_manifest

__all__ = ["with_num_classes"]


def with_num_classes(config: RunConfig) -> RunConfig:
    """The config with `model.num_classes` filled in from the manifests' class names.

    Raises `UserError` if no manifest names classes, or if a label does not fit.
    """
    num_classes = config.model.num_classes
    manifests = [read_manifest(path) for path in (config.data.train, config.data.val) if path]
    for manifest in manifests:
        num_classes = _fitting_classes(manifest, num_classes)
    if len({manifest.class_names for manifest in manifests if manifest.class_names}) > 1:
        raise UserError(
            f"{manifests[0].path} and {manifests[1].path} name different classes, or in another "
            "order; index one folder with --val-share, or make their .classes.txt equal"
        )
    model = config.model.model_copy(update={"num_classes": num_classes})
    return config.model_copy(update={"model": model})


def _fitting_classes(manifest: Manifest, num_classes: int | None) -> int:
    path = manifest.path
    if (manifest.labels < 0).any():
        row = int((manifest.labels < 0).argmax())
        raise UserError(
            f"{path}: {manifest[row].path} has no label; index a folder with one sub-folder per "
            "class, or a list with labels"
        )
    num_classes = num_classes or len(manifest.class_names)
    if not num_classes:
        raise UserError(
            f"{path}: has no class names beside it; set model.num_classes, or index a folder with "
            "one sub-folder per class"
        )
    highest = int(manifest.labels.max())
    if highest >= num_classes:
        raise UserError(
            f"{path}: label {highest} does not fit {num_classes} classes (labels count from 0); "
            "correct the manifest or model.num_classes"
        )
    return num_classes
