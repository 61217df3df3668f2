"""The command line: `mgm-dali COMMAND`.

Every command is one function here that reads its arguments and calls the part that does the work;
that part is imported inside it, so that `mgm-dali --help` does not wait for PyTorch.

Exit status: 0 done; 1 the input or the machine is at fault, said in one line; 2 wrong usage.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mgm_dali import __version__
from mgm_dali.data_cli import Workers, extract, index, prepare
from mgm_dali.errors import Stopped, UserError
from mgm_dali.launcher import rank_and_world_size
from mgm_dali.profile_cli import profile

__all__ = ["app", "main"]

app = typer.Typer(
    name="mgm-dali",
    help="Motion-guided masking for video masked autoencoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigFile = Annotated[Path, typer.Argument(help="YAML file; ready ones are in configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as mask.ratio=0.9."),
]
ModelOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="What nothing tells, as model.num_frames=16."),
]


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    local_rank: Annotated[int, typer.Option("--local_rank", hidden=True)] = 0,
) -> None:
    del local_rank  # DeepSpeed's launcher passes it; the environment says the same
    if version:
        typer.echo(f"mgm-dali {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
) -> None:
    """Makes small videos, pretrains, finetunes, evaluates, and writes a report with pictures."""
    from mgm_dali.demo import run_demo

    run_demo(out)


@app.command()
def doctor() -> None:
    """Says what this machine can do, and how to mend what it cannot."""
    from mgm_dali.doctor import run_doctor

    run_doctor()


for command in (index, prepare, extract, profile):
    app.command()(command)


@app.command()
def pretrain(config: ConfigFile, overrides: Overrides = None) -> None:
    """Pretrains an autoencoder; started again, it goes on where it stopped."""
    from mgm_dali.config import load_config
    from mgm_dali.training.pretrain import pretrain as run

    run(load_config(config, overrides or ()))


@app.command()
def finetune(config: ConfigFile, overrides: Overrides = None) -> None:
    """Finetunes a classifier and judges it on data.val."""
    from mgm_dali.config import load_config
    from mgm_dali.training.finetune import finetune as run

    settings = load_config(config, overrides or ())
    run(settings)
    if settings.data.val:
        _draw_evaluation(settings.output_dir)


@app.command()
def evaluate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Judges the weights of output_dir (or model.init) on data.val, multi-view."""
    from mgm_dali.config import load_config
    from mgm_dali.training.evaluate import evaluate as run

    settings = load_config(config, overrides or ())
    run(settings)
    _draw_evaluation(settings.output_dir)


@app.command()
def probe(config: ConfigFile, overrides: Overrides = None) -> None:
    """Judges the frozen encoder of model.init by linear, attentive and nearest-neighbour probes."""
    from mgm_dali.config import load_config
    from mgm_dali.probe_command import run_probe

    run_probe(load_config(config, overrides or ()))


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array, for programs.")] = False,
) -> None:
    """Lists the training runs below a folder: state, step, loss, speed, time left."""
    from mgm_dali.runs_command import list_runs

    list_runs(folder, as_json=as_json)


