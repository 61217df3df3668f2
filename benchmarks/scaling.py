"""What a clip costs our loader as videos get longer and larger, and as batches and workers grow.

    python benchmarks/scaling.py --json numbers.json

One thing is changed at a time from a base: videos of 10 s with 256 lines and a key frame every 250
frames, batches of 8, two workers; frames and motion are read live. All videos show the same scene;
larger ones have it several times beside itself, so that every pixel is as hard to decode, which
flatters small pictures: real ones of many lines are smoother. How the length of the list matters is
`manifest.py`'s part. Every setting has a process of its own, they take turns, and each file is met
for the first time; ratios are those of medians over the rounds.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clips import Form, make_video, new_files, open_videos
from command import add_number_options, parse, run
from loader import LEAST_AHEAD, START, WORKER
from loader_feeds import our_config, planned_clips
from loader_worker import Stretch
from peers import start
from ratios import Row, ratio_row, summary
from rich.console import Console
from rounds import Contender, Timings
from tables import failure_lines, print_rates
from turns import CLIPS, CPU, WALL, run_turns

from mgm_dali.config import RunConfig
from mgm_dali.data_commands import progress_bar

BASE = "ours: base"
QUICK = {
    "rounds": 1,
    "warm_up": 2,
    "clips": 32,
    "seconds": [5, 60],
    "lines": [480],
    "batch_sizes": [2],
    "workers": [1],
}


@dataclass(frozen=True)
class Setting:
    """The base, or what differs from it in one thing."""

    label: str = BASE
    form: Form = field(default_factory=Form)
    batch_size: int = 8
    num_workers: int = 2
    kinds: Sequence[str] = (CPU,)
    """Of time, that it is about."""


def main() -> None:
    """Makes the videos, measures, prints a table, and writes all numbers to a file if asked."""
    run(_options(), _measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--seconds", type=int, nargs="+", default=[5, 30, 300], help="lengths of videos")
    add("--gops", type=int, nargs="+", default=[250, 16], help="frames between key frames, of each")
    add("--lines", type=int, nargs="+", default=[240, 480, 720, 1080], help="heights of videos")
    add("--batch-sizes", type=int, nargs="+", default=[2, 4, 16], help="clips")
    add("--workers", type=int, nargs="+", default=[1, 4], help="processes that read")
    add("--rounds", type=int, default=3, help="in each all start anew")
    add("--warm-up", type=int, default=4, help="batches before those that are measured")
    add("--clips", type=int, default=64, help="that are measured, at least 3 batches")
    add_number_options(parser)
    options = parse(parser, ("rounds", "warm_up", "clips"), QUICK)
    for name in ("seconds", "gops", "lines", "batch_sizes", "workers"):
        if min(getattr(options, name)) < 1:
            parser.error(f"--{name.replace('_', '-')}: all must be at least 1")
    return options


def settings_of(options: argparse.Namespace) -> Iterator[Setting]:
    """The base first; none that is the base again."""
    base = Setting()
    yield base
    for gop in options.gops:
        for seconds in sorted({base.form.seconds, *options.seconds}):
            form = replace(base.form, seconds=seconds, gop=gop)
            if form != base.form:
                yield Setting(f"ours: videos of {seconds} s, a key frame every {gop}", form)
    for lines in options.lines:
        if lines != base.form.lines:
            width, height = (form := replace(base.form, lines=lines)).size
            yield Setting(f"ours: {width}x{height}", form)
    for size in options.batch_sizes:
        if size != base.batch_size:
            yield Setting(f"ours: batches of {size}", batch_size=size)
    for count in options.workers:
        if count != base.num_workers:
            label = f"ours: {count} worker" + "s" * (count > 1)
            yield Setting(label, num_workers=count, kinds=(CPU, WALL))


def _measure(console: Console, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    settings = {setting.label: setting for setting in settings_of(options)}
    videos: dict[Form, Path] = {}
    contenders: list[Contender] = []
    with progress_bar("videos") as advance:
        for setting in settings.values():
            if setting.form not in videos:
                videos[setting.form] = make_video(folder, 0, setting.form)
            own, video = folder / str(len(contenders)), videos[setting.form]
            contenders.append(_contender(setting, video, options, own))
            advance(len(contenders), len(settings))

    def measure(contender: Contender) -> dict[str, float]:
        with start("ours", folder, console.print, WORKER) as worker:
            return worker.measure("ours", dict(contender.arguments))

    with progress_bar("settings") as advance:
        timings = run_turns(contenders, options.rounds, measure, {START: "first_seconds"}, advance)
    print_rates(console, "our loader alone: medians", timings, contenders, {START: ".1f"})
    return {
        "settings": {label: asdict(setting) for label, setting in settings.items()},
        "timings": {name: asdict(measured) for name, measured in timings.items()},
        **summary(
            "time of a clip in our loader, the base's / this",
            others=ratios_to_base(settings, timings),
            not_measured=failure_lines(timings[CPU]),
        ),
    }


def ratios_to_base(
    settings: Mapping[str, Setting], timings: Mapping[str, Timings]
) -> Iterator[Row]:
    """Of each kind of time that a setting is about: below 1 a clip costs more than at the base."""
    for label, setting in settings.items():
        for kind in setting.kinds if label != BASE else ():
            if ratio := timings[kind].ratio(BASE, label, [CLIPS]):
                yield ratio_row(f"{kind}: {label}", BASE, ratio)


def _contender(
    setting: Setting, video: Path, options: argparse.Namespace, folder: Path
) -> Contender:
    """Reads the video under as many names as it reads clips."""
    videos, _ = open_videos([video], 1)
    num_batches = max(-(-options.clips // setting.batch_size), 3)
    stretch = Stretch(setting.batch_size, setting.num_workers, options.warm_up, num_batches)
    num_rows = (stretch.num_warm_up + num_batches + LEAST_AHEAD) * setting.batch_size
    manifest = new_files(videos, folder, num_rows)
    config = our_config(manifest, setting.batch_size, setting.num_workers)
    clips = planned_clips(manifest, RunConfig.model_validate(config), num_rows)
    arguments = {"stretch": asdict(stretch), "clips": clips, "config": config, "stage": "pretrain"}
    return Contender(setting.label, "ours", "ours", arguments)


if __name__ == "__main__":
    main()
