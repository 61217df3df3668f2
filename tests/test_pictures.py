"""The picture of a clip in training shows what is there, and training does not notice it."""

import random

import numpy as np
import pytest
import torch
from networks import normal_clip, randomised, tiny_config, uneven_masks
from numpy.typing import NDArray
from torch import Tensor

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD, ClipBatch
from mgm_dali.clips.overlays import DIRECTION_COLOURS, HIDDEN_GREY, direction_colours
from mgm_dali.config import ModelConfig
from mgm_dali.models import Autoencoder, build_autoencoder
from mgm_dali.models.reconstruction import reconstructed_frames
from mgm_dali.training.pictures import GAP_PIXELS, LABEL_PIXELS, MAX_COLUMNS, picture_of


def batch_of(config: ModelConfig, clips: int = 2, vector: tuple[float, float] | None = None):
    """Random clips; with a `vector`, everything in the second frame of each slice moves by it."""
    frames, cells = config.num_frames, config.image_size // 8
    motion = torch.zeros(clips, frames, cells, cells, 2)
    valid = torch.zeros(clips, frames, dtype=torch.bool)
    if vector is not None:
        motion[:, 1::2] = torch.tensor(vector)
        valid[:, 1::2] = True
    numbers = [torch.arange(clips) for _ in range(4)]
    return ClipBatch(normal_clip(config, clips), motion, valid, *numbers)


def cells_of(picture: NDArray[np.uint8], columns: int, side: int) -> NDArray[np.uint8]:
    """The pictures of a sheet `[rows, columns, side, side, 3]`; between them all is white."""
    step = side + GAP_PIXELS
    assert picture.dtype == np.uint8 and picture.shape[0] % step == 0
    assert picture.shape[1:] == (LABEL_PIXELS + columns * step, 3)
    lines = picture[:, LABEL_PIXELS:].reshape(-1, step, columns, step, 3).swapaxes(1, 2)
    assert (lines[:, :, side:] == 255).all() and (lines[:, :, :, side:] == 255).all()
    return lines[:, :, :side, :side]


def as_bytes(video: Tensor) -> NDArray[np.uint8]:
    """`[C, n, H, W]` in [0, 1] as `[n, H, W, C]`."""
    scaled = np.rint(255 * video.clamp(0, 1).double().numpy())
    return np.moveaxis(scaled.astype(np.uint8), 0, -1)


def hidden_pixels(config: ModelConfig, mask: Tensor) -> NDArray[np.bool_]:
    """The first clip's mask `[slices, H, W]`."""
    side = config.image_size // 16
    return mask[0].view(-1, side, side).numpy().repeat(16, 1).repeat(16, 2)


