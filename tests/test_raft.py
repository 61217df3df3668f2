"""RAFT: the right network, fed and read the right way; its published weights are not at hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from translation import where_it_was
from videos import CLIPS, Clip

from mgm_dali.errors import UserError
from mgm_dali.motion import MOTION_SOURCES, raft
from mgm_dali.torchvision_ops import import_torchvision
from mgm_dali.video.reader import VideoError, read_frames

import_torchvision()
from torchvision.models import optical_flow  # noqa: E402


class Translation(nn.Module):
    """Called as RAFT is; all of the picture moves as one."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image1: Tensor, image2: Tensor, num_flow_updates: int = 0) -> list[Tensor]:
        assert num_flow_updates == 12 and image1.shape == image2.shape
        assert image1.dtype == torch.float32 and image1.is_contiguous()
        assert -1 <= image1.min() < -0.5 and 0.5 < image1.max() <= 1
        self.shapes.append(tuple(image1.shape))
        num_pairs, _, height, width = image1.shape
        flows = torch.empty(num_pairs, 2, height, width)
        for number in range(num_pairs):
            first, second = (
                ((image[number].cpu() + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
                for image in (image1, image2)
            )
            flows[number] = torch.tensor(where_it_was(first, second))[:, None, None]
        return [torch.full_like(flows, 1e6), flows.to(image1.device)]


@pytest.mark.parametrize(
    ("width", "height", "grown"),
    [(160, 112, (128, 160)), (162, 140, (144, 168)), (96, 96, (128, 128))],
)
@pytest.mark.parametrize("pan", [(3, -1), (-2, 2), (0, 5)])
def test_what_the_network_finds_arrives_with_its_sign_and_scale(
    pan: tuple[int, int], width: int, height: int, grown: tuple[int, int]
) -> None:
    clip = Clip(width=width, height=height, start=(20, 20), velocity=pan, pan=pan, num_frames=5)
    network = Translation()
    field = raft.read_motion_with(network, clip.path(), [3, 1, 4])
    assert field.vectors.shape == (3, -(-height // 8), -(-width // 8), 2)
    assert field.known.all() and (field.pixels() == pan).all()
    assert {shape[1:] for shape in network.shapes} == {(3, *grown)}


@pytest.mark.gpu
def test_on_a_gpu_pairs_go_through_the_network_in_groups() -> None:
    network = Translation()
    clip = Clip(start=(20, 20), velocity=(2, 1), pan=(2, 1))
    field = raft.read_motion_with(network, clip.path())
    assert [shape[0] for shape in network.shapes] == [16, 7]
    assert field.valid[1:].all() and (field.pixels()[1:] == (2, 1)).all()


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(optical_flow.raft_small().state_dict(), path)
    return path


def test_the_network_of_torchvision_runs_with_weights_from_either_kind_of_file(
    random_weights: Path, tmp_path: Path
) -> None:
    path = CLIPS["h264"].path()
    field = MOTION_SOURCES["raft"](path, [2, 0, 2], random_weights)
    assert field.vectors.shape == (3, 14, 20, 2)
    assert field.valid.tolist() == [True, False, True]
    assert field.vectors[0].any() and np.array_equal(field.vectors[0], field.vectors[2])
    copy = tmp_path / "raft_small.safetensors"
    save_file(torch.load(random_weights, weights_only=True), copy)
    again = MOTION_SOURCES["raft"](path, [2], copy)
    assert np.array_equal(again.vectors[0], field.vectors[0])


def test_its_field_is_what_the_network_gives_when_called_by_hand(random_weights: Path) -> None:
    network = optical_flow.raft_small().eval()
    network.load_state_dict(torch.load(random_weights, weights_only=True))
    clip = Clip(width=160, height=128)
    past, present = torch.from_numpy(read_frames(clip.path(), [6, 7])).permute(0, 3, 1, 2)
    present, past, *_ = optical_flow.Raft_Small_Weights.DEFAULT.transforms()(present, past)
    with torch.inference_mode():
        flow = network(present[None], past[None])[-1]
    expected = -nn.functional.avg_pool2d(flow, 8)[0].permute(1, 2, 0).numpy()
    found = raft.read_motion(clip.path(), [7], random_weights).pixels()[0]
    assert np.abs(found - expected).max() <= 0.125 + 1e-3


def test_without_weights_the_error_says_where_they_are_published() -> None:
    with pytest.raises(UserError, match="--weights FILE") as caught:
        MOTION_SOURCES["raft"](CLIPS["h264"].path(), None, None)
    assert "Raft_Small_Weights.C_T_V2.url" in str(caught.value)
    assert optical_flow.Raft_Small_Weights.C_T_V2.url.endswith(".pth")


class Bomb:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def make_wrong_weights(kind: str, path: Path, right: Path) -> None:
    state = torch.load(right, weights_only=True)
    first = next(iter(state))
    if kind == "text":
        path.write_text("no weights", encoding="utf-8")
    elif kind == "cut short":
        path.write_bytes(right.read_bytes()[:-1000])
    elif kind == "code":
        torch.save({**state, "more": Bomb()}, path)
    elif kind == "large network":
        torch.save(optical_flow.raft_large().state_dict(), path)
    elif kind == "a tensor missing":
        torch.save({name: value for name, value in state.items() if name != first}, path)
    elif kind == "a tensor too many":
        torch.save({**state, "more": torch.zeros(1)}, path)
    elif kind == "another shape":
        torch.save({**state, first: torch.zeros(1)}, path)
    elif kind == "a list":
        torch.save([1, 2], path)
    else:
        assert kind == "nothing"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "and nothing of it was executed"),
        ("cut short", "cannot be read as plain tensors"),
        ("code", "and nothing of it was executed"),
        ("large network", "is not of torchvision's RAFT-Small"),
        ("a tensor missing", "1 tensors are missing"),
        ("a tensor too many", "such as more"),
        ("another shape", "is not of torchvision's RAFT-Small"),
        ("a list", "found a list"),
        ("nothing", "cannot be read: No such file"),
    ],
)
def test_a_file_of_other_weights_is_refused_in_a_line(
    kind: str, says: str, random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pth"
    make_wrong_weights(kind, path, random_weights)
    with pytest.raises(UserError, match=says) as caught:
        raft.load_raft(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_a_damaged_safetensors_file_is_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        raft.load_raft(path)
    path.write_bytes(b"no tensors at all")
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        raft.load_raft(path)


def test_pictures_whose_correlations_would_fill_the_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raft, "LARGEST_PIXELS", 160 * 112 - 1)
    with pytest.raises(VideoError, match="160x112 are too large for raft"):
        raft.read_motion_with(Translation(), CLIPS["h264"].path(), [1])
