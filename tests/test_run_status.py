"""RUN/status.json: what a run says of itself."""

import errno
import json
import logging
import os
import time

import pytest
from made_runs import DEEP, METRICS_LINE, made_run, printed, row_of, status_of

from mgm_dali.errors import UserError
from mgm_dali.runs import status as status_file
from mgm_dali.runs.status import read_status, write_status


@pytest.mark.parametrize(
    "status",
    [
        status_of(),
        status_of("finished", loss=0.5, clips_per_second=12.5, data_wait_share=0.0, eta_seconds=0),
        status_of("failed", reason="step 3: the loss is nan\nsecond line [red]", host="gpu-1"),
    ],
    ids=lambda status: status.state,
)
def test_what_is_written_is_what_is_read(tmp_path, status):
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_status_says_by_itself_who_wrote_it_and_when():
    before = time.time()
    status = status_of()
    assert (status.host, status.pid) == (os.uname().nodename, os.getpid())
    assert before <= status.updated <= time.time()


def test_whatever_a_run_may_have_to_say_can_be_read_again(tmp_path):
    reason = os.fsdecode(b"caf\xe9.mp4: ") + "\U0001f600" * 100_000
    write_status(tmp_path, status_of("failed", loss=float("nan"), reason=reason))
    found = read_status(tmp_path)
    assert found.loss is None
    assert found.reason.startswith("caf\\udce9.mp4: \U0001f600")


def test_a_folder_without_a_status_has_none(tmp_path):
    assert read_status(tmp_path) is None
    assert read_status(tmp_path / "no-such-folder") is None


def test_what_a_later_version_may_add_is_passed_over(tmp_path):
    write_status(tmp_path, status_of())
    path = tmp_path / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "temperature": [1]}))
    assert read_status(tmp_path).step == 20


def changed(**values):
    good = {"stage": "p", "state": "training", "step": 1, "steps": 2}
    return json.dumps({**good, "host": "h", "pid": 1, "updated": 1.0, **values})


HOSTILE = {
    "nothing": "",
    "garbage": "\x00\x01{",
    "no text": b"\xff\xfe{}",
    "cut": changed()[:-9],
    "a list": "[]",
    "a number": "7",
    "deep": DEEP,
    "deep inside": changed(loss=None)[:-1] + ', "more": ' + DEEP,
    "no keys": "{}",
    "unknown state": changed(state="dancing"),
    "a step that is text": changed(step="1"),
    "a step before the first": changed(step=-1),
    "a step of digits without end": changed().replace('"step": 1', f'"step": 1{"0" * 5000}'),
    "a loss that is none": changed(loss=float("nan")),
    "a time that is too large": changed().replace("1.0", "1e999"),
    "a host that is a list": changed(host=["a"]),
    "half a character": changed(reason="\udce9"),
    "without end": changed(reason="x" * (1 << 17)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_status_is_said_in_one_line_and_listed(tmp_path, capsys, content):
    run = made_run(tmp_path / "run", metrics=METRICS_LINE)
    content = content if isinstance(content, bytes) else content.encode()
    (run / "status.json").write_bytes(content)
    with pytest.raises(UserError, match=r"status\.json: .+") as caught:
        read_status(run)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 1000
    assert row_of(run).state == "damaged"
    assert str(caught.value) in printed(tmp_path, capsys)


@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name, make):
    run = made_run(tmp_path / "run")
    make(run / name)
    row = row_of(run)
    assert row.state == "damaged" and f"{name}: is not a file" in row.reason


def test_a_disk_that_refuses_the_status_ends_no_run_and_is_said_once(tmp_path, monkeypatch, caplog):
    def full(path, _content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    write_status(tmp_path, status_of())
    monkeypatch.setattr(status_file, "write_whole", full)
    with caplog.at_level(logging.WARNING, "mgm_dali"):
        for _ in range(3):
            write_status(tmp_path, status_of("finished"))
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage() and str(tmp_path) in record.getMessage()
    assert read_status(tmp_path).state == "training"
