"""Finds the videos of official lists on disk: by name wherever they lie, or by path."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mgm_dali.errors import UserError
from mgm_dali.video.indexing import VIDEO_SUFFIXES, files_below
from mgm_dali.video.layouts import ListedVideo, OfficialLists

__all__ = ["FoundVideos", "find_listed"]

Look = Callable[[ListedVideo], Path | str]
"""Gives the file of a listed video, or why it has none."""


@dataclass(frozen=True)
class FoundVideos:
    """Which files the videos of official lists are."""

    parts: dict[str, list[tuple[Path, int | None]]]
    """Files with labels in the order of the list, by `train`, `val` and `test`: those there are."""
    missing: list[tuple[Path, str]]
    """Names of videos that are not taken, each with its place in a list and the reason."""
    not_taken: int
    """Other videos below the folder; 0 where lists hold paths, as nobody looks for others."""


def find_listed(source: Path, lists: OfficialLists) -> FoundVideos:
    """Looks for the videos of official lists in a folder.

    A name is found in every folder below but that of another class, with any suffix of a video; a
    class's folder has its name, whatever the case, blanks and punctuation. Paths begin in `source`.

    Raises `UserError` if the folder cannot be read, if it holds none of the videos, or if a list
    names a file twice.
    """
    by_stem: dict[str, list[Path]] = {}
    if not lists.names_are_paths:
        for path in files_below(source):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                by_stem.setdefault(path.stem, []).append(path)
    look = _by_path(source) if lists.names_are_paths else _by_name(source, by_stem, lists)
    missing: list[tuple[Path, str]] = []
    parts = {
        part: _find_all(videos, look, missing)
        for part, videos in (("train", lists.train), ("val", lists.val), ("test", lists.test))
        if videos
    }
    taken = {path for files in parts.values() for path, _ in files}
    if not taken:
        raise UserError(_nothing_found(source, lists.train[0], missing[0][1], by_stem))
    return FoundVideos(parts, missing, max(0, sum(map(len, by_stem.values())) - len(taken)))


def _find_all(
    videos: Sequence[ListedVideo], look: Look, missing: list[tuple[Path, str]]
) -> list[tuple[Path, int | None]]:
    """The files of one list; `missing` grows by what is not found."""
    files: dict[Path, ListedVideo] = {}
    again: list[tuple[ListedVideo, Path]] = []
    for video in videos:
        found = look(video)
        if isinstance(found, str):
            missing.append((Path(video.names[0]), f"{video.where}: {found}"))
        elif found in files:
            again.append((video, found))
        else:
            files[found] = video
    if again:
        video, path = again[0]
        more = f" ({len(again)} lines are such)" if len(again) > 1 else ""
        raise UserError(
            f"{video.where}: lists {str(path)!r}, which {files[path].where} has listed before"
            f"{more}; remove one of the lines"
        )
    return [(path, video.label) for path, video in files.items()]


def _by_path(source: Path) -> Look:
    def look(video: ListedVideo) -> Path | str:
        path = source / video.names[0]
        try:
            return path if path.is_file() else "no such file"
        except (OSError, ValueError):  # a name that no file can have
            return "no such file"

    return look


def _by_name(source: Path, by_stem: Mapping[str, list[Path]], lists: OfficialLists) -> Look:
    folders = {_plain(name) for name in lists.class_names}

    def class_folder(path: Path) -> str | None:
        folder = _plain(path.parent.name)
        return folder if path.parent != source and folder in folders else None

    def look(video: ListedVideo) -> Path | str:
        there = next((by_stem[name] for name in video.names if name in by_stem), [])
        if not there:
            return "no such file"
        fitting = there
        if video.label is not None:
            sought = _plain(lists.class_names[video.label])
            fitting = [path for path in there if class_folder(path) == sought]
            fitting = fitting or [path for path in there if class_folder(path) is None]
        if not fitting:
            return f"lies in the folder of another class: {there[0]}"
        if len(fitting) > 1:
            return f"{len(fitting)} files have its name, keep one: {fitting[0]}, {fitting[1]}"
        return fitting[0]

    return look


@cache
def _plain(name: str) -> str:
    """A class as its folder may be called: case, blanks and punctuation differ between copies."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _nothing_found(
    source: Path, first: ListedVideo, reason: str, by_stem: Mapping[str, Sequence[Path]]
) -> str:
    """Where was looked for what, and what is there instead."""
    try:
        inside = sorted(path.name for path in source.iterdir())
    except OSError as error:
        return f"{source}: cannot be read: {error.strerror}"
    there = ", ".join(map(repr, inside[:3])) + (" ..." if len(inside) > 3 else "")
    count = sum(map(len, by_stem.values()))
    videos = f", {count} videos below it such as {next(iter(by_stem))!r}" if count else ""
    sought = " or ".join(map(repr, first.names))
    return (
        f"{source}: holds none of the listed videos, not even the first one, {sought} ({reason}); "
        f"there is {there or 'nothing'}{videos}; name the folder of these videos"
    )
