"""AVA's files are read as they are, and what is wrong in them is said with its place."""

import numpy as np
import pytest

from mgm_dali.errors import UserError
from mgm_dali.video.ava import (
    Action,
    LabelledBoxes,
    Moments,
    detection_lines,
    read_actions,
    read_excluded,
    read_found_people,
    read_people,
)

SHORT_LIST = """item {
  name: "bend/bow (at the waist)"
  id: 1
}
item {
  name: "run/jog"
  id: 10
}
"""
WHOLE_LIST = """label {
  name: "run/jog"
  label_id: 10
  label_type: PERSON_MOVEMENT
}
label {
  name: "bend/bow (at the waist)"
  label_id: 1
  label_type: PERSON_MOVEMENT
}
"""
ACTIONS = [Action(1, "bend/bow (at the waist)"), Action(10, "run/jog")]
PEOPLE = """\
-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,10,1
-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,1,1
-5KQ66BBWC4,0902,0.226,0.032,0.366,0.497,12,0
-5KQ66BBWC4,0903,0.332,0.194,0.481,0.891,1,2
_a-b,0902,0.1,0.2,0.3,0.4,,3
-5KQ66BBWC4,902,0.5,0.5,0.9,0.9,10,4
"""


@pytest.mark.parametrize("text", [SHORT_LIST, WHOLE_LIST], ids=["60 actions", "80 actions"])
def test_both_official_lists_of_actions_are_read(tmp_path, text):
    (tmp_path / "list.pbtxt").write_text(text)
    assert read_actions(tmp_path / "list.pbtxt") == ACTIONS


def test_a_box_in_several_lines_is_one_person_who_does_several_things(tmp_path):
    (tmp_path / "people.csv").write_text(PEOPLE)
    moments = Moments()
    people = read_people(tmp_path / "people.csv", ACTIONS, moments)
    assert list(moments.numbers) == [
        *(("-5KQ66BBWC4", 902.0), ("-5KQ66BBWC4", 903.0), ("_a-b", 902.0))
    ]
    assert people.moments.tolist() == [0, 0, 0, 1, 2], "0902 and 902 are one moment"
    assert people.does.tolist() == [
        *([True, True], [False, False], [False, True], [True, False], [False, False])
    ]
    assert people.corners[0].tolist() == [0.077, 0.151, 0.283, 0.811]
    assert people.unlisted == 1, "action 12 is not in the list; no action at all is no fault"
    assert people.lines.max() == 1
    known = people.actions()
    assert known.moments.tolist() == [0, 0, 0, 1]
    assert known.actions.tolist() == [0, 1, 1, 0]
    assert known.scores.tolist() == [1, 1, 1, 1]


def test_equal_lines_are_one_person_and_two_true_boxes_as_in_the_official_evaluation(tmp_path):
    (tmp_path / "people.csv").write_text(PEOPLE + PEOPLE.splitlines()[0][:-1] + "9\n")
    people = read_people(tmp_path / "people.csv", ACTIONS, Moments())
    assert len(people) == 5 and people.does.sum() == 4
    assert people.actions().actions.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("score", ["1.5", "-0.1", "3"])
def test_a_list_of_a_detector_has_scores(tmp_path, score):
    (tmp_path / "found.csv").write_text(f"v,5,0.1,0.1,0.5,0.9,,{score}\n")
    with pytest.raises(UserError, match=r"found.csv:1: the score is .*expected 0 to 1"):
        read_found_people(tmp_path / "found.csv", 3, 0.8, Moments())


def test_a_list_of_people_is_no_list_of_excluded_moments(tmp_path):
    (tmp_path / "people.csv").write_text(PEOPLE)
    with pytest.raises(UserError, match=r"people.csv:1: .*expected video,second"):
        read_excluded(tmp_path / "people.csv", Moments())


def test_names_and_comments_of_actions_may_hold_braces(tmp_path):
    text = '# made {by hand}\nitem {\n name: "x {a}"\n id: 3\n}\n'
    (tmp_path / "list.pbtxt").write_text(text)
    assert read_actions(tmp_path / "list.pbtxt") == [Action(3, "x {a}")]


