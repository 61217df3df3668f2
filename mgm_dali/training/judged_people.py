"""Whom a detector of actions is judged by: the people of AVA's files, where videos show them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgm_dali.clips.keyframes import Keyframes, keyframes_of
from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.checks import manifest_for
from mgm_dali.video.ava import (
    Action,
    LabelledBoxes,
    Moments,
    read_excluded,
    read_found_people,
    read_people,
)

__all__ = ["JudgedPeople", "people_to_judge"]


@dataclass(frozen=True, eq=False)
class JudgedPeople:
    """Whom a detector looks at, and what it should see."""

    actions: list[Action]
    moments: Moments
    keyframes: Keyframes
    """Of the people that are looked at."""
    truth: LabelledBoxes
    """What people do in all moments that count, whether a video shows them or not."""
    videos: NDArray[np.int64]
    """The video of each moment, by number."""
    notes: list[str]
    """Lines for the log."""


def people_to_judge(config: RunConfig, actions: list[Action]) -> JudgedPeople:
    """What `data.val` and `detection` say is judged. Raises `UserError` if files do not fit."""
    settings, moments = config.detection, Moments()
    if settings.val is None:
        raise UserError(
            "detection.val is not set: name the people that are judged, as "
            "detection.val=ava_val_v2.2.csv; a run without data.val judges nobody"
        )
    known = read_people(settings.val, actions, moments)
    notes = [f"{known.unlisted} lines of other actions do not count"] if known.unlisted else []
    people, source = known, settings.val
    if settings.people is None:
        notes.append("the true boxes of people are given: no detector of people is as good")
    else:
        source = settings.people
        people, unsure = read_found_people(source, len(actions), settings.min_person_score, moments)
        notes.append(f"{unsure} boxes are left out, below detection.min_person_score")
    truth = known.actions()
    if settings.excluded:
        excluded = list(read_excluded(settings.excluded, moments))
        somebody = np.union1d(people.moments, truth.moments)
        notes.append(f"{np.isin(somebody, excluded).sum()} moments with people are excluded")
        people = people.selected(~np.isin(people.moments, excluded))
        truth = truth.selected(~np.isin(truth.moments, excluded))
    if not len(truth):
        raise UserError(
            f"{settings.val}: nobody does any of the actions of {settings.actions} in a moment "
            "that counts"
        )
    if not len(people):
        raise UserError(f"{source}: nobody is left to look at ({'; '.join(notes)})")
    keyframes = keyframes_of(
        manifest_for(config, "evaluate"), people, moments, settings.first_second, source
    )
    notes += [f"not to be seen: {line}" for line in keyframes.lost_in_words()]
    names: dict[str, int] = {}
    videos = [names.setdefault(video, len(names)) for video, _ in moments.numbers]
    return JudgedPeople(actions, moments, keyframes, truth, np.array(videos), notes)