@app.command()
def saliency(
    manifest: Annotated[Path, typer.Argument(help="Manifest made by `index`.")],
    boxes: Annotated[
        Path, typer.Argument(metavar="BOXES.csv", help="Columns path,frame,x0,y0,x1,y1.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV with a line for each video.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="codec (default), store, or another source of motion.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Folder of the motion store.")] = None,
    subtract_camera: Annotated[
        bool, typer.Option("--subtract-camera", help="Measure motion relative to the camera.")
    ] = False,
    workers: Workers = 2,
) -> None:
    """Measures how much stronger motion is in bounding boxes than outside of them."""
    from mgm_dali.saliency_command import MotionChoice, measure_saliency

    source = source or ("store" if store else "codec")
    motion = MotionChoice(source, store, subtract_camera)
    measure_saliency(manifest, boxes, motion, output, workers)


@app.command()
def show(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Video, manifest CSV or run folder.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")],
    overrides: Overrides = None,
    only: Annotated[
        str | None,
        typer.Option(help="Of motion, masks, reconstruction, attention, loss, confusion."),
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="Strategies to compare, as tube,motion_guided; else all.")
    ] = None,
    row: Annotated[int | None, typer.Option(min=0, help="Row of the manifest.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Run folder or file: draws what its network makes of it.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=1, help="Layer whose attention is drawn; else the last.")
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="Token that looks, as SLICE,ROW,COLUMN; else the middle.")
    ] = None,
    animate: Annotated[str | None, typer.Option(help="gif or mp4, beside each PNG.")] = None,
    dpi: Annotated[int, typer.Option(min=50, max=600, help="Of the PNGs.")] = 200,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the masks.")] = None,
    leak_statistics: Annotated[
        bool,
        typer.Option(help="Borrow the hidden patches' true brightness and contrast."),
    ] = False,
) -> None:
    """Draws motion, masks, reconstructions, attention and losses of a video or a run."""
    from mgm_dali.report.options import ShowOptions
    from mgm_dali.report.show import show as run

    options = ShowOptions(
        overrides=overrides or (),
        seed=seed,
        figures=_names(only),
        masks=_names(masks),
        row=row,
        weights=weights,
        layer=layer,
        query=_token(query),
        leak_statistics=leak_statistics,
        animate=animate,
        dpi=dpi,
    )
    for path in run(source, output, options):
        typer.echo(path)


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Weights of anyone: a file or a folder.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for them as ours.")],
    overrides: ModelOverrides = None,
) -> None:
    """Turns weights of VideoMAE, Hugging Face, timm or DINOv2 into ours; every key is reported."""
    from mgm_dali.weights_commands import import_weights

    import_weights(source, output, overrides or ())


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Run folder, or any weights that are read.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder; for videomae a new .pth.")
    ],
    to: Annotated[str, typer.Option("--to", help="huggingface, videomae or safetensors.")],
    overrides: ModelOverrides = None,
) -> None:
    """Writes weights as transformers, VideoMAE's scripts or plain PyTorch read them."""
    from mgm_dali.weights_commands import export_weights

    export_weights(source, output, to, overrides or ())


def _draw_evaluation(output: Path) -> None:
    """RUN/confusion.png, by the rank that has written the numbers."""
    from mgm_dali.report.evaluation import save_evaluation_figure

    rank, _ = rank_and_world_size()
    if rank == 0:
        save_evaluation_figure(output)


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(name for name in text.replace(" ", "").split(",") if name)


def _token(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        place, row, column = (int(part) for part in text.split(","))
    except ValueError:
        message = f"{text!r} is not SLICE,ROW,COLUMN, three numbers from 0"
        raise typer.BadParameter(message, param_hint="--query") from None
    return place, row, column


def main() -> None:
    """The entry point: turns a user's error into one line and status 1."""
    # Idle OpenMP threads spin by default, and take the cores from the processes that decode: on
    # two cores a training step became four to ten times slower. Read when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except Stopped as stopped:
        sys.exit(stopped.status)  # the log has said why
    except OSError as error:
        if error.filename is None:  # not about a file that somebody named
            raise
        _fail(f"{error.filename}: {error.strerror}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("nvidia", "deepspeed"):
            raise
        _fail(f"{error.name} is not installed; `mgm-dali doctor` says how to get it")
    except SystemExit as left:
        if left.code == 130:  # what typer makes of Ctrl-C
            typer.echo("interrupted; the same command goes on from the last checkpoint", err=True)
        raise


def _fail(message: str) -> NoReturn:
    try:
        rank, _ = rank_and_world_size()
    except UserError:
        rank = 0  # the message may be that nobody knows
    typer.echo(f"{f'[rank {rank}] ' if rank else ''}error: {message}", err=True)
    sys.exit(1)
