"""The picture of an evaluation: drawn of a whole evaluation.json, and of nothing else."""

import json

import pytest

from mgm_dali.errors import UserError
from mgm_dali.report.evaluation import save_evaluation_figure
from mgm_dali.report.show import ShowOptions, show

CLASSIFIED = {
    "class_names": ["walk", "$jump$ \udcff"],
    "confusion": [[3, 1], [0, 2]],
    "num_unreadable": 1,
    "top1": 0.7,
}
DETECTED = {
    "action_names": ["sit", "stand", "nobody does it"],
    "action_boxes": [3, 1, 0],
    "average_precisions": [0.5, 1.0, None],
    "mean_average_precision": 0.75,
    "low": 0.5,
    "high": 1.0,
    "num_people": 4,
}
DAMAGED = {
    "nothing": b"",
    "half of it": json.dumps(CLASSIFIED).encode()[:40],
    "noise": bytes(range(128, 256)),
    "a list": b"[]",
    "a number": b"3",
    "nested too deeply": b"[" * 100_000,
    "another file's": b'{"step": 1}',
    "no classes": json.dumps({**CLASSIFIED, "class_names": [], "confusion": []}).encode(),
    "a row too few": json.dumps({**CLASSIFIED, "confusion": [[3, 1]]}).encode(),
    "a cell too few": json.dumps({**CLASSIFIED, "confusion": [[3, 1], [0]]}).encode(),
    "less than none": json.dumps({**CLASSIFIED, "confusion": [[3, 1], [0, -2]]}).encode(),
    "words for counts": json.dumps({**CLASSIFIED, "num_unreadable": "few"}).encode(),
    "an action too few": json.dumps({**DETECTED, "action_names": ["sit"]}).encode(),
    "no precisions": json.dumps({**DETECTED, "average_precisions": None}).encode(),
}


@pytest.mark.parametrize(
    ("found", "picture"), [(CLASSIFIED, "confusion.png"), (DETECTED, "per_action.png")]
)
def test_a_whole_evaluation_is_drawn(found, picture, tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps(found))
    save_evaluation_figure(tmp_path)
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_one_is_one_clear_line_and_nothing_is_drawn(content, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (run / "evaluation.json").write_bytes(content)
    with pytest.raises(UserError, match=r"evaluation\.json: is not what an eval.* makes it anew"):
        show(run, tmp_path / "out", ShowOptions(figures=("loss", "confusion")))
    assert not (tmp_path / "out").exists()
