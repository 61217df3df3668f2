"""timesformer_base with vit_micro's widths, so that tests of it are quick."""

from dataclasses import replace

import pytest

from mgm_dali.models import BACKBONES

__all__ = ["small_timesformer"]


def small_timesformer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, `timesformer_base` has 4 blocks of width 128."""
    small = replace(BACKBONES["vit_micro"], learned_positions=True)
    monkeypatch.setitem(BACKBONES, "timesformer_base", small)
