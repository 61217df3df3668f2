"""The picture of a profile: what a clip takes in each place, and what that allows."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mgm_dali.profiling.profile import Profile
from mgm_dali.report.style import COLOURS, figure_style

__all__ = ["draw_profile"]

NAMED_SHARE = 0.06
"""Smaller parts have no room for their name."""
TITLES = {"workers": "worker processes", "graph": "DALI's graph", "computing": "computing"}


def draw_profile(profile: Profile) -> Figure:
    """Above: the parts of a clip's time, place by place. Below: clips a second that each allows."""
    with figure_style():
        figure = Figure(figsize=(8, 5.2), layout="constrained")
        parts, rates = figure.subplots(2, 1, height_ratios=(3, 4))
        _draw_parts(parts, profile)
        _draw_rates(rates, profile)
        figure.suptitle(
            f"{profile.settings['model.name']}, {profile.stage}, {profile.device}: "
            f"{profile.together.clips_per_second:.3g} clips/s a rank, "
            f"{profile.together.data_wait_share:.0%} waiting for data"
        )
    return figure


def _draw_parts(axes: Axes, profile: Profile) -> None:
    rows = {place: steps for place, (steps, _) in profile.costs.places.items()}
    longest = max(sum(step.seconds for step in steps.values()) for steps in rows.values())
    for place, steps in enumerate(rows.values()):
        left = 0.0
        for number, (name, step) in enumerate(steps.items()):
            width = 1e3 * max(step.seconds, 0.0)
            colour = COLOURS[number % len(COLOURS)]
            axes.barh(place, width, left=left, color=colour, edgecolor="white", height=0.6)
            if width > NAMED_SHARE * 1e3 * longest:
                axes.text(left + width / 2, place, name, ha="center", va="center", color="white")
            left += width
        axes.annotate(f"{left:.3g}", (left, place), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [TITLES[name] for name in rows])
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlabel("milliseconds a clip, alone")


def _draw_rates(axes: Axes, profile: Profile) -> None:
    cores = f"{profile.machine.cores:.3g} core(s)"
    workers = f"{profile.machine.num_workers} worker process(es)"
    names = {"storage": "storage", **TITLES, "workers": workers, "cores": cores}
    rates = [profile.limits[name] for name in names]
    colours = [COLOURS[1] if name == profile.bound.limit else COLOURS[0] for name in names]
    rates.append(profile.together.clips_per_second)
    colours.append(COLOURS[2])
    labels = [*names.values(), "together, found"]
    axes.set_xscale("log")  # so points, not bars: their length would mean nothing
    axes.scatter(rates, range(len(rates)), c=colours, s=60, zorder=3)
    axes.grid(axis="x", which="both", color="0.92")
    for place, rate in enumerate(rates):
        said = f"{rate:.3g}" if rate < 100 else f"{rate:,.0f}"
        axes.annotate(said, (rate, place), (8, 0), textcoords="offset points", va="center")
    axes.axvline(profile.limits[profile.bound.limit], color=COLOURS[1], linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rates)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.15)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("clips/s that each would allow by itself (log); the dashed one bounds the run")
