"""From a folder or a list of files to the rows of a manifest; every file is opened and judged.

folder   SOURCE/<class>/.../clip.mp4      the class is the top sub-folder; names are sorted
         SOURCE/clip.mp4                  a video without a label
list     some folder/clip.mp4 12          the label comes last; a comma before it will do too
         clip.mp4                         a video without a label
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mgm_dali.errors import UserError
from mgm_dali.files import require_file
from mgm_dali.video.manifest import Video
from mgm_dali.video.reader import VideoFacts, probe
from mgm_dali.video.workers import Failure, run_in_workers

__all__ = [
    "VIDEO_SUFFIXES",
    "IndexReport",
    "files_below",
    "index_files",
    "index_source",
    "split_train_val",
]

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .flv .mpg .mpeg .m2v .ts .mts .m2ts .vob .3gp .ogv .asf .wmv "
    ".mxf .nut .rm .h264 .264 .hevc .h265 .265 .ivf .obu".split()
)
"""Files that are taken for videos, in capitals too."""

BYTES_PER_TIMEOUT = 64 << 20
"""A longer file has the time-out once for each of these: some can only be decoded to the end."""

_Entry = tuple[Path, frozenset[tuple[int, int]]]
"""A file or folder, and the folders above it by device and inode."""


@dataclass(frozen=True)
class IndexReport:
    """What was found in a source."""

    videos: list[Video]
    """Readable ones, in the order of the paths or of the list."""
    have_vectors: list[bool]
    """What `carries_vectors` said of each; all False if it was not asked."""
    class_names: list[str]
    """Of a folder; a list has numbers only."""
    rejected: list[tuple[Path, str]]
    """Files that cannot be used, each with the reason."""
    ignored: int
    """Files of a folder whose suffix is not one of a video; hidden ones are not even counted."""


@dataclass(frozen=True)
class _Candidates:
    """Files that might be videos, with their labels."""

    files: list[tuple[Path, int | None]]
    class_names: list[str]
    ignored: int


def index_source(
    source: Path,
    *,
    num_workers: int,
    carries_vectors: Callable[[Path], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    timeout_seconds: float = 60,
) -> IndexReport:
    """Opens every video of a folder or a list, as `index_files` does.

    Raises `UserError` if the source does not exist or a line of the list cannot be understood.
    """
    found = _candidates_in_folder(source) if source.is_dir() else _candidates_in_list(source)
    report = index_files(
        found.files,
        num_workers=num_workers,
        carries_vectors=carries_vectors,
        progress=progress,
        timeout_seconds=timeout_seconds,
    )
    return replace(report, class_names=found.class_names, ignored=found.ignored)


def index_files(
    files: Sequence[tuple[Path, int | None]],
    *,
    num_workers: int,
    carries_vectors: Callable[[Path], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    timeout_seconds: float = 60,
) -> IndexReport:
    """Opens files, each with its label, in worker processes; classes have no names.

    `carries_vectors` is called there for every video that can be read; it must be picklable.

    A file that cannot be read, takes longer than `timeout_seconds` (for each 64 MiB), or crashes
    its reader is rejected; the others are not affected. `progress(done, total)` is called after
    every file. The report depends on the files alone, not on the number of workers or on timing.
    """
    paths = [path for path, _ in files]
    problems = [_problem_of_name(path) for path in paths]
    sound = [place for place, problem in enumerate(problems) if problem is None]
    found_at: dict[int, tuple[VideoFacts, bool]] = {}
    outcomes = run_in_workers(
        partial(_examine, carries_vectors),
        [paths[place] for place in sound],
        num_workers=num_workers,
        seconds_allowed=lambda path: timeout_seconds * max(1.0, _size(path) / BYTES_PER_TIMEOUT),
    )
    with closing(outcomes):
        for done, (number, outcome) in enumerate(outcomes, len(paths) - len(sound) + 1):
            if isinstance(outcome, Failure):
                problems[sound[number]] = outcome.reason
            else:
                found_at[sound[number]] = outcome
            if progress is not None:
                progress(done, len(paths))
    places = sorted(found_at)
    videos = [
        Video(path=paths[place], label=files[place][1], **vars(found_at[place][0]))
        for place in places
    ]
    have_vectors = [found_at[place][1] for place in places]
    rejected = [(path, problem) for path, problem in zip(paths, problems, strict=True) if problem]
    return IndexReport(videos, have_vectors, [], rejected, ignored=0)


def _examine(carries_vectors: Callable[[Path], bool] | None, path: Path) -> tuple[VideoFacts, bool]:
    """Looks at one file, in a worker process."""
    return probe(path), carries_vectors is not None and carries_vectors(path)


def split_train_val(
    videos: Sequence[Video], val_share: float, seed: int
) -> tuple[list[Video], list[Video]]:
    """Parts videos into (train, val), class by class, each in the order given.

    Every class keeps at least one video in train. What rounding takes from one class, the next one
    gives, so that `val_share` holds for the whole even where classes are small.
    """
    if not 0 <= val_share < 1:
        raise UserError(f"share of validation videos: found {val_share}, expected 0 to below 1")
    rows_of_class = defaultdict(list)
    for row, video in enumerate(videos):
        rows_of_class[-1 if video.label is None else video.label].append(row)
    rng = np.random.default_rng(seed)
    chosen: set[int] = set()
    owed = 0.0
    for _, rows in sorted(rows_of_class.items()):
        owed += val_share * len(rows)
        taken = min(int(owed + 0.5), len(rows) - 1)
        owed = min(owed - taken, 1.0)  # no class has to give for many that are too small to give
        chosen.update(rng.permutation(rows)[:taken].tolist())
    train = [video for row, video in enumerate(videos) if row not in chosen]
    return train, [videos[row] for row in sorted(chosen)]


def _candidates_in_folder(source: Path) -> _Candidates:
    files: list[tuple[Path, int | None]] = []
    of_class: dict[str, list[Path]] = {}
    ignored = 0
    for path in files_below(source):
        inside = path.relative_to(source)
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            ignored += 1
        elif len(inside.parts) == 1 or _problem_of_name(path):
            files.append((path, None))
        else:
            of_class.setdefault(inside.parts[0], []).append(path)
    class_names = sorted(of_class)
    for label, name in enumerate(class_names):
        files += [(path, label) for path in of_class[name]]
    return _Candidates(files, class_names, ignored)


def files_below(folder: Path) -> Iterator[Path]:
    """All files that are not hidden, in a fixed order; links are followed unless they lead up.

    Raises `UserError` if a folder cannot be read.
    """
    waiting: list[_Entry] = [(folder, frozenset())]
    while waiting:
        path, above = waiting.pop()
        is_source = not above  # opened whatever it is, to say why it cannot be
        try:
            inside = _entries(path, above) if is_source or path.is_dir() else None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        if inside is None:
            yield path
        else:
            waiting += inside


def _entries(folder: Path, above: frozenset[tuple[int, int]]) -> list[_Entry]:
    """What is not hidden in a folder, the first name last; nothing if it is one of those above."""
    facts = folder.stat()
    identity = facts.st_dev, facts.st_ino
    if identity in above:
        return []
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    above |= {identity}
    return [(path, above) for path in sorted(paths, reverse=True)]


def _candidates_in_list(source: Path) -> _Candidates:
    if source.suffix.lower() in VIDEO_SUFFIXES:
        raise UserError(f"{source}: is a video; name its folder, or a list that holds its path")
    try:
        require_file(source)
        # Names of files are bytes: those that are not UTF-8 pass unharmed.
        lines = source.read_text("utf-8-sig", errors="surrogateescape").split("\n")
    except FileNotFoundError:
        raise UserError(f"{source}: no such folder or list of videos") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read as a list of videos: {error}") from None
    return _Candidates(list(_parse_list(source, lines)), [], 0)


def _parse_list(source: Path, lines: Iterable[str]) -> Iterator[tuple[Path, int | None]]:
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or (number == 1 and line == "path,label"):
            continue
        labelled = _split_label(line)
        if labelled is not None:
            name, label = labelled
        elif Path(line.strip('"')).suffix.lower() in VIDEO_SUFFIXES:
            name, label = line, None
        else:
            raise UserError(
                f"{source}:{number}: found {line[:200]!r}, expected `path label` or `path,label` "
                "with a whole number as the label, or the path of a video alone"
            )
        yield source.parent / unquoted(name), label


def unquoted(path: str) -> str:
    """A path as it is, which CSV writers protect by quotes."""
    if len(path) > 1 and path[0] == path[-1] == '"':
        return path[1:-1].replace('""', '"')
    return path


def _split_label(line: str) -> tuple[str, int] | None:
    """`path 3` or `path, 3`; None if no label stands behind a path."""
    before = line.rstrip("0123456789")
    digits = line[len(before) :]
    name = before.rstrip().removesuffix(",").rstrip()
    if name and name != before and 0 < len(digits) < 10:
        return name, int(digits)
    return None


def _problem_of_name(path: Path) -> str | None:
    """Why a file cannot stand in a manifest, whatever it holds."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return f"its suffix {path.suffix!r} is none of {' '.join(sorted(VIDEO_SUFFIXES))}"
    if "\n" in str(path) or "\r" in str(path):
        return "its name holds a line break; rename it"
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the probe will say what is wrong with it
