"""The network that a picture is asked of: which one the weights are, and how it was trained."""

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
    load_pretrained,
)
from mgm_dali.models.weight_files import CONFIG_NAME, read_model_config, read_weights

__all__ = ["config_of_weights", "open_network"]

CLASSES_NOT_LOOKED_AT = 2


def config_of_weights(weights: Path) -> RunConfig | None:
    """The run's configuration, or one with the model's that lies beside a file of ours.

    None where neither is there: official weights do not tell. Raises `UserError` if there are no
    weights.
    """
    if not weights.exists():
        raise UserError(f"--weights {weights}: no such run folder or file")
    if (weights / "config.yaml").is_file():
        return load_config(weights / "config.yaml")
    if weights.suffix != ".safetensors" or not _is_ours(weights):
        return None
    return RunConfig(model=read_model_config(weights.with_name(CONFIG_NAME)))


def open_network(weights: Path, config: RunConfig) -> tuple[Autoencoder | Classifier, LoadReport]:
    """The network in evaluation mode: an autoencoder if the file holds a decoder.

    Raises `WeightsError` if the weights cannot be read or do not fit `config.model`.
    """
    tensors = read_weights(weights).tensors
    network: Autoencoder | Classifier
    if any(name.startswith("decoder.") for name in tensors):
        network = build_autoencoder(config.model)
    else:
        head = tensors.get("head.weight")
        num_classes = CLASSES_NOT_LOOKED_AT if head is None else len(head)
        network = build_classifier(config.model.model_copy(update={"num_classes": num_classes}))
    return network.eval(), load_pretrained(network, weights)


def _is_ours(weights: Path) -> bool:
    try:
        with safe_open(weights, "pt") as file:
            return "network" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False  # reading it will say why
