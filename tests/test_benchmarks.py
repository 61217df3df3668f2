"""The benchmark script: it runs, its ratios are right, and a broken peer is told, not left out."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import clips
import contenders
import motion
import peers
import rounds
from videos import Clip

from mgm_dali.video.frame_index import index_of
from mgm_dali.video.manifest import Video

OURS = peers.Worker(Path(sys.executable), {})
FAST = rounds.Contender("fast", "ours", "any")


def run_script(*arguments):
    command = [sys.executable, motion.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def timings_of(**seconds):
    """`fast=[[job 0, by round], [job 1, by round]]` as measured."""
    by_label = {
        label: {str(job): list(of_job) for job, of_job in enumerate(jobs)}
        for label, jobs in seconds.items()
    }
    return rounds.Timings(by_label)


def script(tmp_path, text):
    """A program that stands for a peer's interpreter."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_the_script_prints_ratios_and_keeps_every_round(tmp_path):
    video = Clip(width=96, height=64, num_frames=64, velocity=(0, 0), start=(8, 8)).path()
    numbers = tmp_path / "numbers.json"
    done = run_script("--videos", video, "--no-peers", "--rounds", 2, "--json", numbers)
    assert done.returncode == 0, done.stderr
    assert "ours: motion" in done.stdout and "not measured" in done.stdout
    found = json.loads(numbers.read_text())
    for section in ("videos", "clips"):
        timings = found["timings"][section]
        assert not any(timings["failures"].values()), timings["failures"]
        assert not timings["notes"], "all gave the frames they were asked for"
        for jobs in timings["seconds"].values():
            assert all(len(of_rounds) == 2 and min(of_rounds) > 0 for of_rounds in jobs.values())
    assert found["store"]["bytes"] > 0
    assert found["cpu"] and found["versions"]["av"]


def test_a_source_that_is_not_there_is_one_line_and_status_1(tmp_path):
    done = run_script("--videos", tmp_path / "none.mp4", "--no-peers")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: ") and "\n" not in done.stderr.strip()


@pytest.mark.parametrize("option", ["--rounds", "--clips-per-video", "--most-videos"])
def test_a_number_below_1_is_wrong_usage(option, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [motion.__file__, option, "0"])
    with pytest.raises(SystemExit) as left:
        motion.main()
    assert left.value.code == 2 and option in capsys.readouterr().err


def test_a_ratio_is_that_of_the_medians_and_tells_single_rounds():
    timings = timings_of(fast=[[1.0, 1.0, 4.0]], slow=[[3.0, 2.0, 2.0]])
    assert timings.ratio("slow", "fast", ["0"]) == rounds.Ratio(2.0, 0.5, 3.0)


def test_a_ratio_is_over_the_jobs_that_both_have_done():
    timings = timings_of(fast=[[1.0], [1.0]], slow=[[3.0]])
    assert timings.ratio("slow", "fast", ["0", "1"]).median == 3.0
    assert timings.ratio("slow", "fast", ["1"]) is None
    assert timings.ratio("none", "fast", ["0"]) is None


def test_less_work_is_scaled_and_said_unless_it_was_meant():
    timings, job = rounds.Timings(), rounds.Job("job", Path("x"), 16)
    timings.add(FAST, job, {"cpu_seconds": 1.0, "frames": 8})
    meant = rounds.Contender("part", "ours", "any", does_part=True)
    timings.add(meant, job, {"cpu_seconds": 1.0, "frames": 1})
    assert timings.seconds == {"fast": {"job": [2.0]}, "part": {"job": [16.0]}}
    assert len(timings.notes) == 1 and "8 of the 16 frames" in timings.notes[0]


@pytest.mark.parametrize("goal", contenders.GOALS, ids=str)
def test_a_goal_is_met_on_its_side_of_the_bound_only(goal):
    def verdict(ratio):
        seconds = {goal.over: [[ratio]], goal.under: [[1.0]]}
        measured = {goal.section: timings_of(**seconds)}
        jobs = {"videos": ["0"], "clips": ["0"]}
        missing = {"videos": rounds.Timings(), "clips": rounds.Timings()}
        (found,) = (
            v
            for v in contenders.judge(contenders.GOALS, missing | measured, jobs)
            if v.goal == goal
        )
        return found

    bound = goal.at_least or goal.at_most
    above, below = verdict(bound * 1.01), verdict(bound * 0.99)
    assert (above.is_met, below.is_met) == ((True, False) if goal.at_least else (False, True))


