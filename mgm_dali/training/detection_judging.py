"""Judges a detector of actions: scores of all people, and what AVA's evaluation makes of them.

P people, A actions.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mgm_dali.clips.keyframes import people_in_clips
from mgm_dali.config import RunConfig
from mgm_dali.models import Classifier, Detector, LoadReport
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.training.average_precision import (
    MIN_OVERLAP,
    average_precisions,
    mean_precision_interval,
    most_certain_rows,
)
from mgm_dali.training.detection_tables import (
    DetectionResult,
    action_lines,
    listed_moments,
    result_in_words,
    write_detections,
)
from mgm_dali.training.evaluation_lines import first_lines, nothing_judged, require_any
from mgm_dali.training.judged_people import JudgedPeople
from mgm_dali.training.judging import Watcher, autocast
from mgm_dali.training.log import RunLog
from mgm_dali.training.views import reasons_of
from mgm_dali.training.world import World
from mgm_dali.video.ava import LabelledBoxes

__all__ = [
    "build_detector",
    "evaluate_detector",
    "found_actions",
    "judge_detector",
    "score_people",
]


def build_detector(config: RunConfig) -> Detector:
    """A new detector; its weights follow from torch's global random state."""
    assert config.model.num_classes is not None, "filled in from the list of actions"
    return Detector(config.model, config.model.num_classes, config.detection.box_cells)


def evaluate_detector(
    judged: JudgedPeople | None,
    config: RunConfig,
    network: Classifier,
    world: World,
    loaded: LoadReport,
    goes_on: Callable[[], None],
) -> DetectionResult:
    """Judges a detector; writes evaluation.json, detections.csv and per_action.csv.

    `loaded` says where its weights come from; `goes_on` is called behind every batch. Raises
    `UserError`, on all ranks and before anything is written, if no moment at all could be judged.
    """
    assert judged is not None, "data.val is set where anything is judged"
    with (
        _open_keyframes(config, judged, world) as loader,
        RunLog(config.output_dir, world.rank, len(loader)) as log,
    ):
        notes = [f"people     {note}" for note in judged.notes]
        for line in first_lines(config, loader, notes, loaded, _how(config)):
            log.line(line)

        def advance(done: int) -> None:
            goes_on()
            log.advance(done, "moments")

        scores = score_people(config, network, world, loader, judged, advance)
        unreadable = _unreadable(judged, scores, loader, world)
        is_any = not np.isnan(scores).all()
        require_any(is_any, config.data.val, "moments", unreadable)
        found = found_actions(judged, scores)
        result = _result(config, judged, found, unreadable, str(loaded.source))
        for line in (*action_lines(result), result_in_words(result)):
            log.line(line)  # before anything is written: the disk may be full
        if world.is_first:
            write_detections(result, found, judged, config.output_dir)
    return result


def judge_detector(
    judged: JudgedPeople | None,
    config: RunConfig,
    world: World,
    weights: dict[str, Tensor],
    watcher: Watcher,
) -> dict[str, float]:
    """Mean average precision of a detector's float32 weights, while it is trained."""
    assert judged is not None, "data.val is set where anything is judged"
    network = build_detector(config)
    network.load_state_dict(weights)
    with _open_keyframes(config, judged, world) as loader:
        scores = score_people(
            config, network, world, loader, judged, lambda _done: watcher.goes_on()
        )
        unreadable = _unreadable(judged, scores, loader, world)
    if np.isnan(scores).all():
        watcher.say(nothing_judged(config.data.val, "moments", unreadable))
    found = found_actions(judged, scores)
    mean = float(np.nanmean(average_precisions(judged.truth, found, len(judged.actions))))
    watcher.say(
        f"mAP {mean:.1%} on {len(judged.keyframes.moments)} moments, {len(unreadable)} of them "
        "unreadable"
    )
    return {"val/mAP": mean}


