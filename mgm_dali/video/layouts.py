"""The official lists of the data sets: `LAYOUTS` says how each is read, and which classes it has.

Every layout is a function of the folder that holds the lists as they are published, and of the
number of the split. It opens no video. Labels are the official numbers, counted from 0; where a
data set has names alone, they are numbered in the order of the alphabet, as everybody does.

    kinetics   *train.csv, *val.csv or *validate.csv, *test.csv      400, 600, 700, 700-2020
    ssv2       *labels.json, *train.json, *validation.json, *test.json
    ucf101     classInd.txt, trainlist01.txt, testlist01.txt         or 02, 03
    hmdb51     <class>_test_split1.txt                               or 2, 3
    diving48   *vocab.json, *train.json, *test.json                  V1 or V2
    videomae   train.csv, val.csv, test.csv, or mmaction2's *train_list_videos.txt ...
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgm_dali.errors import UserError
from mgm_dali.video.annotations import (
    csv_rows,
    matching_files,
    only_file,
    read_json,
    required_file,
    text_lines,
    whole_number,
)
from mgm_dali.video.indexing import VIDEO_SUFFIXES, unquoted

__all__ = ["LAYOUTS", "ListedVideo", "OfficialLists", "read_layout"]


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """One video of an official list."""

    names: tuple[str, ...]
    """What its file may be called, without a suffix; of a list of paths, the path."""
    label: int | None
    where: str
    """File and line."""


@dataclass(frozen=True)
class OfficialLists:
    """What the lists of a data set say."""

    class_names: list[str]
    """In the order of the labels; empty if they have no names."""
    train: list[ListedVideo]
    val: list[ListedVideo]
    test: list[ListedVideo]
    """Empty where a data set has no such list."""
    names_are_paths: bool = False


def read_layout(layout: str, annotations: Path, split: int) -> OfficialLists:
    """Reads the official lists in a folder.

    Raises `UserError` naming file and line if a list is missing, malformed, names an unknown class,
    or if there is no such layout or split.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout: found {layout!r}, expected one of {', '.join(LAYOUTS)}")
    num_splits = NUM_SPLITS.get(layout, 1)
    if not 1 <= split <= num_splits:
        numbers = "split 1 alone" if num_splits == 1 else f"splits 1 to {num_splits}"
        raise UserError(f"split: found {split}, but {layout} has {numbers}")
    lists = LAYOUTS[layout](annotations, split)
    _refuse_empty(annotations, lists.train)
    return lists


def _kinetics(annotations: Path, _: int) -> OfficialLists:
    """`label,youtube_id,time_start,time_end,split`; the label is missing where it is held out."""
    train = list(_kinetics_rows(required_file(annotations, "*train.csv")))
    _refuse_empty(annotations, train)  # or the others would be blamed for naming unknown classes
    val = _kinetics_rows(only_file(annotations, "*val.csv", "*validate.csv"))
    test = _kinetics_rows(only_file(annotations, "*test.csv"), held_out=True)
    class_names = sorted({label for _, label, _ in train if label is not None})
    labels = _labels_of(class_names, f"{annotations}: the list of training videos")

    def listed(rows: Iterable[tuple[tuple[str, ...], str | None, str]]) -> list[ListedVideo]:
        return [
            ListedVideo(names, None if name is None else _label(where, name, labels), where)
            for names, name, where in rows
        ]

    return OfficialLists(class_names, listed(train), listed(val), listed(test))


def _kinetics_rows(
    path: Path | None, *, held_out: bool = False
) -> Iterator[tuple[tuple[str, ...], str | None, str]]:
    if path is None:
        return
    columns = ("youtube_id", "time_start", "time_end")
    for where, row in csv_rows(path, columns if held_out else ("label", *columns)):
        video = row["youtube_id"]
        label = row.get("label") or None
        if not video or (label is None and not held_out):
            raise UserError(f"{where}: its {'label' if video else 'youtube_id'} is empty")
        start, end = (whole_number(where, name, row[name]) for name in columns[1:])
        yield (f"{video}_{start:06d}_{end:06d}", video), label, where