def test_rows_are_the_frames_what_is_seen_of_them_and_what_is_made():
    config = tiny_config()
    network, batch = randomised(build_autoencoder(config)), batch_of(config)
    mask = uneven_masks(config)
    frames, seen, made = cells_of(picture_of(network, batch, mask), columns=2, side=64)
    mean, std = (torch.tensor(value).view(3, 1, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    video = as_bytes(batch.video[0, :, ::2] * std + mean)
    with torch.no_grad():
        expected = as_bytes(reconstructed_frames(network, batch.video, mask)[0, :, ::2])
    hidden = hidden_pixels(config, mask)
    np.testing.assert_array_equal(frames, video)
    assert (seen[hidden] == HIDDEN_GREY).all()
    np.testing.assert_array_equal(seen[~hidden], video[~hidden])
    assert np.abs(made[hidden].astype(int) - expected[hidden]).max() <= 1
    np.testing.assert_array_equal(made[~hidden], video[~hidden])


@pytest.mark.parametrize("vector, colour", [((5, 0), "orange"), ((-5, 0), "blue"), (None, None)])
def test_motion_is_shown_where_there_is_any(vector, colour):
    config = tiny_config()
    network, mask = randomised(build_autoencoder(config)), uneven_masks(config)
    rows = cells_of(picture_of(network, batch_of(config, vector=vector), mask), 2, 64)
    assert len(rows) == (3 if vector is None else 4)
    if vector is not None:
        # Of a slice the fastest frame counts: the first ones have no vectors at all.
        expected = direction_colours(np.array(vector, np.float64), 5)
        assert (rows[1] == expected).all()
        red, _, blue = expected.astype(int)
        assert (red - blue > 100) if colour == "orange" else (blue - red > 100)


def test_cells_without_a_vector_are_striped():
    config = tiny_config()
    batch = batch_of(config, vector=(5, 0))
    known = batch.motion_known.clone()
    known[0, :, 3, 4] = False
    batch = ClipBatch(**{**vars(batch), "motion_known": known})
    network, mask = randomised(build_autoencoder(config)), uneven_masks(config)
    motion = cells_of(picture_of(network, batch, mask), 2, 64)[1]
    cell = np.s_[:, 24:32, 32:40]
    assert np.unique(motion[cell]).tolist() == [0, 255]
    assert (motion[:, :24] == motion[0, 0, 0]).all()


def test_around_the_wheel_the_colours_are_those_it_is_made_of():
    turns = np.linspace(0, 2 * np.pi, len(DIRECTION_COLOURS))
    towards = np.stack((-np.sin(turns), -np.cos(turns)), axis=-1)  # from up to the left
    found = ["#" + bytes(colour).hex() for colour in direction_colours(towards, 1).tolist()]
    assert found == list(DIRECTION_COLOURS)


@pytest.mark.parametrize("frames, columns", [(2, 1), (16, 8), (18, 5), (64, 8)])
def test_long_clips_are_shown_at_most_in_eight_columns(frames, columns):
    config = tiny_config().model_copy(update={"num_frames": frames, "image_size": 32})
    assert columns <= MAX_COLUMNS
    network, mask = build_autoencoder(config), uneven_masks(config, hidden=frames)
    cells_of(picture_of(network, batch_of(config), mask), columns, 32)


@pytest.mark.parametrize("size, side", [(128, 128), (160, 80), (224, 112), (384, 96)])
def test_large_frames_are_shown_smaller_by_the_mean_of_their_pixels(size, side):
    config = ModelConfig(name="vit_micro", num_frames=2, image_size=size)
    network, batch = build_autoencoder(config), batch_of(config)
    frames = cells_of(picture_of(network, batch, uneven_masks(config)), 1, side)[0]
    mean, std = (torch.tensor(value).view(3, 1, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    whole = as_bytes(batch.video[0, :, :1] * std + mean)[0].astype(float)
    times = size // side
    expected = whole.reshape(side, times, side, times, 3).mean((1, 3))
    assert np.abs(frames[0] - expected).max() <= 1


def tensors_of(batch):
    return {name: value for name, value in vars(batch).items() if value is not None}


def test_the_network_is_asked_for_one_clip_alone_and_without_gradients():
    config = tiny_config()
    network, mask = randomised(build_autoencoder(config)), uneven_masks(config, batch=5)
    asked = []
    network.encoder.register_forward_pre_hook(
        lambda _, inputs: asked.append((len(inputs[0]), torch.is_grad_enabled()))
    )
    many = batch_of(config, clips=5, vector=(1, 2))
    first = ClipBatch(**{name: value[:1] for name, value in tensors_of(many).items()})
    of_many, of_first = (picture_of(network, batch, mask) for batch in (many, first))
    assert asked == [(1, False), (1, False)]
    np.testing.assert_array_equal(of_many, of_first)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], ids=["cpu", "cuda"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_networks_in_any_numbers_are_drawn_where_they_are(dtype, device):
    config = tiny_config()
    network = randomised(build_autoencoder(config))
    batch, mask = batch_of(config), uneven_masks(config)
    expected = picture_of(network, batch, mask).astype(int)
    on_device = ClipBatch(**{key: value.to(device) for key, value in tensors_of(batch).items()})
    found = picture_of(network.to(device, dtype), on_device, mask.to(device))
    assert np.abs(found - expected).max() <= (1 if dtype == torch.float32 else 12)


def drawn_states(network: Autoencoder) -> list[object]:
    """All that a picture must leave as it is."""
    return [
        *(random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        *(module.training for module in network.modules()),
        *(parameter.grad is None for parameter in network.parameters()),
        torch.is_grad_enabled(),
    ]


@pytest.mark.parametrize("mode", [True, False])
def test_a_picture_leaves_no_trace(mode):
    config = tiny_config(drop_path=0.5)
    network = build_autoencoder(config).train(mode)
    network.decoder.norm.train(not mode)  # parts may be in modes of their own
    before = drawn_states(network)
    picture_of(network, batch_of(config), uneven_masks(config))
    assert drawn_states(network) == before


def test_a_network_that_fails_is_left_in_its_mode():
    config = tiny_config()
    network = build_autoencoder(config).train()
    with pytest.raises(ValueError, match="mask"):
        picture_of(network, batch_of(config), uneven_masks(config)[:, :-1])
    assert all(module.training for module in network.modules())


def test_no_stochastic_depth_is_in_the_picture():
    config = tiny_config(drop_path=0.9)
    network, mask = randomised(build_autoencoder(config)).train(), uneven_masks(config)
    one, other = (picture_of(network, batch_of(config), mask) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def losses(*, drawing: bool) -> list[float]:
    """Of a few steps with noise in them."""
    config = tiny_config(drop_path=0.3)
    torch.manual_seed(5)
    network = build_autoencoder(config).train()
    for part in (network.encoder, network.decoder):
        part.checkpoint_activations = True
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    batch, mask = batch_of(config, vector=(1, 0)), uneven_masks(config)
    found = []
    for _ in range(4):
        loss = network(batch.video, mask)
        if drawing:  # in the middle of a step, of all places
            picture_of(network, batch, mask)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def test_training_gives_the_same_losses_with_and_without_pictures():
    assert losses(drawing=True) == losses(drawing=False)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_predictions_that_are_no_number_are_drawn_all_the_same(number):
    config = tiny_config()
    network, mask = build_autoencoder(config), uneven_masks(config)
    with torch.no_grad():
        network.decoder.head.bias.fill_(number)
    made = cells_of(picture_of(network, batch_of(config), mask), 2, 64)[-1]
    hidden = hidden_pixels(config, mask)
    assert np.unique(made[hidden]).tolist() == [255 if number > 0 else 0]
