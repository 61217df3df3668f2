"""`index`, `extract` and `prepare`: the work with a progress bar around it, and a summary."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mgm_dali.errors import UserError
from mgm_dali.files import csv_text, require_writable, write_whole
from mgm_dali.in_words import printable
from mgm_dali.index_table import print_index_table
from mgm_dali.launcher import rank_and_world_size
from mgm_dali.motion.extract import ExtractReport, extract
from mgm_dali.motion.presence import carries_vectors
from mgm_dali.motion.recipe import Recipe
from mgm_dali.motion.store import MotionStore
from mgm_dali.motion.verify import FINDINGS, MENDED_BY_EXTRACTION, VerifyReport, verify
from mgm_dali.video.indexing import IndexReport, index_files, index_source, split_train_val
from mgm_dali.video.layouts import read_layout
from mgm_dali.video.listed import find_listed
from mgm_dali.video.manifest import read_manifest, write_manifest
from mgm_dali.video.prepare import PrepareReport, prepare
from mgm_dali.video.transcoding import TranscodeSettings, encoder_identity

__all__ = [
    "choose_recipe",
    "extract_motion",
    "index_lists",
    "index_videos",
    "prepare_videos",
    "progress_bar",
    "repair_motion",
    "say",
    "verify_motion",
]

console = Console(stderr=True)


def index_videos(
    source: Path, output: Path, *, val_share: float = 0.0, seed: int = 0, num_workers: int = 2
) -> None:
    """Writes `output` (and `<stem>-val.csv`), and `<stem>-rejected.csv` if files are bad.

    Raises `UserError` if nothing in `source` is a readable video.
    """
    require_writable(output)
    with progress_bar("indexing") as advance:
        report = index_source(
            source, num_workers=num_workers, carries_vectors=carries_vectors, progress=advance
        )
    _say_what_was_found(report, output)
    if report.ignored:
        say(f"{report.ignored} file(s) ignored: they do not have the suffix of a video")
    if not report.videos:
        raise UserError(f"{source}: none of its files is a readable video; nothing was written")
    train, val = split_train_val(report.videos, val_share, seed)
    if val_share:
        write_manifest(output.with_name(f"{output.stem}-val.csv"), val, report.class_names)
    write_manifest(output, train, report.class_names)
    say(
        f"{len(train)} videos in {output}"
        + (f", {len(val)} in {output.stem}-val.csv" if val else "")
        + f"; {len(report.class_names)} classes"
    )


def index_lists(
    source: Path,
    output: Path,
    layout: str,
    annotations: Path | None = None,
    *,
    split: int = 1,
    num_workers: int = 2,
) -> None:
    """Writes `output` for the training videos of a data set's official lists, and its twins.

    `<stem>-val.csv` and `<stem>-test.csv` hold the other lists, where there are any; the classes of
    all are the same, in the same order. `<stem>-missing.csv` names listed videos that are not in
    the folder `source`, `<stem>-rejected.csv` those that cannot be read.

    Raises `UserError` if a list is missing or malformed, if an older manifest would stay among the
    new ones, or, when the others are written, if no training video is there and readable.
    """
    require_writable(output)
    annotations = annotations or source
    if os.path.realpath(output.parent) == os.path.realpath(annotations):
        raise UserError(f"{output}: would lie among the official lists; write it to another folder")
    lists = read_layout(layout, annotations, split)
    found = find_listed(source, lists)
    for part, files in found.parts.items():
        say(f"{part}: {len(files)} of {len(getattr(lists, part))} listed videos are there")
    missing = output.with_name(f"{output.stem}-missing.csv")
    _list_bad_files(missing, found.missing, "listed video(s) are not taken")
    if found.not_taken:
        say(f"{found.not_taken} other video(s) below {source} are not taken")
    twins = {part: output.with_name(f"{output.stem}-{part}.csv") for part in ("val", "test")}
    tables = {"train": output, **twins}
    _refuse_older(tables, found.parts)
    unique = {path: None for files in found.parts.values() for path, _ in files}
    with progress_bar("indexing") as advance:
        report = index_files(
            list(unique.items()),
            num_workers=num_workers,
            carries_vectors=carries_vectors,
            progress=advance,
        )
    _say_what_was_found(report, output)
    videos = {video.path: video for video in report.videos}
    parts = {
        part: [replace(videos[path], label=label) for path, label in files if path in videos]
        for part, files in found.parts.items()
    }
    _refuse_older(tables, parts)
    for part, rows in parts.items():
        table = tables[part]
        if rows:
            write_manifest(table, rows, lists.class_names)
        say(f"{len(rows)} videos in {table}" if rows else f"no {part} video: {table} not written")
    shared = {row.path for row in parts["train"]} & {row.path for row in parts.get("val", [])}
    if shared:
        say(f"{len(shared)} video(s) are in train and val, such as {min(shared)}")
    say(f"{len(lists.class_names)} classes" if lists.class_names else "the classes have no names")
    if not parts["train"]:
        raise UserError(f"{source}: holds no readable video of the training list, see above")


def _refuse_older(tables: Mapping[str, Path], parts: Mapping[str, Sequence[object]]) -> None:
    """Manifests of an earlier call beside those of this one would be taken for theirs."""
    for part, table in tables.items():
        if not parts.get(part) and table.exists():
            why = f"is of an earlier call, and now there is no {part} video"
            raise UserError(f"{table}: {why}; remove it, or choose another --output")


def choose_recipe(
    store: Path, source: str | None, without_vectors: str | None, weights: Path | None
) -> Recipe:
    """What is not said is as the store was begun; a new store takes codec vectors alone.

    Raises `UserError` if the choices do not go together.
    """
    begun = MotionStore(store).choices if (store / "store.json").exists() else {}
    source = source or begun.get("source", "codec")
    if source == begun.get("source"):
        without_vectors = without_vectors or begun.get("without_vectors")
    return Recipe(source, without_vectors or "error", weights)


def extract_motion(
    manifest: Path,
    output: Path,
    recipe: Recipe,
    *,
    again: Set[Path] = frozenset(),
    num_workers: int = 2,
) -> ExtractReport:
    """Fills the motion store; under deepspeed, torchrun or srun each rank takes its share.

    Videos of `again` get a new record, though they have one. Raises `UserError` if not a single
    video gave its motion.
    """
    rank, world_size = rank_and_world_size()
    began = time.perf_counter()
    with progress_bar("extracting motion") as advance:
        report = extract(
            read_manifest(manifest),
            output,
            recipe,
            num_workers=num_workers,
            again=again,
            share=(rank, world_size),
            progress=advance,
        )
    _list_bad_files(output / f"failed-{rank}.csv", report.failed, "file(s) failed")
    counted = ", ".join(f"{count} {codec}" for codec, count in report.without_vectors.items())
    say(
        f"motion of {report.written} videos written to {output}, {report.already_there} were there"
        + (f"; without codec vectors ({recipe.without_vectors}): {counted}" if counted else "")
    )
    if report.written:
        kilobytes = report.written_bytes / report.written / 1e3
        rate = report.written / (time.perf_counter() - began)
        say(f"{kilobytes:.0f} kB a video, {rate:.1f} videos a second")
    if report.failed and not report.written and not report.already_there:
        raise UserError(f"{manifest}: the motion of none of its videos could be read; see above")
    return report


def verify_motion(manifest: Path, output: Path, *, num_workers: int = 2) -> None:
    """Checks every record of the motion store; each rank checks its share.

    Raises `UserError` if the store is not whole.
    """
    if sum(map(len, _findings(manifest, output, num_workers).found.values())):
        raise UserError(
            f"{output}: is not whole, see above; `mgm-dali extract {manifest} -o {output} "
            "--repair` replaces what is damaged and adds what is missing"
        )


def repair_motion(manifest: Path, output: Path, recipe: Recipe, *, num_workers: int = 2) -> None:
    """Checks the motion store, and extracts what is damaged or missing; what is sound stays.

    Raises `UserError` if the store is not whole then, or cannot be made so here.
    """
    recipe.require()
    found = _findings(manifest, output, num_workers).found
    damaged = {path for path, _ in found["damaged"]}
    report = extract_motion(manifest, output, recipe, again=damaged, num_workers=num_workers)
    beyond = {name: bad for name, bad in found.items() if bad and name not in MENDED_BY_EXTRACTION}
    if report.failed or beyond:
        what = [f"{len(bad)} {FINDINGS[name]}" for name, bad in beyond.items()]
        what += [f"{len(report.failed)} failed"] if report.failed else []
        raise UserError(f"{output}: is not whole yet: {'; '.join(what)}")


def _say_what_was_found(report: IndexReport, output: Path) -> None:
    rejected = output.with_name(f"{output.stem}-rejected.csv")
    _keep_table(rejected, report.rejected)
    print_index_table(report, console)
    if report.rejected:
        say(f"each of the {len(report.rejected)} unusable file(s) with its reason: {rejected}")


def _findings(manifest: Path, output: Path, num_workers: int) -> VerifyReport:
    rank, world_size = rank_and_world_size()
    with progress_bar("verifying") as advance:
        report = verify(
            read_manifest(manifest),
            output,
            num_workers=num_workers,
            share=(rank, world_size),
            progress=advance,
        )
    say(
        f"{report.sound} records are sound, {report.compared} of them made anew and equal"
        + (f"; none was made anew: {report.not_compared}" if report.not_compared else "")
    )
    for name, bad in report.found.items():
        _list_bad_files(output / f"{name}-{rank}.csv", bad, FINDINGS[name])
    return report


def prepare_videos(
    manifest: Path, output: Path, settings: TranscodeSettings, *, num_workers: int = 2
) -> PrepareReport:
    """Transcodes all videos of a manifest; each rank takes its share.

    Raises `UserError` if not a single video could be prepared.
    """
    rank, world_size = rank_and_world_size()
    listed = read_manifest(manifest)
    if rank == 0:
        rate = "each at its own rate" if settings.fps is None else f"{settings.fps:g} a second"
        say(
            f"short side {settings.short_side} pixels, a key frame every {settings.gop} frames, "
            f"{rate}, crf {settings.crf}"
        )
        say("libx264 {libx264}, preset {preset}: {options}".format(**encoder_identity(settings)))
    began = time.perf_counter()
    with progress_bar("preparing") as advance:
        report = prepare(
            listed,
            output,
            settings,
            num_workers=num_workers,
            share=(rank, world_size),
            progress=advance,
        )
    _list_bad_files(output / f"failed-{rank}.csv", report.failed, "file(s) failed")
    say(f"{report.prepared} videos prepared in {output}, {report.already_there} were there")
    if report.smaller:
        say(f"{report.smaller} of them were smaller and keep their size, to the nearest 16 pixels")
    if report.failed and not report.prepared and not report.already_there:
        raise UserError(f"{manifest}: none of its videos could be prepared; see above")
    if report.source_bytes:
        before, after = report.source_bytes / 1e6, report.output_bytes / 1e6
        say(f"{before:.1f} MB became {after:.1f} MB, {after / before:.2f} of it")
    if report.prepared:
        speed = report.prepared_seconds / (time.perf_counter() - began)
        say(f"{speed:.1f} seconds of video a second")
    prepared = output / "videos.csv"
    if report.unfinished_ranks:
        say(f"{prepared}: {report.unfinished_ranks} rank(s) are not done; the last one writes it")
    else:
        say(f"next: `mgm-dali extract {prepared} -o STORE`, or a run with data.train={prepared}")
    return report


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere a line for every tenth of the way."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    terminal = sys.stderr.isatty()
    said = 0

    def advance(done: int, total: int) -> None:
        nonlocal said
        bar.update(task, completed=done, total=total)
        tenth = 10 * done // max(total, 1)
        if not terminal and tenth > said:
            said = tenth
            say(f"{what}: {done} of {total}")

    with Progress(*columns, console=console, disable=not terminal) as bar:
        task = bar.add_task(what, total=None)
        yield advance


def say(text: str) -> None:
    """One line for people; where there are several ranks, it says whose it is."""
    rank, world_size = rank_and_world_size()
    whose = f"[rank {rank}] " if world_size > 1 else ""
    console.print(f"{whose}{text}", markup=False, highlight=False, soft_wrap=True)


def _list_bad_files(table: Path, bad: Sequence[tuple[Path, str]], what: str) -> None:
    """The first few on the console, all of them in a CSV."""
    for path, reason in bad[:5]:
        say(printable(f"{path}: {reason}"))
    try:
        _keep_table(table, bad)
        where = f"all are listed in {table}"
    except OSError as error:  # a store may lie where nothing can be written
        where = f"they cannot be listed in {table}: {error.strerror}"
    if bad:
        say(f"{len(bad)} {what}; {where}")


def _keep_table(table: Path, bad: Sequence[tuple[Path, str]]) -> None:
    """Files and reasons as a CSV; if there are none, that of an earlier call goes."""
    if not bad:
        table.unlink(missing_ok=True)
        return
    write_whole(table, csv_text(("path", "reason"), bad))
