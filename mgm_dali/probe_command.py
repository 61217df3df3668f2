"""`mgm-dali probe`: what frozen features are worth, and a table of it."""

from rich.console import Console
from rich.table import Table

from mgm_dali.config import RunConfig
from mgm_dali.plain_table import print_table
from mgm_dali.training.probe import probe
from mgm_dali.training.probe_report import ProbeResult, setting_in_words

__all__ = ["run_probe"]


def run_probe(config: RunConfig) -> None:
    """Probes the encoder of `model.init` and prints a line for each kind; the first rank alone."""
    if results := probe(config):
        print_table(Console(), _table(results))


def _table(results: list[ProbeResult]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("probe", no_wrap=True)
    table.add_column("chosen setting")
    for name in ("held-out", "top-1", "95% interval", "top-5", "chance"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        verdict = result.verdict
        table.add_row(
            result.kind,
            setting_in_words(result.setting),
            f"{result.held_out_top1:.1%}",
            f"{verdict.top1:.1%}",
            f"{verdict.top1_low:.1%} to {verdict.top1_high:.1%}",
            f"{verdict.top5:.1%}",
            f"{verdict.chance:.1%}",
        )
    return table
