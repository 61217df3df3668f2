"""Features of all videos of a manifest, computed once by all ranks, and kept.

Each rank encodes its share of the views. Shard by shard they are summed into one table by manifest
row, where every view has one place and all other ranks have zeros; the first rank writes it.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.checks import manifest_for
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.placement import Placement, choose_placement
from mgm_dali.pipelines.share import Share
from mgm_dali.training.feature_store import (
    FeatureSpec,
    FeatureTable,
    Shard,
    Store,
    differences,
    find_store,
    open_table,
    write_shard,
)
from mgm_dali.training.frozen import FrozenEncoder
from mgm_dali.training.judging import autocast
from mgm_dali.training.log import RunLog
from mgm_dali.training.views import reasons_of
from mgm_dali.training.world import World
from mgm_dali.video.kept_columns import checksum_of_columns
from mgm_dali.video.manifest import Manifest

__all__ = ["FeatureMaker", "Split", "plan_features", "splits_of"]

FORMAT = 1
"""Of the folders; another number makes all features anew."""


@dataclass(frozen=True)
class Split:
    """The training or the judged videos, as clips are asked of them."""

    name: str
    config: RunConfig
    """With these videos as `data.val` and their views as `evaluation`'s."""
    manifest: Manifest
    placement: Placement


def splits_of(config: RunConfig) -> tuple[Split, Split]:
    """Train, with the views of `probe.train_segments` and `train_crops`, and val.

    Raises `UserError` if the config does not name both.
    """
    train = manifest_for(config, "pretrain")
    probe = config.probe
    views = {"num_segments": probe.train_segments, "num_crops": probe.train_crops}
    evaluation = config.evaluation.model_copy(update=views)
    data = config.data.model_copy(update={"val": train.path})
    as_val = config.model_copy(update={"data": data, "evaluation": evaluation})
    return _split("train", as_val), _split("val", config)


def _split(name: str, config: RunConfig) -> Split:
    manifest = manifest_for(config, "evaluate")
    return Split(name, config, manifest, choose_placement(config, manifest, needs_motion=False))


def plan_features(
    splits: tuple[Split, Split],
    encoder: FrozenEncoder,
    world: World,
    doing: Callable[[str], None],
) -> list["FeatureMaker"]:
    """What is there already, and who makes the rest: one for each split. All ranks must call it.

    What is there is read once, against its checksums; `doing` hears of it. Raises `UserError`, on
    all ranks, if the machines list other videos, or if the disk has no room for what is to come.
    """
    config = splits[0].config
    per_side = config.probe.attentive.tokens_per_side * ("attentive" in config.probe.kinds)
    root = config.output_dir / "features"
    asked = [_spec(split, encoder, per_side) for split in splits]
    for split, spec in zip(splits, asked, strict=True):
        same = spec.digest == world.text_of_first(spec.digest)
        world.require(None if same else _another_list(split))
    elsewhere = [Store(root, spec, []) for spec in asked]
    stores = world.only_first(
        lambda: _find_stores(root, asked, lambda: doing("checking features")), elsewhere
    )
    makers = []
    for split, store in zip(splits, stores, strict=True):
        shards = world.text_of_first(" ".join(str(number) for number, _ in store.missing)).split()
        said = _opening(root, store) if world.is_first else []
        made = [int(number) for number in shards]
        makers.append(FeatureMaker(split, encoder, store.spec, store.folder, world, made, said))
    return makers


