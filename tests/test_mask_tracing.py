"""Masks never make the host wait for the device, and compile in one piece."""

import pytest
import torch
from made_motion import MASK_CONFIGS, Made, holes, seeds
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mgm_dali.config import MaskConfig
from mgm_dali.masking import MASKS, PatchGrid, decoded_tokens, make_mask

GRID = PatchGrid(4, 7, 7)


@pytest.fixture(params=MASK_CONFIGS.values(), ids=MASK_CONFIGS)
def config(request):
    return request.param


def masks(made, seed, config):
    """Both kinds: what is hidden, and which of it is predicted."""
    mask = make_mask(made.motion, made.valid, seed, GRID, config, made.known)
    return mask, decoded_tokens(mask, seed, GRID, 70)


def test_masks_trace_without_values_on_the_device_of_their_inputs(config):
    """Fake tensors have no values, and those of two devices do not mix."""
    with FakeTensorMode():
        made = holes(GRID, 2)
        made = Made(*(field.to("meta") for field in made))
        traced = masks(made, torch.ones(2, dtype=torch.int64, device="meta"), config)
    for mask in traced:
        assert mask.shape == (2, GRID.num_tokens) and mask.dtype == torch.bool
        assert mask.device.type == "meta"


class NothingWaits(TorchDispatchMode):
    """Refuses what a GPU could not do on its own: sizes that follow from values, values, copies."""

    WAITING = frozenset(
        {
            *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select"),
            *("_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave"),
            *("lift_fresh", "lift_fresh_copy", "copy_", "_copy_from", "_pin_memory"),
        }
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        del types
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        assert name not in self.WAITING, name
        if name.startswith(("index", "_index")):
            chosen = [i for i in torch.utils._pytree.tree_leaves(args[1:]) if torch.is_tensor(i)]
            assert all(index.dtype != torch.bool for index in chosen), "places where a mask is True"
        if name == "_to_copy":
            assert kwargs.get("device") in (None, args[0].device), "to another device"
        return function(*args, **kwargs)


SINS = {
    "a value": lambda x: x.max().item(),
    "a branch": lambda x: 1 if x.any() else 0,
    "places": lambda x: x.nonzero(),
    "a mask as index": lambda x: x[x > 0],
    "a mask that is written to": lambda x: x.index_put_((x > 0,), torch.zeros_like(x[0])),
    "a selection": lambda x: x.masked_select(x > 0),
    "literal numbers": lambda x: x * torch.tensor([1, 2, 3]),
    "repeats": lambda x: x.repeat_interleave(x),
    "another device": lambda x: x.to("meta"),
    "a comparison": lambda x: torch.equal(x, x),
    "unlike ones": lambda x: x.unique(),
}


@pytest.mark.parametrize("sin", SINS.values(), ids=SINS)
def test_what_waits_is_noticed(sin):
    x = torch.arange(3)
    sin(x)
    with NothingWaits(), pytest.raises(AssertionError):
        sin(x)


def test_masks_wait_for_nothing(config):
    made, seed = holes(GRID, 2), seeds(2)
    with NothingWaits():
        masks(made, seed, config)


LEAN = {MaskConfig(strategy=strategy) for strategy in ("tube", "motion_guided", "flow_warp")}
"""Compiling takes a second each: the others are slow tests."""


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=name, marks=[] if config in LEAN else pytest.mark.slow)
        for name, config in MASK_CONFIGS.items()
    ],
)
def test_masks_compile_in_one_piece_and_stay_the_same(config):
    made, seed = holes(GRID, 2), seeds(2)
    torch.compiler.reset()
    compiled = torch.compile(masks, fullgraph=True, backend="eager", dynamic=False)
    found, expected = (make(made, seed, config) for make in (compiled, masks))
    assert all(map(torch.equal, found, expected))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", MASKS)
def test_masks_compiled_to_kernels_are_equal_bit_for_bit(strategy):
    torch.compiler.reset()
    compiled = torch.compile(masks, fullgraph=True, dynamic=False)
    config = MaskConfig(strategy=strategy)
    for number in range(3):
        made, seed = holes(GRID, 4, number), seeds(4, number)
        found, expected = (make(made, seed, config) for make in (compiled, masks))
        assert all(map(torch.equal, found, expected))