def test_a_goal_without_its_peer_is_not_met():
    nothing = {"videos": rounds.Timings(), "clips": rounds.Timings()}
    verdicts = list(contenders.judge(contenders.GOALS, nothing, {"videos": [], "clips": []}))
    assert verdicts and not any(verdict.is_met or verdict.ratio for verdict in verdicts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("exit 3", "status 3"), ("kill -SEGV $$", "status -11"), ("exec sleep 60", "no answer")],
)
def test_a_peer_that_dies_or_hangs_is_reported_and_tried_once_a_job(
    tmp_path, monkeypatch, text, reason
):
    job = rounds.Job("job", Clip().path(), 24)
    tries = tmp_path / "tries"
    broken = peers.Worker(script(tmp_path, f"echo x >> '{tries}'; {text}"), {})
    both = (
        rounds.Contender("broken", "broken", "decord"),
        rounds.Contender("plain", "ours", "pyav_decode"),
    )
    with OURS, broken:
        OURS.measure("pyav_decode", {"path": str(job.path)})  # its start is not part of the wait
        monkeypatch.setattr(peers, "SECONDS_ALLOWED", 3.0)
        workers = {"broken": broken, "plain": OURS}
        timings = rounds.run_rounds(both, [job], workers, 2, lambda *_: None)
    assert reason in timings.failures["broken"]["job"]
    assert tries.read_text() == "x\n"
    assert len(timings.seconds["plain"]["job"]) == 2 and "broken" not in timings.seconds


def test_a_library_that_is_not_there_is_named():
    with OURS, pytest.raises(peers.PeerError, match="decord"):
        OURS.measure("decord", {"path": "x", "frames": [0]})


def test_a_peer_that_cannot_be_installed_says_so_and_leaves_no_mark(tmp_path, monkeypatch):
    def make(folder, **_):
        (folder / "bin").mkdir(parents=True)
        script(folder / "bin", "echo 'ERROR: No matching distribution' >&2; exit 1")

    monkeypatch.setattr(peers.venv, "create", make)
    said = []
    with peers.start("decord", tmp_path, said.append) as worker:
        with pytest.raises(peers.PeerError, match="No matching distribution"):
            worker.measure("decord", {})
    assert "decord==0.6.0" in said[0]
    assert not (tmp_path / "decord/filled").exists()


def test_clips_are_the_same_for_the_same_seed_and_short_videos_are_named():
    def video(name, num_frames):
        return Video(Path(name), None, num_frames, 25.0, 64, 64, "h264", 1.0)

    listed = [video("long.mp4", 300), video("short.mp4", 60), video("just.mp4", 61)]
    jobs, too_short = clips.clip_jobs(listed, 3, seed=1)
    assert clips.clip_jobs(listed, 3, seed=1)[0] == jobs
    assert clips.clip_jobs(listed, 3, seed=2)[0] != jobs
    assert len(jobs) == len({job.name for job in jobs}) == 4, "one place in a video of 61 frames"
    assert len(too_short) == 1 and "short.mp4" in too_short[0]
    for job in jobs:
        frames = job.arguments["frames"]
        assert len(frames) == 16 and {b - a for a, b in pairwise(frames)} == {4}


def test_of_too_many_files_some_are_taken_and_bad_ones_are_named(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.mp4").symlink_to(Clip().path())
    (tmp_path / "4.mp4").unlink()
    (tmp_path / "4.mp4").write_bytes(b"broken")
    videos, notes = clips.open_videos([tmp_path], most=4)
    assert [video.path.name for video in videos] == ["0.mp4", "2.mp4", "6.mp4"]
    assert "4 of 9 files" in notes[0] and "4.mp4" in notes[1]


def test_what_is_made_is_what_is_said(tmp_path):
    (video,), left_out = clips.open_videos(clips.make_videos(tmp_path, 1), 12)
    assert not left_out
    assert (video.width, video.height, video.codec, video.num_frames) == (340, 256, "h264", 300)
    index = index_of(video.path)
    assert len(index.key_pts) == 2, "groups of 250 frames"
