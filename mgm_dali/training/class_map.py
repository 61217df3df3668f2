"""Which classes of one data set mean the same as those of another: a CSV, checked name by name.

    # Comments begin with a number sign.
    trained,judged
    GolfSwing,golf
    Punch,punch
    BoxingSpeedBag,punch
    PullUps,

`trained` is a class of the training set, `judged` the one of the judged set that means the same; it
may stand in several lines. Where `judged` is empty, the classifier may choose the class, and is
wrong if it does: so it is in partial domain adaptation, whose judged set has only some of the
classes that are trained. Classes that stand in no line do not exist for the judgement.
"""

import csv
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mgm_dali.errors import UserError
from mgm_dali.files import require_file

__all__ = ["ClassMap", "read_class_map"]

COLUMNS = ("trained", "judged")


@dataclass(frozen=True)
class ClassMap:
    """Among which classes videos are judged; classes of either set by their number."""

    names: tuple[str, ...]
    """Of the judged set, in the order of the file; behind them those trained classes that mean none
    of them."""
    of_trained: dict[int, int]
    """From a class of the training set to its place in `names`."""
    of_judged: dict[int, int]
    """From a class of the judged set to its place in `names`."""


def read_class_map(path: Path, trained: Sequence[str], judged: Sequence[str]) -> ClassMap:
    """Reads a class map and checks it against the names of both sets.

    Raises `UserError` naming file and line, and the nearest name where one is not known.
    """
    pairs: dict[str, str] = {}
    for where, trained_name, judged_name in _lines(path):
        _require_known(where, "trained", trained_name, trained)
        if judged_name:
            _require_known(where, "judged", judged_name, judged)
        if trained_name in pairs:
            raise UserError(
                f"{where}: {trained_name!r} stands in a line above; a class of the training set "
                "means one judged class at the most"
            )
        pairs[trained_name] = judged_name
    shared = list(dict.fromkeys(name for name in pairs.values() if name))
    if not shared:
        raise UserError(f"{path}: names no judged class; write lines as GolfSwing,golf")
    others = [name for name, means in pairs.items() if not means]
    if twice := set(shared) & set(others):
        raise UserError(
            f"{path}: {min(twice)!r} is both a judged class and a trained one that means none; "
            "give the trained one its judged class"
        )
    names = (*shared, *others)
    return ClassMap(
        names=names,
        of_trained={trained.index(name): names.index(pairs[name] or name) for name in pairs},
        of_judged={judged.index(name): place for place, name in enumerate(shared)},
    )


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, trained, judged) of each line below the header."""
    places: list[int] | None = None
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}:{number}"
        try:
            row = [field.strip() for field in next(csv.reader([line]))]
        except csv.Error as error:
            raise UserError(f"{where}: is no line of a CSV: {error}") from None
        if places is None:
            places = _places(where, row)
            continue
        if len(row) <= max(places):
            raise UserError(f"{where}: has {len(row)} field(s); write trained,judged")
        trained, judged = (row[place] for place in places)
        if not trained:
            raise UserError(f"{where}: names no trained class; leave such a line out")
        yield where, trained, judged
    if places is None:
        raise UserError(f"{path}: is empty; its first line must be trained,judged")


def _text(path: Path) -> str:
    try:
        require_file(path)
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except FileNotFoundError:
        raise UserError(f"{path}: no such class map; see configs/class_maps/") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a class map: {error.strerror}") from None


def _places(where: str, header: list[str]) -> list[int]:
    lacking = [name for name in COLUMNS if name not in header]
    if lacking:
        raise UserError(
            f"{where}: the header lacks {' and '.join(lacking)}; it must be trained,judged"
        )
    return [header.index(name) for name in COLUMNS]


def _require_known(where: str, column: str, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    by_small = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), by_small, n=1, cutoff=0.5)
    guess = f"did you mean {by_small[close[0]]!r}?" if close else f"it has {len(known)} others"
    raise UserError(f"{where}: {name!r} is no class of the {column} set; {guess}")