def test_a_detectors_boxes_count_from_a_score_on(tmp_path):
    lines = [f"v,0005,0.1,0.1,0.{tenth},0.9,,0.{tenth}" for tenth in (5, 8, 9)]
    (tmp_path / "found.csv").write_text("\n".join(lines))
    people, unsure = read_found_people(tmp_path / "found.csv", 3, 0.8, Moments())
    assert people.corners[:, 2].tolist() == [0.8, 0.9] and unsure == 1
    assert people.does.shape == (2, 3) and not people.does.any()


def test_excluded_moments_are_numbered_with_the_others(tmp_path):
    (tmp_path / "people.csv").write_text(PEOPLE)
    (tmp_path / "excluded.csv").write_text("-5KQ66BBWC4,0903\nother,0904\n")
    moments = Moments()
    read_people(tmp_path / "people.csv", ACTIONS, moments)
    assert read_excluded(tmp_path / "excluded.csv", moments) == {1, 3}


def test_detections_are_written_as_the_official_evaluation_reads_them(tmp_path):
    moments = Moments()
    for video, second in (("-5KQ66BBWC4", 902.0), ("v", 7.5)):
        moments.number_of(video, second)
    found = LabelledBoxes(
        np.array([0, 1]),
        np.array([[0.077, 0.151, 0.283, 0.811], [0, 0, 1, 1]]),
        np.array([1, 0]),
        np.array([0.3424242, 1e-9]),
    )
    lines = list(detection_lines(found, ACTIONS, moments))
    assert lines == [
        "-5KQ66BBWC4,0902,0.077000,0.151000,0.283000,0.811000,10,0.342424\n",
        "v,0007.500,0.000000,0.000000,1.000000,1.000000,1,0.000000\n",
    ]
    (tmp_path / "again.csv").write_text("".join(lines))
    again = Moments()
    read_people(tmp_path / "again.csv", ACTIONS, again)
    assert again == moments


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v,1,0.1,0.1,0.2", "expected video,second,x1,y1,x2,y2,action,person"),
        (",1,0.1,0.1,0.2,0.2,1,0", "expected video,second"),
        ("v,one,0.1,0.1,0.2,0.2,1,0", "the second is 'one', expected a number"),
        ("v,nan,0.1,0.1,0.2,0.2,1,0", "the second is 'nan'"),
        ("v,1e308,0.1,0.1,0.2,0.2,1,0", "the second is 1e"),
        ("v,-1,0.1,0.1,0.2,0.2,1,0", "the second is -1, expected 0 to 1000000"),
        ("v,1,0.1,0.1,0.2,0.2,1,0,9", "expected video,second"),
        ("v,1,0.1,x,0.2,0.2,1,0", "a corner is 'x'"),
        ("v,1,0.3,0.1,0.2,0.2,1,0", "corners, not a corner and a size"),
        ("v,1,10,20,120,200,1,0", "fractions of the picture's width and height"),
        ("v,1,0.1,0.1,0.2,0.2,run,0", "the action is 'run', expected a whole number"),
        ("video_id,middle_frame_timestamp,x1,y1,x2,y2,action_id,person_id", "the second is"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line, message):
    path = tmp_path / "people.csv"
    path.write_text(f"{PEOPLE}{line}\n")
    with pytest.raises(UserError, match=f"people.csv:7: .*{message}"):
        read_people(path, ACTIONS, Moments())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no action"),
        ("bend\nrun\n", "names no action"),
        ('item {\n name: "run"\n}', "lacks its name or its id"),
        ("item {\n id: 3\n}", "lacks its name or its id"),
        (SHORT_LIST + SHORT_LIST, "two actions have the same id"),
        ('item { name: "x" id: -1 }', "lacks its name or its id"),
    ],
)
def test_a_list_of_actions_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "list.pbtxt").write_text(text)
    with pytest.raises(UserError, match=f"list.pbtxt: .*{message}"):
        read_actions(tmp_path / "list.pbtxt")


def test_files_that_are_not_there_are_named(tmp_path):
    for read in (
        lambda path: read_actions(path),
        lambda path: read_people(path, ACTIONS, Moments()),
        lambda path: read_found_people(path, 2, 0.8, Moments()),
        lambda path: read_excluded(path, Moments()),
    ):
        with pytest.raises(UserError, match="gone: cannot be read"):
            read(tmp_path / "gone")
