"""`mgm-dali import` and `export`: anyone's weights to ours, and ours to anyone's."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mgm_dali.config import DetectionConfig
from mgm_dali.data_commands import say
from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.models import (
    Autoencoder,
    Classifier,
    Detector,
    LoadReport,
    build_autoencoder,
    build_classifier,
)
from mgm_dali.models.load_report import collapse
from mgm_dali.models.pretrained import take_weights
from mgm_dali.models.recognise import is_classifier, recognise
from mgm_dali.models.saving import export_huggingface, export_videomae, save_weights
from mgm_dali.models.weight_files import read_weights

__all__ = ["EXPORTS", "export_weights", "import_weights"]

Network = Autoencoder | Classifier


def import_weights(source: Path, folder: Path, overrides: Sequence[str] = ()) -> None:
    """Writes anyone's weights as ours: model.safetensors, config.json and weights.csv.

    Nothing is made up: what the file lacks is left out, said, and new in whatever takes the folder.
    Raises `UserError` if the weights cannot be read or recognised, or the folder is not empty.
    """
    _require_new(folder)
    network, report = _open(source, overrides)
    say(f"{report}")
    with _all_or_nothing(folder):
        done = _write_ours(network, report, folder)
    say(done)


def export_weights(source: Path, output: Path, to: str, overrides: Sequence[str] = ()) -> None:
    """Writes weights as others read them: `to` is one of `EXPORTS`.

    Raises `UserError` as `import_weights` does, and if the others have no such network.
    """
    if to not in EXPORTS:
        raise UserError(f"--to {to!r}: expected one of {', '.join(EXPORTS)}")
    _require_new(output)
    if to == "videomae" and output.suffix != ".pth":
        raise UserError(f"{output}: VideoMAE's scripts read a .pth; name one, as weights.pth")
    network, report = _open(source, overrides)
    say(f"{report}")
    if isinstance(network, Detector) and to != "safetensors":
        raise UserError(
            f"{report.source}: is a detector of actions, and its head reads boxes; nobody else has "
            "such a network. Keep it with --to safetensors"
        )
    with _all_or_nothing(output):
        done = EXPORTS[to](network, report, output)
    say(done)


def _write_ours(network: Network, report: LoadReport, folder: Path) -> str:
    state = network.state_dict()
    kept = {name: state[name] for name in report.used}
    path = folder / "model.safetensors"
    write_whole(folder / "weights.csv", report.as_csv())
    save_weights(network, network.config, path, kept, learned_on_images=report.of_images)
    lacks = f"; without {collapse(report.missing, state)}" if report.missing else ""
    return (
        f"{path}: {network.config.name}{lacks}. Start from it with model.init={folder}; "
        "weights.csv beside it has every key"
    )


def _write_huggingface(network: Network, report: LoadReport, folder: Path) -> str:
    _require_whole(report)
    export_huggingface(network, folder)
    kind = "ForPreTraining" if isinstance(network, Autoencoder) else "ForVideoClassification"
    return (
        f'{folder}: load it with transformers.VideoMAE{kind}.from_pretrained("{folder}"); versions '
        "5.5 to 5.17 would lose its biases"
    )


def _write_videomae(network: Network, report: LoadReport, path: Path) -> str:
    _require_whole(report)
    export_videomae(network, path)
    return f"{path}: VideoMAE's run_class_finetuning.py takes it with --finetune {path}"


EXPORTS: dict[str, Callable[[Network, LoadReport, Path], str]] = {
    "huggingface": _write_huggingface,
    "videomae": _write_videomae,
    "safetensors": _write_ours,
}
"""Every form of `--to`: writes it, and says how to load it."""


def _open(source: Path, overrides: Sequence[str]) -> tuple[Network, LoadReport]:
    """The network that the weights are of, with them in it, and what became of each of them."""
    found = read_weights(source)
    config = recognise(found, overrides)
    network: Network
    if found.of_detector and config.num_classes:
        network = Detector(config, config.num_classes, DetectionConfig().box_cells)
    elif is_classifier(found):
        network = build_classifier(config)
    else:
        network = build_autoencoder(config)
    return network, take_weights(network, found)


def _require_new(output: Path) -> None:
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise UserError(f"{output}: is there already, and is not replaced; choose another name")


@contextmanager
def _all_or_nothing(output: Path) -> Iterator[None]:
    """Removes what was written to `output`, which was new, unless all of it could be."""
    was_there = output.is_dir()
    try:
        yield
    except BaseException as error:
        if output.is_dir():
            shutil.rmtree(output, ignore_errors=True)
            if was_there:
                output.mkdir(exist_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"{output}: cannot be written ({error}); nothing of it was kept. Free some space, "
                "or choose another place, and run the same command"
            ) from None
        raise


def _require_whole(report: LoadReport) -> None:
    if report.missing:
        raise UserError(
            f"{report.source}: lacks {collapse(report.missing, report.used + report.missing)}, "
            "which would have to be made up; train it first, or keep what there is with "
            "--to safetensors"
        )
