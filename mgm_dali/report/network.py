"""The network that a picture is asked of: which one the weights are, and how it was trained."""

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mgm_dali.config import RunConfig, load_config
from mgm_dali.errors import UserError
from mgm_dali.models import (
    Autoencoder,
    Classifier,
    LoadReport,
    build_autoencoder,
    build_classifier,
)
from mgm_dali.models.pretrained import take_weights
from mgm_dali.models.recognise import count_classes
from mgm_dali.models.weight_files import CONFIG_NAME, newest_weights, read_weights
from mgm_dali.models.written_for import read_model_config

__all__ = ["config_of_weights", "name_of_weights", "open_network"]

CLASSES_NOT_LOOKED_AT = 2


def config_of_weights(weights: Path) -> RunConfig | None:
    """The configuration of the run that the weights are of, or one of their size alone.

    The size is what lies beside a file of ours. None where neither is there: official weights do
    not tell. Raises `UserError` if there are no weights.
    """
    if not weights.exists():
        raise UserError(f"--weights {weights}: no such run folder or file")
    if (weights / "config.yaml").is_file():
        return load_config(weights / "config.yaml")
    file = newest_weights(weights)
    if file.suffix != ".safetensors" or not _is_ours(file):
        return None
    model, run = read_model_config(file.with_name(CONFIG_NAME)), _run_of(file)
    if (run / "config.yaml").is_file():
        return load_config(run / "config.yaml").model_copy(update={"model": model})
    return RunConfig(model=model)


def name_of_weights(file: Path) -> str:
    """`RUN, step 100` for weights in a run folder, else the file and its folder."""
    step = re.fullmatch(r"step-(\d+)(-ema)?\.safetensors", file.name)
    if step and file.absolute().parent.name == "weights":
        return f"{_run_of(file).name}, step {step[1]}{', moving average' if step[2] else ''}"
    return f"{file.absolute().parent.name}/{file.name}"


def open_network(weights: Path, config: RunConfig) -> tuple[Autoencoder | Classifier, LoadReport]:
    """The network in evaluation mode: an autoencoder if the file holds a decoder.

    Raises `WeightsError` if the weights cannot be read or do not fit `config.model`.
    """
    found = read_weights(weights)
    network: Autoencoder | Classifier
    if any(name.startswith("decoder.") for name in found.tensors):
        network = build_autoencoder(config.model)
    else:
        num_classes = count_classes(found) or CLASSES_NOT_LOOKED_AT
        network = build_classifier(config.model.model_copy(update={"num_classes": num_classes}))
    return network.eval(), take_weights(network, found)


def _run_of(file: Path) -> Path:
    """The folder that would be the run's, as RUN/weights/step-1.safetensors."""
    return file.absolute().parent.parent


def _is_ours(weights: Path) -> bool:
    try:
        with safe_open(weights, "pt") as file:
            return "network" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False  # reading it will say why
