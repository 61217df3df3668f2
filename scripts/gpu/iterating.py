"""G8: batches stay what they were while they are held, and a resumed loader goes on the same."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from gpu.configs import config_for, decode_here
from gpu.findings import Findings
from gpu.made_videos import NUM_VIDEOS, made, motion_store
from gpu.setting import Setting
from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.pipelines import make_loader

__all__ = ["different_fields", "iterating"]

NUM_HELD, NUM_BEFORE, NUM_BEHIND = 10, 3, 4


def iterating(setting: Setting, findings: Findings) -> None:
    """With a motion store, and four clips of each decoding in a second round."""
    decode = decode_here(setting, findings)
    manifest = made(setting, "prepared", setting.pick(NUM_VIDEOS, 4))
    data = {"motion_store": motion_store(setting, manifest)}
    for repeats in setting.pick((1, 4), (2,)):
        training = {"batch_size": setting.pick(16, 4)}
        augment = {"repeats": repeats}
        config = config_for(
            setting, manifest, decode=decode, data=data, training=training, augment=augment
        )
        name = f"{repeats} clip(s) of a decoding"
        with findings.claim(f"{name}: all fields are on the device, finite and of one type"):
            _require_on_device(setting, config)
        with findings.claim(f"{name}: {NUM_HELD} batches that are held stay as they were") as found:
            _hold(setting, config, found)
        with findings.claim(f"{name}: two loaders, and one that is resumed, give the same"):
            _resume(config)
    if setting.on_gpu:
        with findings.claim("a batch can be used on another stream of the device"):
            _other_stream(config)


def different_fields(one: ClipBatch, other: ClipBatch) -> list[str]:
    """Names of the fields in which two batches differ by a bit."""
    pairs = zip(_fields(one), _fields(other), strict=True)
    return [name for (name, here), (_, there) in pairs if not torch.equal(here, there)]


def _fields(batch: ClipBatch) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(batch).items():
        if isinstance(value, Tensor):
            yield name, value


def _require_on_device(setting: Setting, config: RunConfig) -> None:
    with make_loader(config, "pretrain") as loader:
        batch = next(loader.endless())
    for name, tensor in _fields(batch):
        if tensor.device.type != setting.device:
            raise ValueError(f"{name} is on {tensor.device}")
    if not bool(batch.video.isfinite().all() and batch.motion.isfinite().all()):
        raise ValueError("there are values that are no numbers")
    if not bool(batch.motion_valid.any() and batch.motion.any()):
        raise ValueError("there is no motion")


def _hold(setting: Setting, config: RunConfig, found: list[str]) -> None:
    with make_loader(config, "pretrain") as loader:
        stream = loader.endless()
        held = list(islice(stream, NUM_HELD))
        copies = [{name: value.clone() for name, value in _fields(batch)} for batch in held]
        for _ in range(setting.pick(3 * NUM_HELD, 3)):
            next(stream)
        changed = {
            name
            for batch, copied in zip(held, copies, strict=True)
            for name, value in _fields(batch)
            if not torch.equal(value, copied[name])
        }
        own = {batch.video.data_ptr() for batch in held}
    if changed:
        raise ValueError(f"changed: {', '.join(sorted(changed))}")
    if len(own) != len(held):
        raise ValueError("two of them share memory")
    found.append(f"{len(held)} batches of {len(held[0])} clips")


def _resume(config: RunConfig) -> None:
    with make_loader(config, "pretrain") as loader:
        stream = loader.endless()
        for _ in range(NUM_BEFORE):
            next(stream)
        state = loader.state_dict()
        expected = list(islice(stream, NUM_BEHIND))
    with make_loader(config, "pretrain") as resumed:
        resumed.load_state_dict(state)
        _require_same("resumed", expected, islice(resumed.endless(), NUM_BEHIND))
    with make_loader(config, "pretrain") as again:
        whole = islice(again.endless(), NUM_BEFORE, NUM_BEFORE + NUM_BEHIND)
        _require_same("from the start", expected, whole)


def _require_same(name: str, expected: list[ClipBatch], found: Iterator[ClipBatch]) -> None:
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        if different := different_fields(one, other):
            raise ValueError(f"{name}: batch {number} differs in {', '.join(different)}")


def _other_stream(config: RunConfig) -> None:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with make_loader(config, "pretrain") as loader:
        for batch in islice(loader.endless(), NUM_HELD):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                there = batch.video.double().sum()
            torch.cuda.current_stream().wait_stream(side)
            here = batch.video.double().sum()
            if not torch.equal(here, there):
                raise ValueError(f"sums {float(here)} and {float(there)}")
