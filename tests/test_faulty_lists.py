"""Official lists that are missing, malformed or hostile: one line that says where and what."""

from pathlib import Path

import pytest
from official_lists import KINETICS_HEADER, write_example

from mgm_dali.errors import UserError
from mgm_dali.video.annotations import whole_number
from mgm_dali.video.layouts import LAYOUTS, NUM_SPLITS, read_layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_splits_that_a_data_set_has_are_taken(layout: str, tmp_path: Path) -> None:
    _, lists = write_example(layout, tmp_path)
    for split in (0, NUM_SPLITS.get(layout, 1) + 1):
        with pytest.raises(UserError, match=f"split: found {split}, but {layout} has"):
            read_layout(layout, lists, split)


def test_a_split_of_hmdb51_has_its_own_files_and_classes(tmp_path: Path) -> None:
    _, lists = write_example("hmdb51", tmp_path)
    with pytest.raises(UserError, match="list of training videos is empty"):
        read_layout("hmdb51", lists, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_without_the_lists_says_which_are_sought(layout: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no file .*--annotations"):
        read_layout(layout, tmp_path, 1)
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        read_layout(layout, tmp_path / "nowhere", 1)


def test_a_layout_that_there_is_not_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 'ava', expected one of kinetics, ssv2"):
        read_layout("ava", tmp_path, 1)


@pytest.mark.parametrize(
    ("layout", "file", "text", "message"),
    [
        ("kinetics", "train.csv", "a,b\n", r"train.csv:1: lacks label, youtube_id"),
        ("kinetics", "train.csv", KINETICS_HEADER + "zumba,x\n", r"train.csv:2: has fewer fields"),
        ("kinetics", "train.csv", KINETICS_HEADER + "zumba,x,a,9,train,0\n", "time_start is 'a'"),
        ("kinetics", "train.csv", KINETICS_HEADER + ",x,0,9,train,0\n", "2: its label is empty"),
        ("kinetics", "train.csv", KINETICS_HEADER, "list of training videos is empty"),
        ("kinetics", "train.csv", KINETICS_HEADER + "z\x1b,x,0,9,train,0\n", "is called 'z.x1b'"),
        ("kinetics", "train.csv", KINETICS_HEADER + f'"{"x" * 200_000}"\n', "field larger than"),
        ("kinetics", "validate.csv", KINETICS_HEADER + "yoga,x,0,9,val,0\n", "2: 'yoga' is none"),
        ("ssv2", "labels.json", '{"a": "0", "b": "0"}', "two of its 2 classes have the same"),
        ("ssv2", "labels.json", '{"a": "1"}', "the number of 'a' is 1, expected 0 to 0"),
        ("ssv2", "labels.json", '{"a\\nb": 0}', r"a class is called 'a\\nb'"),
        ("ssv2", "labels.json", "[]", "holds a list, expected an object"),
        ("ssv2", "labels.json", "{}", "labels.json: names no class"),
        ("ssv2", "train.json", "{", r"train.json:1: is not JSON"),
        ("ssv2", "train.json", "\n\n[1,", r"train.json:3: is not JSON"),
        ("ssv2", "train.json", "[1]", r"train.json: entry 1: is not an object"),
        ("ssv2", "train.json", '[{"template": "x"}]', r"entry 1: has no id"),
        ("ssv2", "train.json", '[{"id": "1"}]', r"entry 1: has no template"),
        ("ssv2", "train.json", r'[{"id": "\ud800"}]', r"entry 1: its id, '.ud800', is not valid"),
        ("ssv2", "train.json", '[{"id": 1, "template": "x"}]', r"'x' is none of the 3 classes"),
        ("ssv2", "train.json", "[" * 500_000, "is nested too deep"),
        ("ssv2", "train.json", "[" + "1" * 5000 + "]", "cannot be read as an official list"),
        ("ssv2", "train.json", "\udcff", "cannot be read as an official list"),
        ("ucf101", "classInd.txt", "1 a\n3 b\n", r"classInd.txt:2: found '3 b', expected class 2"),
        ("ucf101", "classInd.txt", "", "classInd.txt: names no class"),
        ("ucf101", "classInd.txt", "x a\n", "the number of the class is 'x'"),
        ("ucf101", "classInd.txt", "1 a\n2 a\n", "names the class 'a' twice"),
        ("ucf101", "trainlist01.txt", "YoYo/v.avi 2\n", "1: label 2 is not YoYo, which is 3"),
        ("ucf101", "trainlist01.txt", "YoYo/v.avi 9999999999\n", "the label is '9999999999'"),
        ("ucf101", "testlist01.txt", "\nYoga/v.avi\n", "testlist01.txt:2: 'Yoga' is none of"),
        ("hmdb51", "clap_test_split1.txt", "a.avi 3\n", "1: found 'a.avi 3', expected"),
        ("hmdb51", "clap_test_split1.txt", "a.avi\n", "expected `name.avi` and 0, 1 or 2"),
        ("diving48", "vocab.json", "[]", "vocab.json: names no class"),
        ("diving48", "vocab.json", '[["a"], [1]]', "class 1 is not a list of words"),
        ("diving48", "vocab.json", '[["a"], "a"]', "names the class 'a' twice"),
        (
            "diving48",
            "train.json",
            '[{"vid_name": "a", "label": 2}]',
            "label is 2, expected 0 to 1",
        ),
        ("diving48", "train.json", "[]", "list of training videos is empty"),
        ("diving48", "train.json", '[{"vid_name": "a", "label": true}]', "label is True"),
        ("diving48", "test.json", '[{"vid_name": ["a"], "label": 0}]', "entry 1: has no vid_name"),
        ("videomae", "label_map_k400.txt", "\n", "label_map_k400.txt: names no class"),
        ("videomae", "train.csv", "a.mp4 3\n", "the label is 3, expected 0 to 2"),
        ("videomae", "train.csv", "a.mp4 -1\n", "the label is '-1', expected a whole number"),
        ("videomae", "train.csv", "a.mp4 one\n", "1: found 'a.mp4 one', expected `path label`"),
        ("videomae", "train.csv", "a.mp4\n", "expected `path label`"),
        ("videomae", "train.csv", "a.mp4 1 2\n", "several numbers behind the path"),
        ("videomae", "train.csv", "frames/a 1 58\n", "lists of folders with frames as pictures"),
        ("videomae", "train.csv", "1 " * 1_000_000 + "x\n", "expected `path label`"),
    ],
    ids=lambda text: text[:20],
)
def test_a_faulty_list_is_named_with_the_place_and_the_fault(
    layout: str, file: str, text: str, message: str, tmp_path: Path
) -> None:
    _, lists = write_example(layout, tmp_path)
    path = next(path for path in lists.iterdir() if path.name.endswith(file))
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message) as caught:
        read_layout(layout, lists, 1)
    assert len(str(caught.value).splitlines()) == 1
    assert str(lists) in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "file"), [("ssv2", "train.json"), ("kinetics", "train.csv"), ("videomae", "val.csv")]
)
def test_a_list_that_is_far_too_large_is_not_read(layout: str, file: str, tmp_path: Path) -> None:
    _, lists = write_example(layout, tmp_path)
    for path in lists.glob(f"*{file}") or [lists / file]:
        path.unlink()
    with (lists / file).open("wb") as sparse:
        sparse.truncate(1 << 40)
    for other in lists.glob("*val_list*"):
        other.unlink()
    with pytest.raises(UserError, match="no official list has more than"):
        read_layout(layout, lists, 1)


def test_a_number_below_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="here: the label is 0"):
        whole_number("here", "the label", 0, 0)


def test_two_lists_that_both_fit_are_not_guessed_between(tmp_path: Path) -> None:
    _, lists = write_example("diving48", tmp_path)
    (lists / "Diving48_train.json").write_text("[]")
    with pytest.raises(UserError, match=r"2 files match .*Diving48_V2_train.json and Diving48_"):
        read_layout("diving48", lists, 1)
