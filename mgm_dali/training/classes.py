"""How many classes there are, that every label is one of them, and which of them are judged."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.checks import manifest_for
from mgm_dali.training.class_map import ClassMap, read_class_map
from mgm_dali.video.manifest import Manifest, read_manifest

__all__ = ["Judged", "judged_by", "with_num_classes"]


@dataclass(frozen=True, eq=False)
class Judged:
    """Which videos are judged, and which of a classifier's outputs speak for which class."""

    manifest: Manifest
    """The videos that count; their labels are places in its class names."""
    outputs: NDArray[np.int64]
    """`[M]`, the outputs that are looked at."""
    classes: NDArray[np.int64]
    """`[M]`, the class that each of them speaks for."""
    num_classes: int
    left_out: str
    """In words what does not count, if anything."""


def with_num_classes(config: RunConfig) -> RunConfig:
    """The config with `model.num_classes` filled in from the manifests' class names.

    Raises `UserError` if no manifest names classes, if a label does not fit, or if training and
    judged set name different classes and no `evaluation.class_map` says which mean the same.
    """
    data, num_classes = config.data, config.model.num_classes
    mapped = config.evaluation.class_map is not None
    paths = (data.train,) if mapped else (data.train, data.val)
    manifests = [read_manifest(path) for path in paths if path]
    for manifest in manifests:
        num_classes = _fitting_classes(manifest, num_classes)
    if len({manifest.class_names for manifest in manifests if manifest.class_names}) > 1:
        raise UserError(
            f"{manifests[0].path} and {manifests[1].path} name different classes, or in another "
            "order; index one folder with --val-share, make their .classes.txt equal, or say in "
            "evaluation.class_map which classes mean the same"
        )
    model = config.model.model_copy(update={"num_classes": num_classes})
    config = config.model_copy(update={"model": model})
    if mapped:
        judged_by(config)
    return config


def judged_by(config: RunConfig) -> Judged:
    """What `data.val` and `evaluation.class_map` say is judged.

    Raises `UserError` where the map does not fit the two sets, or leaves no video.
    """
    data, map_path = config.data, config.evaluation.class_map
    val = manifest_for(config, "evaluate")
    if map_path is None:
        assert config.model.num_classes is not None
        every = np.arange(config.model.num_classes)
        return Judged(val, every, every, len(every), "")
    if data.train is None:
        raise UserError(
            f"evaluation.class_map={map_path}: the names of the trained classes stand beside the "
            "manifest they were trained on; set data.train to it"
        )
    trained = read_manifest(data.train)
    for manifest in (trained, val):
        if not manifest.class_names:
            raise UserError(
                f"{manifest.path}: has no class names beside it, so evaluation.class_map cannot "
                f"name them; write one a line into {manifest.path.stem}.classes.txt"
            )
    _fitting_classes(val, None)
    return _mapped(val, read_class_map(map_path, trained.class_names, val.class_names), map_path)


def _mapped(val: Manifest, class_map: ClassMap, map_path: Path) -> Judged:
    """The videos of mapped classes, with their labels in the map's own numbers."""
    numbers = np.full(len(val.class_names), -1, np.int64)
    numbers[list(class_map.of_judged)] = list(class_map.of_judged.values())
    labels = numbers[val.labels]
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise UserError(f"{map_path}: {val.path} holds no video of the judged classes it names")
    counted = replace(val.selected(rows), labels=labels[rows], class_names=class_map.names)
    num_distractors = len(class_map.names) - len(class_map.of_judged)
    return Judged(
        manifest=counted,
        outputs=np.array(list(class_map.of_trained), np.int64),
        classes=np.array(list(class_map.of_trained.values()), np.int64),
        num_classes=len(class_map.names),
        left_out=(
            f"{map_path}: {len(class_map.of_judged)} of the {len(val.class_names)} judged classes "
            f"count, {num_distractors} more may be chosen and are wrong; {len(val) - len(rows)} of "
            f"{len(val)} videos are of other classes and left out"
        ),
    )


def _fitting_classes(manifest: Manifest, num_classes: int | None) -> int:
    path = manifest.path
    if (manifest.labels < 0).any():
        row = int((manifest.labels < 0).argmax())
        raise UserError(
            f"{path}: {manifest[row].path} has no label; index a folder with one sub-folder per "
            "class, or a list with labels"
        )
    named = len(manifest.class_names)
    if named and num_classes not in (None, named):
        raise UserError(
            f"{path}: has {named} class names beside it, and model.num_classes is {num_classes}; "
            "leave that out, or correct the names"
        )
    num_classes = num_classes or named
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
