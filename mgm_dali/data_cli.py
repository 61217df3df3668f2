"""The commands that make data ready: `index`, `prepare` and `extract`, as `cli.py` offers them."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Workers", "extract", "index", "prepare"]

Workers = Annotated[int, typer.Option("--workers", "-j", min=1, help="Processes.")]


def index(
    source: Annotated[Path, typer.Argument(help="Folder (class = sub-folder) or list file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.")],
    val_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share split off into OUTPUT's -val twin.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    layout: Annotated[
        str | None,
        typer.Option(
            help="By official lists: kinetics, ssv2, ucf101, hmdb51, diving48 or videomae."
        ),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of the official lists; by default SOURCE.")
    ] = None,
    split: Annotated[int, typer.Option(min=1, max=3, help="Of ucf101 and hmdb51.")] = 1,
    workers: Workers = 2,
) -> None:
    """Opens every video of a folder or list and writes a manifest; bad files are listed apart."""
    from mgm_dali import data_commands

    if layout is None:
        if annotations is not None or split != 1:
            raise typer.BadParameter("--annotations and --split go with --layout")
        data_commands.index_videos(
            source, output, val_share=val_share, seed=seed, num_workers=workers
        )
        return
    if val_share:
        raise typer.BadParameter("--val-share splits folders; official lists say what is val")
    data_commands.index_lists(source, output, layout, annotations, split=split, num_workers=workers)


def prepare(
    manifest: Annotated[Path, typer.Argument(help="Manifest made by `index`.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for all that is made.")],
    short_side: Annotated[int, typer.Option(help="Pixels, a multiple of 16; 256 or 320.")] = 256,
    gop: Annotated[
        int, typer.Option(help="Frames from key frame to key frame; 12 to 32 is sensible.")
    ] = 16,
    crf: Annotated[int, typer.Option(help="Quality of libx264, 1 (best) to 51.")] = 20,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second; by default each video keeps its rate.")
    ] = None,
    workers: Workers = 2,
) -> None:
    """Transcodes the videos of a manifest to H.264 made for training; resumable."""
    from mgm_dali.data_commands import prepare_videos
    from mgm_dali.video.transcoding import TranscodeSettings

    settings = TranscodeSettings(short_side, gop, crf, fps)
    prepare_videos(manifest, output, settings, num_workers=workers)


def extract(
    manifest: Annotated[Path, typer.Argument(help="Manifest made by `index`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the motion store.")],
    source: Annotated[
        str | None,
        typer.Option(help="codec (default), block_matching, dis_flow, optical_flow (GPU) or raft."),
    ] = None,
    without_vectors: Annotated[
        str | None,
        typer.Option(
            help="Videos without codec vectors: error (default), block_matching, dis_flow, ignore."
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of --source raft.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every record instead; status 1 if any is bad.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check, and extract what is damaged or missing.")
    ] = False,
    workers: Workers = 2,
) -> None:
    """Reads the motion of every video once and keeps it in a store; resumable."""
    from mgm_dali import data_commands

    if verify and (repair or source or without_vectors or weights):
        raise typer.BadParameter("--verify looks at a store as it is; give it no other option")
    if verify:
        data_commands.verify_motion(manifest, output, num_workers=workers)
        return
    recipe = data_commands.choose_recipe(output, source, without_vectors, weights)
    if repair:
        data_commands.repair_motion(manifest, output, recipe, num_workers=workers)
    else:
        data_commands.extract_motion(manifest, output, recipe, num_workers=workers)