def _ssv2(annotations: Path, _: int) -> OfficialLists:
    """`[{"id": "78687", "template": "Holding [something] ..."}]`; test videos have an id alone."""
    path = required_file(annotations, "*labels.json")
    numbers = read_json(path, dict)
    by_number = {
        whole_number(str(path), f"the number of {name[:100]!r}", number, len(numbers)): name
        for name, number in numbers.items()
    }
    if len(by_number) != len(numbers):
        raise UserError(f"{path}: two of its {len(numbers)} classes have the same number")
    class_names = [by_number[number] for number in sorted(by_number)]
    labels = _labels_of(class_names, str(path))

    def listed(path: Path | None, *, held_out: bool = False) -> Iterator[ListedVideo]:
        for where, entry in _json_entries(path):
            video = _text(where, entry, "id")
            template = "" if held_out else _text(where, entry, "template")
            name = template.replace("[", "").replace("]", "")
            yield ListedVideo((video,), None if held_out else _label(where, name, labels), where)

    return OfficialLists(
        class_names,
        list(listed(required_file(annotations, "*train.json"))),
        list(listed(only_file(annotations, "*validation.json"))),
        list(listed(only_file(annotations, "*test.json"), held_out=True)),
    )


def _ucf101(annotations: Path, split: int) -> OfficialLists:
    """`Class/v_Class_g08_c01.avi 1` to train, `Class/v_Class_g01_c01.avi` to test; from 1."""
    path = required_file(annotations, "classInd.txt")
    class_names: list[str] = []
    for where, line in text_lines(path):
        number, _, name = line.partition(" ")
        if whole_number(where, "the number of the class", number) != len(class_names) + 1:
            raise UserError(f"{where}: found {line[:100]!r}, expected class {len(class_names) + 1}")
        class_names.append(name.strip())
    labels = _labels_of(class_names, str(path))

    def listed(path: Path) -> Iterator[ListedVideo]:
        for where, line in text_lines(path):
            video, _, number = line.partition(" ")
            folder, _, file = video.rpartition("/")
            label = _label(where, folder, labels)
            if number and whole_number(where, "the label", number) != label + 1:
                raise UserError(f"{where}: label {number} is not {folder}, which is {label + 1}")
            stem = Path(file).stem
            # One class is spelt in two ways, and copies of the data set differ in which.
            spelt = stem.replace("HandStand", "Handstand"), stem.replace("Handstand", "HandStand")
            yield ListedVideo(tuple(dict.fromkeys((stem, *spelt))), label, where)

    train = list(listed(required_file(annotations, f"trainlist{split:02d}.txt")))
    val = list(listed(required_file(annotations, f"testlist{split:02d}.txt")))
    return OfficialLists(class_names, train, val, [])


def _hmdb51(annotations: Path, split: int) -> OfficialLists:
    """`name.avi 1` in a file for each class: 1 is to train, 2 to test, 0 in neither.

    The suffix may be that of another video, as of transcoded copies.
    """
    ending = f"_test_split{split}.txt"
    paths = matching_files(annotations, f"*{ending}")
    if not paths:
        raise UserError(
            f"{annotations}: has no file <class>{ending}; name the folder of the official lists "
            "with --annotations"
        )
    class_names = sorted(path.name.removesuffix(ending) for path in paths)
    labels = _labels_of(class_names, str(annotations))
    parts: dict[str, list[ListedVideo]] = {"0": [], "1": [], "2": []}
    for class_name in class_names:
        for where, line in text_lines(annotations / f"{class_name}{ending}"):
            file, _, part = line.rpartition(" ")
            if not file or part not in parts:
                raise UserError(f"{where}: found {line[:100]!r}, expected `name.avi` and 0, 1 or 2")
            file = file.strip()
            suffix = Path(file).suffix
            name = file.removesuffix(suffix) if suffix.lower() in VIDEO_SUFFIXES else file
            parts[part].append(ListedVideo((name,), labels[class_name], where))
    return OfficialLists(class_names, parts["1"], parts["2"], [])


def _diving48(annotations: Path, _: int) -> OfficialLists:
    """`[{"vid_name": "-mmq0PT-u8k_00155", "label": 0, ...}]`; a class is a list of words."""
    path = required_file(annotations, "*vocab.json")
    class_names = []
    for number, words in enumerate(read_json(path, list)):
        words = [words] if isinstance(words, str) else words
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f"{path}: class {number} is not a list of words")
        class_names.append(" ".join(words))
    _labels_of(class_names, str(path))

    def listed(path: Path | None) -> list[ListedVideo]:
        return [
            ListedVideo(
                (_text(where, entry, "vid_name"),),
                whole_number(where, "label", entry.get("label"), len(class_names)),
                where,
            )
            for where, entry in _json_entries(path)
        ]

    train = listed(required_file(annotations, "*train.json"))
    return OfficialLists(class_names, train, listed(only_file(annotations, "*test.json")), [])