def score_people(
    config: RunConfig,
    network: nn.Module,
    world: World,
    loader: ClipLoader,
    judged: JudgedPeople,
    advance: Callable[[int], None],
) -> NDArray[np.float64]:
    """How sure the network is that each person does each action, over all ranks: `[P, A]`.

    NaN for people of moments that could not be read, or of whom its outputs are no numbers.
    `advance` is called with the number of batches done. Each person is in one clip of one rank, so
    that ranks sum to the whole.
    """
    network = network.to(world.device).eval()
    people, device = judged.keyframes.people, loader.placement.device
    sums = torch.zeros(len(people), len(judged.actions) + 1, dtype=torch.float64, device=device)
    for done, batch in enumerate(loader, start=1):
        counted = batch.index >= 0
        counted[loader.replaced] = False
        rows = torch.where(counted, batch.index, 0).tolist()
        assert batch.crop is not None
        crops, size = batch.crop.cpu().numpy(), batch.video.shape[-1]
        boxes, who = people_in_clips(judged.keyframes, rows, crops, size)
        mine = counted.cpu().numpy()[boxes[:, 0].astype(np.int64)]
        places = torch.from_numpy(boxes[mine]).to(device)
        with torch.inference_mode(), autocast(config, device):
            says = network(batch.video, places).double().sigmoid()
        seen = torch.cat((says, torch.ones_like(says[:, :1])), dim=1)
        sums[torch.from_numpy(who[mine]).to(device)] = seen
        advance(done)
    summed = world.sum(sums).cpu().numpy()
    scores: NDArray[np.float64] = summed[:, :-1]
    scores[(summed[:, -1] == 0) | ~np.isfinite(scores).all(axis=1)] = np.nan
    return scores


def found_actions(judged: JudgedPeople, scores: NDArray[np.float64]) -> LabelledBoxes:
    """The surest detections of each moment, as many as AVA's evaluation reads.

    `scores` is `[P, A]`; whose are NaN are not found.
    """
    people, num_actions = judged.keyframes.people, scores.shape[1]
    known = np.flatnonzero(np.isfinite(scores).all(axis=1))
    flat = scores[known].ravel()  # each person's actions, one behind the other
    chosen = most_certain_rows(np.repeat(people.moments[known], num_actions), flat)
    person, action = known[chosen // num_actions], chosen % num_actions
    return LabelledBoxes(people.moments[person], people.corners[person], action, flat[chosen])


def _open_keyframes(config: RunConfig, judged: JudgedPeople, world: World) -> ClipLoader:
    """This rank's share of the moments, as batches."""
    share = Share(config.evaluation.batch_size, world.rank, world.size)
    manifest = judged.keyframes.manifest
    return ClipLoader(config, "evaluate", share, needs_motion=False, manifest=manifest)


def _unreadable(
    judged: JudgedPeople, scores: NDArray[np.float64], loader: ClipLoader, world: World
) -> list[dict[str, str]]:
    """`video`, `second` and `reason` of each moment of which somebody has no scores."""
    keyframes = judged.keyframes
    people = np.flatnonzero(np.isnan(scores).any(axis=1))
    rows = np.unique(np.searchsorted(keyframes.first, people, side="right") - 1)
    reasons = reasons_of(rows, loader.reasons, world)
    return listed_moments(judged, dict(zip(keyframes.moments[rows].tolist(), reasons, strict=True)))


def _how(config: RunConfig) -> dict[str, str]:
    """What two evaluations of the same weights can differ by."""
    people = config.detection.people or config.detection.val
    return {"data": str(config.data.val), "people": str(people)}


def _result(
    config: RunConfig,
    judged: JudgedPeople,
    found: LabelledBoxes,
    unreadable: list[dict[str, str]],
    weights: str,
) -> DetectionResult:
    num_actions = len(judged.actions)
    precisions = average_precisions(judged.truth, found, num_actions)
    interval = mean_precision_interval(judged.truth, found, judged.videos, num_actions, config.seed)
    return DetectionResult(
        mean_average_precision=float(np.nanmean(precisions)),
        low=interval[0],
        high=interval[1],
        min_overlap=MIN_OVERLAP,
        num_people=len(judged.keyframes.people),
        num_moments=len(judged.keyframes.moments),
        num_boxes=len(judged.truth),
        weights=weights,
        **_how(config),
        action_names=[action.name for action in judged.actions],
        action_boxes=np.bincount(judged.truth.actions, minlength=num_actions).tolist(),
        average_precisions=[None if np.isnan(p) else p for p in precisions.tolist()],
        unreadable=unreadable,
        not_shown=listed_moments(judged, judged.keyframes.lost),
    )
