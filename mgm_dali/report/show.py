"""`mgm-dali show`: pictures of a video, of a manifest's row, or of a run.

motion, masks                    of any clip
reconstruction, attention        of a clip and a network
loss, confusion                  of a run
"""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mgm_dali.config import RunConfig, load_config, override_config
from mgm_dali.data_commands import say
from mgm_dali.errors import UserError
from mgm_dali.masking import MASKS
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.models.weight_files import WeightsError, newest_weights
from mgm_dali.report.charts import draw_confusion, draw_losses
from mgm_dali.report.clip_figures import CLIP_FIGURES, NEEDS_NETWORK, Subject
from mgm_dali.report.clips import as_manifest, chosen_rows, config_for
from mgm_dali.report.network import config_of_weights, open_network
from mgm_dali.report.options import ShowOptions
from mgm_dali.report.saving import save_animation, save_figure
from mgm_dali.report.strips import draw_film, draw_sheet
from mgm_dali.training.metrics import read_metrics
from mgm_dali.video.manifest import read_manifest

__all__ = ["RUN_FIGURES", "show"]

CLIPS_OF_A_RUN = 3
ANIMATIONS = ("gif", "mp4")


def show(source: Path, output: Path, options: ShowOptions | None = None) -> list[Path]:
    """Draws a video file, a manifest's row or a run folder into `output`; what was written.

    Raises `UserError` for a figure that cannot be drawn of it.
    """
    options = options or ShowOptions()
    _require_known("--only", options.figures, (*CLIP_FIGURES, *RUN_FIGURES))
    _require_known("--masks", options.masks, tuple(MASKS))
    _require_known("--animate", [options.animate] if options.animate else [], ANIMATIONS)
    if (source / "config.yaml").is_file():
        return _show_run(source, output, options)
    if source.is_dir():
        raise UserError(f"{source}: is neither a video nor a run folder (it has no config.yaml)")
    if options.row is not None and source.suffix.lower() != ".csv":
        raise UserError(f"--row {options.row}: {source} is no manifest and has no rows")
    _refuse(options, RUN_FIGURES, "is a figure of a run folder; give one as the source")
    if options.weights is None:
        _refuse(options, NEEDS_NETWORK, "needs a network; name one with --weights RUN_OR_FILE")
    with as_manifest(source) as manifest:
        rows = chosen_rows(manifest, options.row or 0, 1)
        base = config_for(read_manifest(manifest)[rows[0]])
        if options.weights is not None:
            base = config_of_weights(options.weights) or base
            # Whatever store the run read, this video need not be in it.
            motion = base.motion.model_copy(update={"source": "codec"})
            base = base.model_copy(update={"motion": motion})
        config = override_config(base, options.overrides)
        network = _network(options.weights, config)
        names = options.figures or ("motion", "masks", *_figures_of(network))
        return _draw_clips(Subject(config, manifest, options, network), rows, names, output)


def _show_run(run: Path, output: Path, options: ShowOptions) -> list[Path]:
    config = load_config(run / "config.yaml", options.overrides)
    written = _draw_run(run, output, options)
    names = [name for name in options.figures if name in CLIP_FIGURES]
    if options.figures and not names:
        return written
    network = None
    if not names or NEEDS_NETWORK & set(names):
        try:
            weights = newest_weights(options.weights or run)
        except WeightsError as error:
            raise UserError(f"{error}; `--only loss,motion,masks` needs none") from None
        network = _network(weights, config)
    manifest = config.data.val or config.data.train
    if manifest is None:
        raise UserError(f"{run}: its config names no manifest; set data.val=videos.csv")
    rows = chosen_rows(manifest, options.row, CLIPS_OF_A_RUN)
    subject = Subject(config, manifest, options, network)
    return written + _draw_clips(subject, rows, names or _figures_of(network), output)


def _draw_run(run: Path, output: Path, options: ShowOptions) -> list[Path]:
    written = []
    for name, (file, draw) in RUN_FIGURES.items():
        there = (run / file).is_file()
        if name in options.figures and not there:
            raise UserError(f"--only {name}: {run} has no {file}, of which it is drawn")
        if there and (name in options.figures or not options.figures):
            save_figure(draw(run), output / f"{name}.png", options.dpi)
            written.append(output / f"{name}.png")
    return written


def _draw_clips(
    subject: Subject, rows: Sequence[int], names: Sequence[str], output: Path
) -> list[Path]:
    written = []
    for number, row in enumerate(rows):
        of_row = replace(subject, row=row, needs_motion=not NEEDS_NETWORK.issuperset(names))
        ending = f"-{number}" if len(rows) > 1 else ""
        for name in names:
            for stem, strip in CLIP_FIGURES[name](of_row).items():
                path = output / f"{stem}{ending}.png"
                save_figure(draw_sheet(strip), path, subject.options.dpi)
                written.append(path)
                if subject.options.animate:
                    path = path.with_suffix(f".{subject.options.animate}")
                    save_animation(draw_film(strip), path)
                    written.append(path)
    return written


def _figures_of(network: Autoencoder | Classifier | None) -> tuple[str, ...]:
    if network is None:
        return ()
    return ("reconstruction", "attention") if isinstance(network, Autoencoder) else ("attention",)


def _network(weights: Path | None, config: RunConfig) -> Autoencoder | Classifier | None:
    if weights is None:
        return None
    network, report = open_network(weights, config)
    for note in report.notes:
        say(f"{report.source}: {note}")
    return network


def _draw_loss(run: Path) -> Figure:
    metrics = read_metrics(run / "metrics.jsonl")
    return draw_losses({run.name: ([m["step"] for m in metrics], [m["loss"] for m in metrics])})


def _draw_confusion(run: Path) -> Figure:
    verdict = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return draw_confusion(np.array(verdict["confusion"]), verdict["class_names"])


RUN_FIGURES: dict[str, tuple[str, Callable[[Path], Figure]]] = {
    "loss": ("metrics.jsonl", _draw_loss),
    "confusion": ("evaluation.json", _draw_confusion),
}
"""The file of a run folder that each is drawn of, and how."""


def _require_known(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            guess = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise UserError(f"{option} {name!r}: is not known; {guess}")


def _refuse(options: ShowOptions, names: Mapping[str, object] | frozenset[str], why: str) -> None:
    for name in options.figures:
        if name in names:
            raise UserError(f"--only {name}: {why}")
