"""`mgm-dali doctor`: what works less well is said, with what is slow and the repair."""

import pytest

from mgm_dali.doctor import CHECKS


@pytest.mark.parametrize(("work", "state"), [(True, "ok"), (False, "limited")])
def test_torchvision_without_operators_is_limited_and_says_what_is_slow(monkeypatch, work, state):
    monkeypatch.setattr("mgm_dali.torchvision_ops.import_torchvision", lambda: work)
    finding = CHECKS["torchvision"]()
    assert finding.state == state
    assert ("RoIAlign is a slower stand-in" in finding.found) != work
    assert finding.repair.startswith("for detection: install torchvision") != work
