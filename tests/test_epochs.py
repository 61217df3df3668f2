"""Where a loader is: epochs in a plain loop, resuming anywhere, the same clips for any ranks."""

import dataclasses
from itertools import islice

import pytest
import torch

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines import Share, make_loader

NUM_VIDEOS = 24


def config_for(manifest, *, repeats=1, batch_size=8, **sections):
    return RunConfig.model_validate(
        {
            "device": "cpu",
            "data": {"train": manifest, "val": manifest, "num_workers": 0},
            "model": {"name": "vit_micro", "num_frames": 2, "image_size": 32},
            "clip": {"stride_frames": 1},
            "augment": {"repeats": repeats},
            "training": {"batch_size": batch_size},
            "evaluation": {"num_segments": 2, "num_crops": 1},
            **sections,
        }
    )


def rows(batches):
    return [row for batch in batches for row in batch.index.tolist()]


def tensors(batch):
    return [getattr(batch, field.name) for field in dataclasses.fields(batch)]


def same(batch, other):
    return all(torch.equal(a, b) for a, b in zip(tensors(batch), tensors(other), strict=True))


@pytest.mark.parametrize("batch_size", [1, 5, 8, 24, 50])
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_plain_loop_over_epochs_sees_every_clip_once_an_epoch(moving_shapes, batch_size, repeats):
    batch_size *= repeats
    config = config_for(moving_shapes, repeats=repeats, batch_size=batch_size)
    loader = make_loader(config, "pretrain")
    seen, epochs = [], 0
    while len(seen) < 3 * NUM_VIDEOS * repeats:
        promised, epoch = len(loader), loader.epoch
        batches = []
        for batch in loader:
            assert len(loader) == promised and len(batch) == batch_size
            batches.append(batch)
        assert len(batches) == promised and loader.epoch > epoch
        seen += [
            (batch.index[i].item(), batch.view[i].item())
            for batch in batches
            for i in range(len(batch))
        ]
        epochs += 1
    every = {(row, repeat) for row in range(NUM_VIDEOS) for repeat in range(repeats)}
    for epoch in range(3):
        begin = epoch * len(every)
        assert set(seen[begin : begin + len(every)]) == every
    assert epochs == 3 or batch_size > NUM_VIDEOS * repeats


def test_an_evaluation_gives_all_views_every_time(moving_shapes):
    loader = make_loader(config_for(moving_shapes), "evaluate", Share(7))
    first = list(loader)
    next(iter(loader))  # one who only looks
    again = list(loader)
    assert len(first) == len(again) == len(loader) == 7
    assert all(map(same, first, again))
    loader.load_state_dict({**loader.state_dict(), "forward": 5})
    assert len(list(islice(loader, 1))) == 1 and loader.forward == 6
    assert all(map(same, first, list(loader)))


@pytest.mark.parametrize("state", [{}, {"forward": 3}, {"stage": "pretrain"}], ids=str)
def test_what_is_no_state_is_refused(moving_shapes, state):
    with pytest.raises(UserError, match="not the state of a loader"):
        make_loader(config_for(moving_shapes), "pretrain").load_state_dict(state)


def test_a_resumed_loader_knows_which_files_were_given_up(moving_shapes):
    data = {"max_skipped": 1, "train": moving_shapes, "num_workers": 0}
    loader = make_loader(config_for(moving_shapes, data=data), "pretrain")
    loader.feed.refused[7] = "it hung"
    list(loader)
    state = loader.state_dict()
    assert state["num_skipped"] == 1 and state["samples_seen"] == NUM_VIDEOS
    other = make_loader(config_for(moving_shapes, data=data), "pretrain")
    other.load_state_dict(state)
    list(other)
    assert [(clip.index, clip.reason) for clip in other.skipped] == [(7, "it hung")]
    assert other.num_skipped == 2


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "evaluate"])
def test_a_state_resumes_at_exactly_the_next_batch(moving_shapes, stage):
    config = config_for(moving_shapes, repeats=2)
    loader = make_loader(config, stage, Share(4))
    whole, states = [], [loader.state_dict()]
    for batch in islice(loader if stage == "evaluate" else loader.endless(), 12):
        whole.append(batch)
        states.append(loader.state_dict())
    resumed = make_loader(config, stage, Share(4))
    next(iter(resumed))
    for done in (1, 9, 0, 4):  # already under way, there or somewhere else
        resumed.load_state_dict(states[done])
        rest = resumed if stage == "evaluate" else resumed.endless()
        assert all(map(same, whole[done:], islice(rest, 12 - done)))
        assert resumed.state_dict()["forward"] == 12


