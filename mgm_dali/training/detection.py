"""Detecting actions after AVA: what people in given boxes do, judged by mAP."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.clips.keyframes import Keyframes, keyframes_of, people_in_clips
from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.checks import manifest_for
from mgm_dali.training.detection_judging import (
    build_detector,
    evaluate_detector,
    judge_detector,
)
from mgm_dali.training.engine import Network
from mgm_dali.training.judged_people import people_to_judge
from mgm_dali.training.judging import Judgement
from mgm_dali.training.objective import Objective
from mgm_dali.video.ava import Action, Moments, read_actions, read_people

__all__ = ["detection"]


def detection(config: RunConfig, list_path: Path, *, to_train: bool) -> tuple[RunConfig, Objective]:
    """The config with its number of actions, and how a detector is trained and judged.

    `list_path` is AVA's list of actions. Raises `UserError` if a file of `detection` does not fit.
    """
    actions = read_actions(list_path)
    config = _with_actions(config, actions, list_path)
    keyframes = _people_to_learn_from(config, actions) if to_train else None
    judges = not to_train or config.data.val is not None
    judged = people_to_judge(config, actions) if judges else None
    description = []
    if keyframes is not None:
        found = f"{len(keyframes.people)} boxes of people, {keyframes.people.does.sum()} actions"
        description.append(f"people     {found} of {config.detection.train}")
        if keyframes.people.unlisted:
            lines = f"{keyframes.people.unlisted} lines of other actions are left out"
            description.append(f"           {lines}")
        description += [f"           left out: {line}" for line in keyframes.lost_in_words()]

    def loss(network: Network, batch: ClipBatch) -> Tensor:
        assert keyframes is not None
        return _loss(network, batch, keyframes)

    objective = Objective(
        build=build_detector,
        loss=loss,
        judgement=Judgement("val/mAP", True, partial(judge_detector, judged)),
        evaluate=partial(evaluate_detector, judged),
        outputs=f"{len(actions)} actions of people in boxes",
        manifest=keyframes.manifest if keyframes is not None else None,
        files=[path for path in (config.detection.train, list_path) if path and to_train],
        description=description,
    )
    return config, objective


def _with_actions(config: RunConfig, actions: list[Action], path: Path) -> RunConfig:
    asked = config.model.num_classes
    if len(actions) < 2:
        raise UserError(f"{path}: names one action alone; a network has two outputs or more")
    if asked not in (None, len(actions)):
        raise UserError(
            f"{path}: names {len(actions)} actions, and model.num_classes is {asked}; set "
            "detection.actions to the list that was trained on, or leave out model.num_classes"
        )
    model = config.model.model_copy(update={"num_classes": len(actions)})
    return config.model_copy(update={"model": model})


def _people_to_learn_from(config: RunConfig, actions: list[Action]) -> Keyframes:
    source = config.detection.train
    if source is None:
        raise UserError(
            "detection.train is not set: name the people to learn from, as "
            "detection.train=ava_train_v2.2.csv"
        )
    moments = Moments()
    people = read_people(source, actions, moments)
    manifest = manifest_for(config, "finetune")
    if not people.lines.any():
        raise UserError(f"{source}: nobody does any of the actions of {config.detection.actions}")
    return keyframes_of(manifest, people, moments, config.detection.first_second, source)


def _loss(network: Network, batch: ClipBatch, keyframes: Keyframes) -> Tensor:
    """Binary cross-entropy, summed over people and actions, by those of a mean clip.

    Each action is a yes or no of its own, as in SlowFast, though of AVA's poses people have one.
    There a batch's mean is taken; here what a person counts does not depend on how many others are
    in the same pass, so that the clips of a step can be cut up as one likes. Who sees nobody in his
    clips still takes part, so that the ranks' gradients meet.
    """
    assert batch.crop is not None
    # This waits for the device: the boxes of a batch are looked up on the host.
    rows, crops = batch.label.tolist(), batch.crop.cpu().numpy()
    boxes, people = people_in_clips(keyframes, rows, crops, batch.video.shape[-1])
    device = batch.video.device
    says = network(batch.video, torch.from_numpy(boxes).to(device)).float()
    does = torch.from_numpy(keyframes.people.lines[people] > 0).to(device, torch.float32)
    total = binary_cross_entropy_with_logits(says, does, reduction="sum")
    of_a_clip = keyframes.people.lines.size / len(keyframes.manifest)
    loss: Tensor = total / (of_a_clip * len(batch))
    return loss
