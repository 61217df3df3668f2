"""The position table, against the formula written with Python's own floats."""

import math

import pytest
import torch

from mgm_dali.models.position import sinusoid_table


@pytest.mark.parametrize("width", [64, 96, 768])
def test_the_table_is_the_formula(width: int) -> None:
    table = sinusoid_table(1568, width)
    assert table.shape == (1568, width) and table.dtype == torch.float32
    for n in (0, 1, 195, 1567):
        for j in (0, 1, 2, 31, width - 2, width - 1):
            angle = n / 10000 ** (2 * (j // 2) / width)
            expected = math.cos(angle) if j % 2 else math.sin(angle)
            assert table[n, j].item() == pytest.approx(expected, abs=1e-7)


def test_no_two_tokens_share_a_position() -> None:
    assert torch.pdist(sinusoid_table(1568, 128)).min() > 0.1
