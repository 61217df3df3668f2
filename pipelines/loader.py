"""The loader: batches of clips, and an account of every clip that could not be read."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Self

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.checks import check_augmentation, check_motion, manifest_for
from mgm_dali.pipelines.erasing import erase
from mgm_dali.pipelines.feed import BLANK, ClipFeed, reason_text
from mgm_dali.pipelines.placement import choose_placement
from mgm_dali.pipelines.recovery import cause_of, pipeline_stopped, refused_by_decoder
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.pipelines.stream import Stream
from mgm_dali.video.manifest import Manifest

__all__ = ["ClipLoader", "Skipped"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skipped:
    """A video whose clips were replaced by a stand-in's."""

    index: int
    path: Path
    reason: str


class ClipLoader:
    """Gives `ClipBatch`es; `make_loader` is the way to one.

    `for batch in loader` goes through one epoch, the next `for` through the next, or through the
    rest of one that was left early; "evaluate" goes through all views every time. `endless()` does
    not stop between epochs. `len(loader)` is the number of batches of the present epoch: a batch
    may reach into the next one, so it varies by one where the videos do not fill whole batches.

    A clip that cannot be read has a stand-in. If more are bad than `data.max_skipped` allows,
    iterating raises `UserError`; where several ranks train together, `problem` says it, and they
    stop together. If a worker process dies, it is started anew, and nothing is lost or changed.
    """

    def __init__(
        self,
        config: RunConfig,
        stage: Stage,
        share: Share,
        *,
        needs_motion: bool | None = None,
        manifest: Manifest | None = None,
        make_feed: Callable[..., ClipFeed] | None = None,
    ) -> None:
        """`manifest` takes the place of the config's, `make_feed` makes another kind of feed."""
        if needs_motion is None:
            needs_motion = stage == "pretrain"
        self.needs_motion = needs_motion
        self.stage = stage
        self.share = share
        self.manifest = manifest_for(config, stage) if manifest is None else manifest
        self.placement = choose_placement(config, self.manifest, needs_motion=needs_motion)
        self.forward = share.first_forward
        """Batches given since the first epoch began; all ranks are at the same."""
        self._placed = True
        """Was put where it is, and has given nothing since."""
        self.skipped: list[Skipped] = []
        """Each file once."""
        self.num_skipped = 0
        """How often one was met."""
        self.replaced: list[int] = []
        """Places in the newest batch that hold a stand-in."""
        self._restarts_before = 0
        self.problem: str | None = None
        """Why the run must stop, where several ranks have to agree on it first."""
        self.samples_seen = 0
        self._max_skipped = config.data.max_skipped
        self.feed = (make_feed or ClipFeed)(
            self.manifest,
            config,
            stage,
            share,
            motion_source=self.placement.motion_source,
            encoded=self.placement.decode == "nvdec",
        )
        self._stream: Stream | None = None
        self._named: set[int] = set()
        """Rows that are in `skipped`."""
        self._warned: set[Path] = set()
        """Files of which it was said that they are skipped: some have many rows."""
        check_motion(self.manifest, config, self.placement.motion_source)
        check_augmentation(self.feed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes; iterating starts them again, where they were."""
        if self._stream is not None:
            self._restarts_before += self._stream.restarts
            self._stream.close()
            self._stream = None

    @property
    def reasons(self) -> dict[int, str]:
        """Why a row was skipped, of each that was."""
        return {clip.index: clip.reason for clip in self.skipped}

    @property
    def restarts(self) -> int:
        """How often a worker process had to be started anew."""
        return self._restarts_before + (self._stream.restarts if self._stream else 0)

    @property
    def shared_bytes(self) -> int:
        """Memory in which worker processes hand over clips, at this moment."""
        return self._stream.shared_bytes if self._stream else 0

    def __len__(self) -> int:
        """Batches of this rank in the present epoch, or in the evaluation."""
        return self._end_of_epoch() - self._start_of_epoch(self.epoch)

    @property
    def epoch(self) -> int:
        """Of the next batch, counted from 0."""
        if self.stage == "evaluate":
            return 0
        return self.forward * self.share.global_batch // self.clips_per_epoch

    @property
    def clips_per_epoch(self) -> int:
        """Of all ranks together: videos times repeats, or views."""
        return self.feed.num_samples * self.feed.repeats

    def __iter__(self) -> Iterator[ClipBatch]:
        if self.stage == "evaluate":
            if not self._placed:
                self._go_to(0)
            self._placed = False
            yield from self._batches(until=len(self))
            self._go_to(0)
        else:
            yield from self._batches(until=self._end_of_epoch())

    def endless(self) -> Iterator[ClipBatch]:
        """Batches of epoch after epoch, without an end; not for "evaluate"."""
        assert self.stage != "evaluate", "an evaluation has an end"
        return self._batches(until=None)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, for `load_state_dict` of one that is made alike; fit for JSON."""
        return {
            "forward": self.forward,
            "samples_seen": self.samples_seen,
            "num_skipped": self.num_skipped,
            "refused": [[row, reason] for row, reason in self.feed.refused.items()],
            **self._identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where another loader was; its next batch is the one that would have come next.

        The number of ranks may be another, if the global batch is the same. Raises `UserError` if
        the clips would not be those that the other loader would have given.
        """
        for name, here in self._identity.items():
            if name not in state:
                raise UserError("this is not the state of a loader: take what state_dict() gave")
            if state[name] != here:
                raise UserError(
                    f"this is the state of another loader: its {name.replace('_', ' ')} is "
                    f"{state[name]}, here it is {here}; set the config to what it was"
                )
        self._go_to(int(state["forward"]))
        self._placed = True
        self.samples_seen, self.num_skipped = state["samples_seen"], state["num_skipped"]
        self.feed.refused.update((row, reason) for row, reason in state["refused"])

    def motion_source_of(self, row: int) -> str | None:
        """Where the motion of this manifest row comes from: a name of MOTION_SOURCES, or None."""
        return self.feed.source_for(self.manifest[row])

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What the clips depend on, and the row they come in; long lists by a checksum."""
        config = self.feed.config
        sections = config.model_dump_json(include={"clip", "augment", "motion", "evaluation"})
        shape = f"{config.model.num_frames} {config.model.image_size} {config.accumulates_motion}"
        return {
            "stage": self.stage,
            "seed": config.seed,
            "list_of_videos": self.manifest.checksum(),
            "choice_of_clips": _checksum(sections.encode(), shape.encode()),
            "repeats": self.feed.repeats,
            "global_batch": self.share.global_batch,
        }

    def _start_of_epoch(self, epoch: int) -> int:
        """The first batch that begins in an epoch."""
        return -(-epoch * self.clips_per_epoch // self.share.global_batch)

    def _end_of_epoch(self) -> int:
        return self._start_of_epoch(self.epoch + 1)

    def _go_to(self, forward: int) -> None:
        if forward != self.forward:
            self.close()  # it has prepared other batches
            self.forward = forward

    def _batches(self, until: int | None) -> Iterator[ClipBatch]:
        while until is None or self.forward < until:
            outputs = self._outputs()
            self.forward += 1
            yield self._batch(outputs)

    def _outputs(self) -> dict[str, Tensor]:
        """The graph's next outputs, from a new pipeline if the present one has failed."""
        while True:
            stream = self._stream = self._stream or self._start()
            try:
                return next(stream)
            except RuntimeError as error:
                self._recover(error)
            except BaseException as error:
                # It has gone on, and this loader has not: the next batch needs a new one.
                self.close()
                if isinstance(error, UserError):
                    raise UserError(str(error)) from None  # without DALI's frames
                raise

    def _start(self) -> Stream:
        try:
            return Stream(self.feed.at(self.forward), self.placement)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"the data pipeline cannot start: {cause_of(error)}; `mgm-dali doctor` says what "
                "this machine has"
            ) from error

    def _recover(self, error: RuntimeError) -> None:
        """Has files refused that the decoder in the graph refuses, or raises `UserError`."""
        self.close()
        refused: dict[int, str] = {}
        if self.feed.encoded:
            refused = refused_by_decoder(self.feed.at(self.forward), self.placement)
        if not refused.keys() - self.feed.refused.keys():
            raise pipeline_stopped(error, nvdec=self.feed.encoded) from error
        self.feed.refused.update(refused)
        for row, reason in refused.items():
            logger.warning("%s: %s; it is given up", self.manifest[row].path, reason)

    def _batch(self, outputs: dict[str, Tensor]) -> ClipBatch:
        facts = outputs["facts"].cpu()
        self._account(facts, outputs["reason"].cpu())
        on_device = facts.flatten(0, 1).to(self.placement.device, non_blocking=True)
        label, index, view, seed = on_device[:, :4].unbind(1)
        video = _apart(outputs["video"], self.feed.repeats)
        if self.stage == "finetune":
            video = erase(video, seed, self.feed.config.augment.erase)
        return ClipBatch(
            video=video,
            motion=_apart(outputs["motion"], self.feed.repeats),
            motion_valid=outputs["motion_valid"].bool().repeat_interleave(self.feed.repeats, 0),
            label=label,
            index=index,
            view=view,
            seed=seed,
            motion_known=_apart(outputs["motion_known"], self.feed.repeats)[..., 0].bool(),
            crop=on_device[:, 5:],
        )

    def _account(self, facts: Tensor, reasons: Tensor) -> None:
        """Notes the stand-ins of a batch: `facts [D, R, 9]`, `reasons [D, bytes]`."""
        decodings, repeats, _ = facts.shape
        self.samples_seen += decodings
        states = facts[:, 0, 4].tolist()
        bad = [place for place, state in enumerate(states) if state]
        self.replaced = [place * repeats + clip for place in bad for clip in range(repeats)]
        for place in bad:
            index = int(facts[place, 0, 1])
            if index >= 0:
                last = Skipped(
                    index, self.manifest[index].path, reason_text(reasons[place].tolist())
                )
                self._note(last)
        if self.stage == "evaluate" or not bad:
            return
        # Before the first epoch is over, its whole length counts; and one bad file is no reason to
        # stop unless none is allowed.
        epoch = len(self.manifest) / self.share.world_size
        allowed = self._max_skipped * max(self.samples_seen, epoch)
        if self.num_skipped > (max(allowed, 1) if allowed else 0):
            share = f"more than data.max_skipped = {self._max_skipped:.1%} allows"
        elif BLANK in states:
            share = "and one of them has no stand-in that can"
        else:
            return
        self.problem = (
            f"{self.num_skipped} of {self.samples_seen} videos could not be read, {share}; the "
            f"last was {last.path}: {last.reason}. Mend or remove the files listed in "
            "skipped.csv, or raise the limit"
        )
        if self.share.world_size == 1:
            raise UserError(self.problem)

    def _note(self, clip: Skipped) -> None:
        self.num_skipped += 1
        if clip.index not in self._named:
            self._named.add(clip.index)
            self.skipped.append(clip)
        if clip.path not in self._warned:
            self._warned.add(clip.path)
            logger.warning("skipped %s: %s", clip.path, clip.reason)


def _checksum(*parts: bytes) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _apart(clips: Tensor, repeats: int) -> Tensor:
    """`[D, R * C, ...]` to `[D * R, C, ...]`; nothing is copied."""
    decodings, length, *rest = clips.shape
    return clips.view(decodings * repeats, length // repeats, *rest)
