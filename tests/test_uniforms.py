"""Uniform numbers: those of the published generator, uniform, and unrelated between streams."""

import pytest
import torch
from reference_uniforms import between, bits

from mgm_dali.uniforms import uniform_bits, uniform_integers, uniforms

SEEDS = torch.tensor((0, 1, 2**62 + 12345, 2**63 - 1, -1, -(2**63)))


@pytest.mark.parametrize("stream", [0, 3, 12])
def test_bits_equal_the_published_generator_in_plain_integers(stream):
    found = uniform_bits(SEEDS, stream, 8)
    expected = [[bits(seed, stream, number) for number in range(8)] for seed in SEEDS.tolist()]
    assert found.dtype == torch.int64 and found.tolist() == expected


def test_uniforms_are_the_same_numbers_as_fractions():
    fractions = uniforms(SEEDS, 3, 100)
    assert fractions.dtype == torch.float32
    assert torch.equal((fractions.double() * 2**24).long(), uniform_bits(SEEDS, 3, 100))


def test_integers_take_every_value_from_the_lowest_to_the_highest():
    found = uniform_integers(SEEDS, 5, -2, 2, 1000)
    numbers = [between(-2, 2, bits(seed, 5, 7)) for seed in SEEDS.tolist()]
    assert found[:, 7].tolist() == numbers
    for value in range(-2, 3):
        assert (found == value).sum(1).sub(200).abs().max() < 60


def test_uniforms_are_uniform_and_unrelated():
    numbers = uniforms(torch.arange(2000), stream=0, count=196)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.002 and abs(numbers.var() - 1 / 12) < 0.001
    assert torch.corrcoef(numbers[:50]).triu(1).abs().max() < 0.35
    other = uniforms(torch.arange(2000), stream=1, count=196)
    assert not torch.equal(numbers, other)
    assert abs(((numbers - 0.5) * (other - 0.5)).mean()) < 0.001


def test_a_longer_stream_begins_with_the_shorter_one():
    assert torch.equal(uniform_bits(SEEDS, 2, 50)[:, :10], uniform_bits(SEEDS, 2, 10))