def test_a_state_is_plain_numbers_and_text(moving_shapes):
    import json

    state = make_loader(config_for(moving_shapes), "pretrain").state_dict()
    assert json.loads(json.dumps(state)) == state


def test_a_state_of_few_ranks_serves_many(moving_shapes):
    config = config_for(moving_shapes)
    alone = make_loader(config, "pretrain", Share(12))
    list(islice(alone.endless(), 3))
    expected = rows([next(alone.endless())])
    found = []
    for rank in range(3):
        part = make_loader(config, "pretrain", Share(4, rank, 3))
        part.load_state_dict({**alone.state_dict(), "forward": 3})
        found += rows([next(part.endless())])
    assert found == expected


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 7}, "seed"),
        ({"repeats": 2}, "choice of clips"),
        ({"batch_size": 4}, "global batch"),
        ({"clip": {"stride_frames": 2}}, "choice of clips"),
        ({"evaluation": {"num_segments": 1, "num_crops": 1}}, "choice of clips"),
        ({"model": {"name": "vit_micro", "num_frames": 4, "image_size": 32}}, "choice of clips"),
    ],
)
def test_the_state_of_another_run_is_refused(moving_shapes, change, name):
    state = make_loader(config_for(moving_shapes), "pretrain").state_dict()
    other = make_loader(config_for(moving_shapes, **change), "pretrain")
    with pytest.raises(UserError, match=f"its {name} is"):
        other.load_state_dict(state)


def test_the_state_of_other_videos_is_refused(moving_shapes):
    state = make_loader(config_for(moving_shapes), "pretrain").state_dict()
    fewer = moving_shapes.with_name("fewer.csv")
    fewer.write_text("\n".join(moving_shapes.read_text().splitlines()[:9]) + "\n")
    with pytest.raises(UserError, match="its list of videos is"):
        make_loader(config_for(fewer), "pretrain").load_state_dict(state)


def test_a_batch_that_repeats_do_not_divide_is_refused(moving_shapes):
    with pytest.raises(UserError, match=r"no multiple of augment\.repeats"):
        make_loader(config_for(moving_shapes, repeats=3), "pretrain")
    with pytest.raises(UserError, match=r"no multiple of augment\.repeats"):
        make_loader(config_for(moving_shapes, repeats=2), "pretrain", Share(5))


def test_repeats_share_their_frames_and_differ_in_their_crops(moving_shapes):
    single = next(iter(make_loader(config_for(moving_shapes), "pretrain", Share(4))))
    config = config_for(moving_shapes, repeats=3, batch_size=12)
    batch = next(iter(make_loader(config, "pretrain")))
    assert batch.view.tolist() == [0, 1, 2] * 4
    for i, row in enumerate(single.index.tolist()):
        copies = slice(3 * i, 3 * i + 3)
        assert batch.index[copies].tolist() == [row] * 3
        assert all(
            torch.equal(a[3 * i], b[i]) for a, b in zip(*map(tensors, (batch, single)), strict=True)
        )
        assert len(set(batch.seed[copies].tolist())) == 3
        assert (batch.motion_valid[copies] == batch.motion_valid[3 * i]).all()
    assert len({video.numpy().tobytes() for video in batch.video}) == 12


def test_closing_a_loader_keeps_its_place(moving_shapes):
    whole = list(islice(make_loader(config_for(moving_shapes), "pretrain").endless(), 4))
    with make_loader(config_for(moving_shapes), "pretrain") as loader:
        first = list(islice(loader.endless(), 2))
    rest = list(islice(loader.endless(), 2))
    assert all(map(same, whole, first + rest))


@pytest.mark.parametrize("augment", [{"erase": 0.5}, {"rand_augment": {"layers": 2}}], ids=str)
def test_what_would_part_pixels_from_motion_is_refused_while_pretraining(moving_shapes, augment):
    config = config_for(moving_shapes)
    config = RunConfig.model_validate({**config.model_dump(), "augment": augment})
    with pytest.raises(UserError, match="are for finetuning"):
        make_loader(config, "pretrain")
    make_loader(config, "evaluate")  # judges what was finetuned with them, and leaves them out
