"""`mgm-dali show`: pictures of a video, of a manifest's row, or of a run.

motion, masks                    of any clip
reconstruction, attention        of a clip and a network
loss, confusion                  of a run
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from mgm_dali.config import RunConfig, load_config, override_config
from mgm_dali.data_commands import say
from mgm_dali.errors import UserError
from mgm_dali.masking import MASKS
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.models.weight_files import newest_weights
from mgm_dali.models.written_for import WeightsError
from mgm_dali.report.charts import draw_losses
from mgm_dali.report.clip_figures import (
    CLIP_FIGURES,
    NEEDS_NETWORK,
    Subject,
    check_network,
)
from mgm_dali.report.clips import as_manifest, chosen_rows, config_for
from mgm_dali.report.evaluation import evaluation_figure
from mgm_dali.report.network import config_of_weights, name_of_weights, open_network
from mgm_dali.report.options import ShowOptions
from mgm_dali.report.saving import save_animation, save_figure
from mgm_dali.report.strips import draw_film, draw_sheet
from mgm_dali.training.metrics import read_steps
from mgm_dali.video.manifest import read_manifest

__all__ = ["RUN_FIGURES", "show"]

CLIPS_OF_A_RUN = 3
ANIMATIONS = ("gif", "mp4")
USED_BY = {
    "row": tuple(CLIP_FIGURES),
    "animate": tuple(CLIP_FIGURES),
    "masks": ("masks",),
    "seed": ("masks", "reconstruction"),
    "leak_statistics": ("reconstruction",),
    "layer": ("attention",),
    "query": ("attention",),
}
"""The figures that an option changes; where none of them is drawn, it is refused."""


def show(source: Path, output: Path, options: ShowOptions | None = None) -> list[Path]:
    """Draws a video file, a manifest's row or a run folder into `output`; what was written.

    Raises `UserError` for a figure that cannot be drawn of it, and for an option without effect.
    """
    options = _checked(options or ShowOptions())
    _require_folder(output)
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
        subject = Subject(config, manifest, options, *_network(options.weights, config))
        names = options.figures or ("motion", "masks", *_figures_of(subject.network))
        _require_used(options, names)
        return _draw_clips(_subjects(subject, rows, names), names, output)


def _show_run(run: Path, output: Path, options: ShowOptions) -> list[Path]:
    """Nothing is written before all that can be wrong was looked at."""
    config = load_config(run / "config.yaml", options.overrides)
    charts = _charts_of(run, options.figures)
    names = tuple(name for name in options.figures or () if name in CLIP_FIGURES)
    weights = None
    if options.figures is None or NEEDS_NETWORK & set(names):
        try:
            weights = newest_weights(options.weights or run)
        except WeightsError as error:
            raise UserError(f"{error}; `--only loss,motion,masks` needs none") from None
    network, whose = _network(weights, config)
    if options.figures is None:
        names = _figures_of(network)
    _require_used(options, names)
    subjects = []
    if names:
        manifest = config.data.val or config.data.train
        if manifest is None:
            raise UserError(f"{run}: its config names no manifest; set data.val=videos.csv")
        rows = chosen_rows(manifest, options.row, CLIPS_OF_A_RUN)
        subjects = _subjects(Subject(config, manifest, options, network, whose), rows, names)
    written = []
    drawn = {name: RUN_FIGURES[name][1](run) for name in charts}  # all of them, before one is kept
    for name, figure in drawn.items():
        save_figure(figure, output / f"{name}.png", options.dpi)
        written.append(output / f"{name}.png")
    return written + _draw_clips(subjects, names, output)


def _charts_of(run: Path, figures: Sequence[str] | None) -> list[str]:
    """Of RUN_FIGURES those asked for, or those that there are."""
    charts = []
    for name, (file, _) in RUN_FIGURES.items():
        there = (run / file).is_file()
        if name in (figures or ()) and not there:
            raise UserError(f"--only {name}: {run} has no {file}, of which it is drawn")
        if there and (figures is None or name in figures):
            charts.append(name)
    return charts


def _subjects(subject: Subject, rows: Sequence[int], names: Sequence[str]) -> list[Subject]:
    """One for each row, read and fit for these figures."""
    check_network(subject, names)
    needs_motion = not NEEDS_NETWORK.issuperset(names)
    subjects = [replace(subject, row=row, needs_motion=needs_motion) for row in rows]
    for of_row in subjects:
        _ = of_row.clip
    return subjects


def _draw_clips(subjects: Sequence[Subject], names: Sequence[str], output: Path) -> list[Path]:
    written = []
    for number, subject in enumerate(subjects):
        ending = f"-{number}" if len(subjects) > 1 else ""
        for name in names:
            for stem, strip in CLIP_FIGURES[name](subject).items():
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


def _network(
    weights: Path | None, config: RunConfig
) -> tuple[Autoencoder | Classifier | None, str]:
    """The network, and whose it is in words."""
    if weights is None:
        return None, ""
    network, report = open_network(weights, config)
    for note in report.notes:
        say(f"{report.source}: {note}")
    return network, name_of_weights(report.source)


def _draw_loss(run: Path) -> Figure:
    metrics = read_steps(run / "metrics.jsonl")
    return draw_losses({run.name: ([m["step"] for m in metrics], [m["loss"] for m in metrics])})


RUN_FIGURES: dict[str, tuple[str, Callable[[Path], Figure]]] = {
    "loss": ("metrics.jsonl", _draw_loss),
    "confusion": ("evaluation.json", evaluation_figure),
}
"""The file of a run folder that each is drawn of, and how."""


def _checked(options: ShowOptions) -> ShowOptions:
    """With known names, each once, and the seed among the overrides."""
    figures = _known_once("--only", options.figures, (*CLIP_FIGURES, *RUN_FIGURES))
    masks = _known_once("--masks", options.masks, tuple(MASKS))
    _known_once("--animate", options.animate and [options.animate], ANIMATIONS)
    overrides = tuple(options.overrides)
    if options.seed is not None:
        for override in overrides:
            if override.partition("=")[0].strip() == "seed":
                raise UserError(f"--seed {options.seed}: {override} is given too; leave one out")
        overrides = (*overrides, f"seed={options.seed}")
    return replace(options, figures=figures, masks=masks, overrides=overrides)


def _known_once(
    option: str, names: Sequence[str] | None, known: Sequence[str]
) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not names:
        raise UserError(f"{option}: names nothing; known: {', '.join(known)}")
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            guess = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise UserError(f"{option} {name!r}: is not known; {guess}")
    return tuple(dict.fromkeys(names))


def _require_used(options: ShowOptions, names: Sequence[str]) -> None:
    for option, figures in USED_BY.items():
        value = getattr(options, option)
        given = value is not None and value is not False  # 0 is given, and equals False
        if given and not set(figures) & set(names):
            words = "" if value is True else f" {_as_typed(value)}"
            raise UserError(
                f"--{option.replace('_', '-')}{words}: no {' or '.join(figures)} is drawn; leave "
                f"it out, or ask for one with --only {figures[0]}"
            )


def _as_typed(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _require_folder(output: Path) -> None:
    there = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"-o {output}: -o must be a folder, and {there} is a file")


def _refuse(options: ShowOptions, names: Mapping[str, object] | frozenset[str], why: str) -> None:
    for name in options.figures or ():
        if name in names:
            raise UserError(f"--only {name}: {why}")
