"""The loader over real files: pixels, motion and mask agree, whoever reads them."""

import shutil

import av
import numpy as np
import pytest
import torch

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import EvaluationConfig, MaskConfig, RunConfig
from mgm_dali.errors import UserError
from mgm_dali.masking import PatchGrid, make_mask
from mgm_dali.pipelines import Share, make_loader
from mgm_dali.video.manifest import Video, write_manifest
from mgm_dali.video.reader import probe

SPEED = (4, 2)  # pixels a frame, right and down
SQUARE, WIDTH, HEIGHT, LENGTH = 32, 224, 160, 24


def square_at(frame):
    """(left, top) of the square in one frame."""
    return 16 + SPEED[0] * frame, 24 + SPEED[1] * frame


@pytest.fixture(scope="module")
def moving_square(tmp_path_factory):
    """A textured bright square that moves over a textured still background: H.264, P-frames."""
    folder = tmp_path_factory.mktemp("square")
    rng = np.random.default_rng(0)
    background = rng.integers(0, 90, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    background = background.repeat(4, 0).repeat(4, 1)
    square = rng.integers(170, 256, (SQUARE // 4, SQUARE // 4, 3), dtype=np.uint8)
    square = square.repeat(4, 0).repeat(4, 1)
    path = folder / "square.mp4"
    with av.open(str(path), "w") as container:
        options = {"crf": "10", "bf": "0", "refs": "1", "g": "250"}
        stream = container.add_stream("libx264", 24, options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(LENGTH):
            frame, (left, top) = background.copy(), square_at(number)
            frame[top : top + SQUARE, left : left + SQUARE] = square
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    videos = [Video(path=path, label=0, **vars(probe(path)))] * 16
    write_manifest(folder / "videos.csv", videos, ["square"])
    return folder / "videos.csv"


def config_for(manifest, **sections):
    defaults = {
        "device": "cpu",
        "data": {"train": manifest, "val": manifest, "num_workers": 0, "prefetch_batches": 1},
        "clip": {"stride_frames": 2},
        "model": {"name": "vit_micro", "num_frames": 8, "image_size": 112},
        "training": {"batch_size": 16},
    }
    for name, values in sections.items():
        defaults[name] = {**defaults.get(name, {}), **values}
    return RunConfig.model_validate(defaults)


def batches_of(config, stage, share, count):
    loader = make_loader(config, stage, share)
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def where_bright(video):
    """Box (top, left, bottom, right) of the bright square in one frame, None if it is cut off."""
    rows, columns = (video.mean(0) > 0.2).nonzero(as_tuple=True)
    if not len(rows):
        return None
    box = (int(v) for v in (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1))
    top, left, bottom, right = box
    inside = 0 < top and 0 < left and bottom < video.shape[1] and right < video.shape[2]
    return (top, left, bottom, right) if inside else None


@pytest.mark.parametrize("flip", [False, True])
def test_pixels_motion_and_mask_agree_where_a_known_square_moves(moving_square, flip):
    crop = {"crop": "random_resized", "min_area": 0.6, "flip": flip}
    config = config_for(moving_square, augment=crop)
    (batch,) = batches_of(config, "pretrain", Share(16), 1)
    grid = PatchGrid(4, 7, 7)
    small = MaskConfig(ratio=0.3, jitter=False)
    masks = make_mask(batch.motion, batch.motion_valid, batch.seed, grid, small).view(-1, *grid)
    directions, checked = set(), 0
    for clip in range(len(batch)):
        for frame in batch.motion_valid[clip].nonzero().flatten().tolist():
            box = where_bright(batch.video[clip, :, frame])
            if box is None:
                continue
            top, left, bottom, right = box
            # cells well inside the square, in crop coordinates
            rows = slice(-(-(top + 6) // 8), (bottom - 6) // 8)
            columns = slice(-(-(left + 6) // 8), (right - 6) // 8)
            inside = batch.motion[clip, frame, rows, columns].reshape(-1, 2)
            if not len(inside):
                continue
            found = inside.median(0).values
            scale = torch.tensor(((right - left) / SQUARE, (bottom - top) / SQUARE))
            expected = torch.tensor(SPEED) * scale
            directions.add(float(found[0].sign()))
            assert torch.allclose(found.abs(), expected, rtol=0.2, atol=0.8)
            assert found[1] > 0  # down stays down
            outside = batch.motion[clip, frame].norm(dim=-1).clone()
            outside[
                max(top // 8 - 2, 0) : bottom // 8 + 3, max(left // 8 - 2, 0) : right // 8 + 3
            ] = 0
            assert outside.max() < found.norm()
            token = (frame // 2, (top + bottom) // 32, (left + right) // 32)
            assert masks[clip][token], "the square's middle is hidden"
            checked += 1
    assert checked > 20
    assert directions == ({1.0, -1.0} if flip else {1.0})


def test_motion_is_where_the_mirrored_pixels_moved(moving_square):
    """The same seed with and without mirroring: one clip is the other, seen in a mirror."""
    plain = config_for(moving_square, augment={"crop": "center", "flip": False})
    (a,) = batches_of(plain, "pretrain", Share(16), 1)
    mirrored = config_for(moving_square, augment={"crop": "center", "flip": True})
    (b,) = batches_of(mirrored, "pretrain", Share(16), 1)
    flipped = (b.motion[..., 0].flatten(1).sum(1) < 0).nonzero().flatten()
    assert 3 < len(flipped) < 13
    for clip in flipped.tolist():
        sign = torch.tensor((-1.0, 1.0))
        assert torch.equal(b.motion[clip].flip(2) * sign, a.motion[clip])
        assert (b.video[clip].flip(3) - a.video[clip]).abs().max() < 0.03


def clips_by_row(batches):
    """{manifest row: (pixels, motion, seed)} of every clip, as bytes that can be compared."""
    found = {}
    for batch in batches:
        for place, row in enumerate(batch.index.tolist()):
            clip = (batch.video[place], batch.motion[place], batch.seed[place])
            found[row] = tuple(tensor.numpy().tobytes() for tensor in clip)
    return found


@pytest.fixture(scope="module")
def alone(moving_shapes):
    """An epoch as one rank reads it by itself."""
    config = config_for(moving_shapes, model={"image_size": 64}, augment={"flip": True})
    return clips_by_row(batches_of(config, "pretrain", Share(12), 2))


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (3, 0), (1, 2), (2, 1)])
def test_clips_are_the_same_for_any_number_of_ranks_and_workers(
    moving_shapes, alone, world_size, workers
):
    config = config_for(
        moving_shapes,
        model={"image_size": 64},
        augment={"flip": True},
        data={"num_workers": workers},
    )
    size = 12 // world_size
    parts = [
        clips_by_row(batches_of(config, "pretrain", Share(size, rank, world_size), 2))
        for rank in range(world_size)
    ]
    assert sum(map(len, parts)) == 24
    together = {row: clip for part in parts for row, clip in part.items()}
    assert together == alone


def test_a_loader_that_starts_later_goes_on_exactly_there(moving_shapes):
    config = config_for(moving_shapes, model={"image_size": 64})
    whole = batches_of(config, "pretrain", Share(5), 8)
    late = batches_of(config, "pretrain", Share(5, first_forward=3), 5)
    for a, b in zip(whole[3:], late, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.seed, b.seed)
        assert torch.equal(a.video, b.video) and torch.equal(a.motion, b.motion)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_gives_every_view_once_and_marks_fillers(moving_shapes, world_size):
    config = config_for(moving_shapes, model={"image_size": 64, "num_frames": 2})
    views = EvaluationConfig(num_segments=2, num_crops=3)
    config = config.model_copy(update={"evaluation": views})
    seen, lengths = [], set()
    for rank in range(world_size):
        loader = make_loader(config, "evaluate", Share(7, rank, world_size))
        batches = list(loader)
        lengths.add(len(batches))
        assert len(batches) == len(loader)
        for batch in batches:
            pairs = zip(batch.index.tolist(), batch.view.tolist(), strict=True)
            seen += [pair for pair in pairs if pair[0] >= 0]
    assert len(lengths) == 1
    assert sorted(seen) == [(row, view) for row in range(24) for view in range(6)]


def test_a_bad_file_gets_a_stand_in_and_a_reason(moving_shapes, tmp_path):
    shutil.copytree(moving_shapes.parent, tmp_path / "set")
    manifest = tmp_path / "set" / "videos.csv"
    first = manifest.read_text().splitlines()[1].split(",")[0]
    (manifest.parent / first).write_bytes(b"no video")
    config = config_for(manifest, model={"image_size": 64}, data={"max_skipped": 0.5})
    loader = make_loader(config, "finetune", Share(24))
    batch = next(iter(loader))
    (skipped,) = loader.skipped
    assert skipped.index == 0 and skipped.path.name == first.split("/")[1] and skipped.reason
    assert loader.replaced == (batch.index == 0).nonzero().flatten().tolist()
    assert batch.video[loader.replaced[0]].std() > 0.1  # a picture, not a blank
    again = next(iter(make_loader(config, "finetune", Share(24))))
    assert torch.equal(again.video, batch.video) and torch.equal(again.label, batch.label)


def test_a_replaced_file_is_noticed(moving_shapes, tmp_path):
    shutil.copytree(moving_shapes.parent, tmp_path / "set")
    manifest = tmp_path / "set" / "videos.csv"
    lines = manifest.read_text().splitlines()
    cells = lines[1].split(",")
    cells[4] = "80"  # the manifest remembers another width
    manifest.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    config = config_for(manifest, model={"image_size": 64}, data={"max_skipped": 0.5})
    loader = make_loader(config, "pretrain", Share(24))
    next(iter(loader))
    assert "instead of 80x" in loader.skipped[0].reason


def test_when_no_file_is_readable_the_loader_stops_with_the_reason(moving_shapes, tmp_path):
    manifest = tmp_path / "videos.csv"
    manifest.write_text(moving_shapes.read_text())  # beside no videos
    loader = make_loader(config_for(manifest, model={"image_size": 64}), "pretrain", Share(4))
    with pytest.raises(UserError, match="could not be read"):
        next(iter(loader))


def test_a_codec_without_vectors_is_refused_before_anything_runs(moving_shapes):
    manifest = moving_shapes.with_name("as-if-hevc.csv")
    manifest.write_text(moving_shapes.read_text().replace("h264,", "hevc,"))
    config = config_for(manifest, model={"image_size": 64})
    with pytest.raises(UserError, match=r"hevc.*without_vectors=block_matching"):
        make_loader(config, "pretrain", Share(4))


def test_batches_show_their_shapes_and_check_them(moving_shapes):
    config = config_for(moving_shapes, model={"image_size": 64})
    (batch,) = batches_of(config, "pretrain", Share(4), 1)
    assert "video=[4, 3, 8, 64, 64]" in repr(batch)
    with pytest.raises(ValueError, match=r"ClipBatch\.motion"):
        ClipBatch(**{**vars(batch), "motion": batch.motion[:, :4]})
