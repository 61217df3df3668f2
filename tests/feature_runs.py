"""Short runs for the tests of features and probes: small weights, few videos, one process."""

from pathlib import Path
from typing import Any

import torch
from networks import randomised
from training_runs import config_for

from mgm_dali.config import RunConfig
from mgm_dali.models import build_autoencoder, build_classifier
from mgm_dali.models.saving import save_weights
from mgm_dali.training.feature_store import FeatureTable
from mgm_dali.training.features import plan_features, splits_of
from mgm_dali.training.frozen import open_encoder
from mgm_dali.training.log import RunLog
from mgm_dali.training.world import World
from mgm_dali.video.manifest import read_manifest, write_manifest

__all__ = [
    "ALONE",
    "PROBE",
    "SIDE",
    "config_with",
    "made",
    "one_of_each_class",
    "probe_config",
    "write_networks",
]

ALONE = World(0, 1, torch.device("cpu"))
SIDE = 2
"""Tokens of a slice that are kept are so many by so many."""
PROBE = {
    "held_out_share": 0.3,
    "train_segments": 1,
    "linear": {"epochs": 2, "sgd_rates": [0.1], "lars_rates": [6.4], "weight_decays": [0.0]},
    "attentive": {"epochs": 1, "rates": [1e-3], "weight_decays": [0.01], "tokens_per_side": 1},
    "knn": {"neighbours": [1, 3]},
}
"""Every kind of probe, as short as can be."""


def one_of_each_class(manifest: Path) -> Path:
    """Beside it, a manifest of the first video of each class: eight."""
    found = read_manifest(manifest)
    path = manifest.with_name("eight.csv")
    write_manifest(path, [found[row] for row in range(0, 24, 3)], found.class_names)
    return path


def write_networks(folder: Path) -> dict[str, Path]:
    """An autoencoder and a classifier that have learned nothing, with no weight at its start."""
    model = config_for(Path(), folder).model
    with_head = model.model_copy(update={"num_classes": 8})
    files = {kind: folder / kind / "weights.safetensors" for kind in ("autoencoder", "classifier")}
    for path in files.values():
        path.parent.mkdir()
    torch.manual_seed(0)
    save_weights(randomised(build_autoencoder(model)), model, files["autoencoder"])
    save_weights(randomised(build_classifier(with_head)), with_head, files["classifier"])
    return files


def config_with(
    manifest: Path,
    output: Path,
    init: Path,
    *,
    kinds: tuple[str, ...] = ("linear",),
    **sections: Any,
) -> RunConfig:
    """Two views of each video of the manifest, which is both splits."""
    config = config_for(manifest, output)
    model = config.model.model_copy(update={"init": init, "num_classes": 8})
    probe = {"kinds": kinds, "train_segments": 2, "attentive": {"tokens_per_side": SIDE}}
    values = config.model_dump() | {"model": model.model_dump(), "probe": probe}
    return RunConfig.model_validate(values | sections)


def probe_config(manifest: Path, output: Path, init: Path, **probe: Any) -> RunConfig:
    """One view of each video of the manifest, which is both splits; `PROBE` and what is given."""
    config = config_for(manifest, output)
    model = config.model.model_copy(update={"init": init})
    values = config.model_dump() | {"model": model.model_dump(), "probe": PROBE | probe}
    values["evaluation"]["num_segments"] = 1
    return RunConfig.model_validate(values)


def made(config: RunConfig, world: World = ALONE) -> tuple[list[FeatureTable], str]:
    """Tables of train and val, and what was said."""
    encoder = open_encoder(config, ALONE)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    makers = plan_features(splits_of(config), encoder, world, lambda _: None)
    with RunLog(config.output_dir, 0, 1) as log:
        done = 0
        for maker in makers:
            done = maker.make(log, done, lambda _: None)
    assert done == sum(maker.num_forwards for maker in makers)
    said = "\n".join(line for maker in makers for line in maker.said)
    return [maker.table() for maker in makers], said