@dataclass(frozen=True)
class FeatureMaker:
    """Makes the shards of one split that are missing."""

    split: Split
    encoder: FrozenEncoder
    spec: FeatureSpec
    folder: Path
    """The first rank alone reads and writes there."""
    world: World
    missing: list[int]
    said: list[str]
    """What is there and what is made, and why, for the log."""

    @property
    def num_forwards(self) -> int:
        """Batches of this rank that the missing shards take."""
        return sum(len(self._forwards(stretch)) for stretch in _stretches(self.missing))

    def make(self, log: RunLog, done: int, doing: Callable[[str], None]) -> int:
        """Encodes and writes what is missing; the progress behind it, `done` that before it.

        All ranks must call it. Raises `UserError`, on all ranks, if features are no numbers or
        cannot be written.
        """
        for line in self.said:
            log.line(line)
        for stretch in _stretches(self.missing):
            forwards = self._forwards(stretch)
            share = self._share(forwards.start)
            pending: list[Shard] = []
            with ClipLoader(self.split.config, "evaluate", share, needs_motion=False) as loader:
                for forward, batch in zip(forwards, loader, strict=False):  # it would go on
                    pending.append(self._encode(batch, loader.replaced))
                    reached = (forward + 1) * share.global_batch
                    while stretch and reached >= self._samples(stretch[0]).stop:
                        pending = self._write(stretch.pop(0), pending, loader.reasons)
                    done += 1
                    log.advance(done, f"features of {self.split.name}")
                    doing("encoding")
        return done

    def table(self) -> FeatureTable:
        """All features of the split; for the first rank."""
        return open_table(self.folder, self.spec)

    def _share(self, first_forward: int = 0) -> Share:
        batch_size = self.split.config.evaluation.batch_size
        return Share(batch_size, self.world.rank, self.world.size, first_forward)

    def _samples(self, shard: int) -> range:
        """The views of a shard, counted over all videos."""
        rows, views = self.spec.rows_of(shard), self.spec.num_views
        return range(rows.start * views, rows.stop * views)

    def _forwards(self, stretch: list[int]) -> range:
        """The batches that hold the views of these neighbouring shards."""
        batch = self._share().global_batch
        first, last = self._samples(stretch[0]).start, self._samples(stretch[-1]).stop
        return range(first // batch, -(-last // batch))

    def _encode(self, batch: ClipBatch, replaced: list[int]) -> Shard:
        """What this rank knows of its batch; `sample` says which views, -1 which are none."""
        with torch.inference_mode(), autocast(self.split.config, self.world.device):
            mean, tokens = self.encoder(batch.video, self.spec.num_tokens)
        state = torch.full((len(batch),), 2, dtype=torch.uint8)
        state[replaced] = 1
        sample = torch.where(batch.index < 0, -1, batch.index * self.spec.num_views + batch.view)
        part = {"sample": sample.cpu(), "mean": mean, "state": state}
        return part if tokens is None else {**part, "tokens": tokens}

    def _write(self, shard: int, pending: list[Shard], reasons: Mapping[int, str]) -> list[Shard]:
        """Merges a shard from all ranks' parts and has it written; the parts that are left.

        `reasons` are those that this rank knows, by row.
        """
        samples, rows = self._samples(shard), self.spec.rows_of(shard)
        merged: Shard = {}
        for name, (shape, dtype) in self.spec.layout.items():
            sums = torch.zeros((len(samples), *shape), dtype=dtype, device=self.world.device)
            for part in pending:
                counted = (part["sample"] >= samples.start) & (part["sample"] < samples.stop)
                if name != "state":  # a stand-in's features are nobody's
                    counted &= part["state"] == 2
                places = (part["sample"][counted] - samples.start).to(sums.device)
                sums[places] = part[name][counted.to(part[name].device)].to(sums.device)
            summed = self.world.sum(sums).cpu()
            merged[name] = summed.view(len(rows), self.spec.num_views, *shape)
        lost = rows.start + np.flatnonzero((merged["state"] == 1).any(dim=1).numpy())
        told = dict(zip(lost.tolist(), reasons_of(lost, reasons, self.world), strict=True))
        self.world.only_first(lambda: self._keep(shard, merged, told), None)
        return [part for part in pending if int(part["sample"].max()) >= samples.stop]

    def _keep(self, shard: int, merged: Shard, reasons: Mapping[int, str]) -> None:
        state = merged["state"]
        assert bool(((state == 1) | (state == 2)).all()), "a view was lost, or encoded twice"
        for name in merged.keys() - {"state"}:
            if not bool(torch.isfinite(merged[name]).all()):
                raise UserError(
                    f"{self.encoder.report.source}: gives {name} features of {self.split.name} "
                    f"videos that are no numbers in {merged[name].dtype}: take other weights, or "
                    "training.precision=fp32 if these are sound"
                )
        write_shard(self.folder, self.spec, shard, merged, reasons)


def _spec(split: Split, encoder: FrozenEncoder, tokens_per_side: int) -> FeatureSpec:
    config, manifest, views = split.config, split.manifest, split.config.evaluation
    num_tokens = encoder.num_tokens(tokens_per_side)
    columns = (manifest.path_bytes, manifest.path_ends, manifest.num_frames, manifest.fps)
    sizes = (manifest.widths, manifest.heights)
    videos = checksum_of_columns(*columns, *sizes)
    precision = "fp32"
    if split.placement.device.type == "cuda":  # as `autocast` does
        precision = config.training.precision.replace("auto", "bf16")
    key: dict[str, Any] = {
        "format": FORMAT,
        **encoder.identity(),
        "videos": videos,
        **{f"clip.{name}": v for name, v in config.clip.model_dump(mode="json").items()},
        "segments": views.num_segments,
        "crops": views.num_crops,
        "decode": split.placement.decode,
        "precision": precision,
        "tokens": num_tokens,
    }
    num_views = views.num_segments * views.num_crops
    return FeatureSpec(split.name, key, len(manifest), num_views, encoder.width, num_tokens)


def _stretches(shards: list[int]) -> Iterator[list[int]]:
    """Neighbouring shards together: 0 1 2, 7 8."""
    for _, group in groupby(enumerate(shards), lambda each: each[1] - each[0]):
        yield [shard for _, shard in group]


def _find_stores(root: Path, specs: list[FeatureSpec], goes_on: Callable[[], None]) -> list[Store]:
    """Refuses before the first video is read what would fill the disk."""
    stores = [find_store(root, spec, goes_on) for spec in specs]
    needed = 0
    for store in stores:
        spec = store.spec
        shard_bytes = spec.rows_per_shard * spec.num_views * spec.bytes_per_view
        needed += min(len(store.missing) * shard_bytes, spec.num_bytes)
    free = shutil.disk_usage(root.parent).free
    if needed > free:
        raise UserError(
            f"{root}: the features need {_size(needed)}, and the disk has {_size(free)} free; make "
            "room, take a smaller probe.attentive.tokens_per_side or fewer views, or leave "
            "attentive out of probe.kinds"
        )
    return stores


def _opening(root: Path, store: Store) -> list[str]:
    folder, spec, missing = store.folder, store.spec, store.missing
    tokens = f" and {spec.num_tokens} tokens in float16" if spec.num_tokens else ""
    lines = [
        f"features   {spec.split}: {spec.num_rows} videos x {spec.num_views} view(s), means of "
        f"{spec.width} numbers in float32{tokens}, {_size(spec.num_bytes)} in {folder}"
    ]
    if not missing:
        lines.append("features   all are there and are taken as they are")
    elif folder.exists():
        there = spec.num_shards - len(missing)
        lines.append(f"features   {there} of {spec.num_shards} parts are there; the rest is made")
    else:
        lines.append(f"features   made anew: {differences(root, spec)}")
    return lines + [f"features   made again: {why}" for _, why in missing if why]


def _another_list(split: Split) -> str:
    return (
        f"{split.manifest.path}: this machine would make other features of it than that of rank 0; "
        "give all machines the same list, and the same kind of device"
    )


def _size(num_bytes: int) -> str:
    for power, unit in ((3, "GB"), (2, "MB")):
        if num_bytes >= 1000**power:
            return f"{num_bytes / 1000**power:.1f} {unit}"
    return f"{num_bytes / 1000:.0f} kB"
