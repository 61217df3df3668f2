"""The benchmark of growth: one thing changes at a time, and videos are what they are said to be."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import clips
import scaling
from rounds import Ratio, Timings
from scaling import BASE, Setting
from turns import CLIPS, CPU, WALL

from mgm_dali.video.frame_index import index_of
from mgm_dali.video.reader import probe


def settings_for(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["scaling.py", *arguments])
    return list(scaling.settings_of(scaling._options()))


def test_settings_differ_from_the_base_in_one_thing(monkeypatch):
    base, *others = settings_for(monkeypatch)
    assert base == Setting()
    assert len({setting.label for setting in others}) == len(others) > 10
    for setting in others:
        form, plain = vars(setting.form), vars(base.form)
        changed = [name for name in ("seconds", "lines") if form[name] != plain[name]]
        changed += [
            name
            for name in ("batch_size", "num_workers")
            if getattr(setting, name) != getattr(base, name)
        ]
        other_gop = setting.form.gop != base.form.gop  # every length is measured with each
        assert len(changed) == 1 or (other_gop and not changed), f"{setting.label}: {changed}"
        assert not other_gop or changed in ([], ["seconds"])


def test_what_is_asked_for_is_measured_and_the_base_once(monkeypatch):
    options = "--seconds 10 20 --gops 250 --lines 256 --batch-sizes 8 --workers 2 3".split()
    found = settings_for(monkeypatch, *options)
    assert [setting.label for setting in found[1:]] == [
        "ours: videos of 20 s, a key frame every 250",
        "ours: 3 workers",
    ]


@pytest.mark.parametrize("option", ["--lines", "--workers", "--rounds"])
def test_a_number_below_1_is_wrong_usage(monkeypatch, capsys, option):
    with pytest.raises(SystemExit) as left:
        settings_for(monkeypatch, option, "0")
    assert left.value.code == 2 and option in capsys.readouterr().err


def test_a_made_video_has_the_length_size_and_key_frames_of_its_form(tmp_path):
    path = clips.make_video(tmp_path, 0, clips.Form(seconds=2, lines=300, gop=16))
    found = probe(path)
    assert (found.width, found.height, found.num_frames) == (400, 300, 60)
    assert len(index_of(path).key_pts) == 4


def test_a_setting_that_costs_more_than_the_base_has_a_ratio_below_1():
    cpu, wall = Timings(), Timings()
    for timings, seconds in ((cpu, {BASE: 1.0, "long": 4.0}), (wall, {BASE: 1.0, "long": 2.0})):
        timings.seconds = {label: {CLIPS: [value, value]} for label, value in seconds.items()}
    settings = {BASE: Setting(), "long": Setting("long"), "lost": Setting("lost")}
    (row,) = scaling.ratios_to_base(settings, {CPU: cpu, WALL: wall})
    assert row == scaling.ratio_row(f"{CPU}: long", BASE, Ratio(0.25, 0.25, 0.25))
