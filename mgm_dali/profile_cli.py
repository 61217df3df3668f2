"""The command `profile`, as `cli.py` offers it."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["profile"]


class _Trained(str, Enum):
    """Stages of training, as --stage names them."""

    pretrain = "pretrain"
    finetune = "finetune"


def profile(
    config: Annotated[Path, typer.Argument(help="YAML file; ready ones are in configs/.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as data.num_workers=4."),
    ] = None,
    stage: Annotated[_Trained, typer.Option(help="What is profiled.")] = _Trained.pretrain,
    seconds: Annotated[float, typer.Option(min=5, help="Spent on measuring, about.")] = 60,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Try all values of overrides as workers=1,2,4 instead."),
    ] = False,
    plan: Annotated[
        list[str] | None,
        typer.Option(help='Hours, cores, storage of "8xH100 K400 800 epochs"; several are fine.'),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; else OUTPUT_DIR/profile.")
    ] = None,
) -> None:
    """Measures every part of a run, alone and together: what bounds it, and what would help."""
    from mgm_dali.config import load_config
    from mgm_dali.profile_command import run_profile, run_sweep
    from mgm_dali.profiling.planning import read_plan

    if sweep and plan:
        raise typer.BadParameter("--plan needs a whole profile; leave out --sweep")
    asked = [read_plan(text) for text in plan or ()]
    if sweep:
        run_sweep(config, overrides or (), stage.value, seconds, output)
    else:
        settings = load_config(config, overrides or ())
        run_profile(settings, stage.value, seconds, output, asked)