def _videomae(annotations: Path, _: int) -> OfficialLists:
    """`path label` as VideoMAE and mmaction2 write it, `path 0 -1` as VideoMAEv2 does to pretrain.

    A comma may stand for the space. Names of classes stand in classes.txt or mmaction2's
    label_map_*.txt, one a line, if at all.
    """
    path = only_file(annotations, "classes.txt", "label_map*.txt")
    class_names = [] if path is None else [line for _, line in text_lines(path)]
    if path is not None:
        _labels_of(class_names, str(path))

    def listed(part: str, find: Callable[..., Path | None]) -> list[ListedVideo]:
        path = find(annotations, f"{part}.csv", f"*{part}_list_videos.txt")
        lines = [] if path is None else text_lines(path)
        return [_path_line(where, line, len(class_names) or None) for where, line in lines]

    train, val = listed("train", required_file), listed("val", only_file)
    return OfficialLists(class_names, train, val, listed("test", only_file), names_are_paths=True)


def _path_line(where: str, line: str, num_classes: int | None) -> ListedVideo:
    path, numbers = _split_numbers(line)
    path = unquoted(path)
    if not numbers:
        raise UserError(f"{where}: found {line[:200]!r}, expected `path label`")
    if Path(path).suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(
            f"{where}: {path[:200]!r} does not have the suffix of a video; lists of folders with "
            "frames as pictures cannot be used, index the videos they were made of"
        )
    if numbers == ["0", "-1"]:  # VideoMAEv2: all frames, from the first
        return ListedVideo((path,), None, where)
    if len(numbers) > 1:
        raise UserError(f"{where}: has several numbers behind the path, expected one label")
    return ListedVideo((path,), whole_number(where, "the label", numbers[0], num_classes), where)


def _split_numbers(line: str) -> tuple[str, list[str]]:
    """What stands before the last numbers of a line, two at most, and those numbers."""
    rest, numbers = line, list[str]()
    while len(numbers) < 2:
        head = rest.rstrip("0123456789")
        head = head[:-1] if head.endswith("-") else head
        path = head.rstrip(", \t")
        if head == rest or path in ("", head):  # no digits, or they belong to a name
            break
        rest, numbers = path, [rest[len(head) :], *numbers]
    return rest, numbers


def _json_entries(path: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, entry in enumerate([] if path is None else read_json(path, list), 1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: is not an object")
        yield where, entry


def _text(where: str, entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    value = str(value) if type(value) is int and key == "id" else value
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: has no {key}")
    try:
        value.encode(errors="surrogateescape")  # as names of files are
    except UnicodeEncodeError:
        raise UserError(f"{where}: its {key}, {value[:100]!r}, is not valid Unicode") from None
    return value


def _labels_of(class_names: Sequence[str], where: str) -> dict[str, int]:
    """Numbers by name, once the names are found fit to stand in a file, one a line."""
    if not class_names:
        raise UserError(f"{where}: names no class")
    for name in class_names:
        if not name.isprintable() or not name.strip():
            raise UserError(f"{where}: a class is called {name[:100]!r}, expected printable text")
    labels = {name: label for label, name in enumerate(class_names)}
    if len(labels) != len(class_names):
        twice = next(name for label, name in enumerate(class_names) if labels[name] != label)
        raise UserError(f"{where}: names the class {twice[:100]!r} twice")
    return labels


def _refuse_empty(annotations: Path, train: Sequence[object]) -> None:
    if not train:
        raise UserError(f"{annotations}: its list of training videos is empty")


def _label(where: str, name: str, labels: dict[str, int]) -> int:
    if name not in labels:
        raise UserError(f"{where}: {name[:100]!r} is none of the {len(labels)} classes")
    return labels[name]


LAYOUTS: dict[str, Callable[[Path, int], OfficialLists]] = {
    "kinetics": _kinetics,
    "ssv2": _ssv2,
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
    "diving48": _diving48,
    "videomae": _videomae,
}

NUM_SPLITS = {"ucf101": 3, "hmdb51": 3}
"""Others have one."""
