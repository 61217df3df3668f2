"""The detector: what it reads of the boxes, and whose weights it takes."""

import math

import pytest
import torch
import torch.nn.functional as F
from networks import EVERY_BACKBONE, normal_clip, randomised, tiny_config

from mgm_dali.errors import UserError
from mgm_dali.models import Detector, build_autoencoder, build_classifier, load_pretrained
from mgm_dali.models.saving import save_weights
from mgm_dali.weights_commands import export_weights, import_weights

CELLS = 3


def detector_for(name="vit_micro", num_actions=5, **changes):
    torch.manual_seed(0)
    return randomised(Detector(tiny_config(name, **changes), num_actions, CELLS))


def bilinear(plane, y, x):
    """The value of `[H][W][D]` at a place; outside by more than a cell it is 0."""
    height, width = plane.shape[:2]
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(plane.shape[2])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = plane[top, left] * (1 - across) + plane[top, right] * across
    lower = plane[bottom, left] * (1 - across) + plane[bottom, right] * across
    return upper * (1 - down) + lower * down


def strongest_in_box(plane, box):
    """RoIAlign (He et al. 2017) with places half a cell off, then the maximum; in plain loops."""
    x1, y1, x2, y2 = (float(value) / 16 - 0.5 for value in box)
    cell_height, cell_width = (y2 - y1) / CELLS, (x2 - x1) / CELLS
    rows, columns = math.ceil(cell_height), math.ceil(cell_width)
    cells = []
    for row in range(CELLS):
        for column in range(CELLS):
            total = torch.zeros(plane.shape[2])
            for i in range(rows):
                for j in range(columns):
                    y = y1 + cell_height * (row + (i + 0.5) / rows)
                    x = x1 + cell_width * (column + (j + 0.5) / columns)
                    total += bilinear(plane, y, x)
            cells.append(total / max(rows * columns, 1))
    return torch.stack(cells).amax(0)


@pytest.mark.parametrize("name", EVERY_BACKBONE)
def test_logits_are_the_head_on_the_strongest_of_each_box_in_plain_loops(name):
    detector = detector_for(name, image_size=96)
    video = normal_clip(detector.config)
    boxes = torch.tensor(
        [
            [0, 0, 0, 96, 96],
            [1, 10.5, 20, 60, 90],
            [1, 0, 0, 7, 9],
            [0, 80, 60, 96, 96],
            [0, 33, 33, 33, 33],  # of no area, as annotations sometimes have
        ]
    )
    with torch.no_grad():
        tokens = detector.encode(video)
        normed = F.layer_norm(
            tokens, tokens.shape[-1:], detector.fc_norm.weight, detector.fc_norm.bias, 1e-6
        )
        planes = normed.view(2, *detector.grid, -1).mean(dim=1)
        pooled = torch.stack([strongest_in_box(planes[int(b[0])], b[1:]) for b in boxes])
        expected = pooled @ detector.head.weight.T + detector.head.bias
        logits = detector(video, boxes)
    assert logits.shape == (5, 5)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_nobody_in_the_clips_gives_no_logits_and_zero_gradients():
    detector = detector_for()
    logits = detector(normal_clip(detector.config), torch.zeros(0, 5))
    assert logits.shape == (0, 5)
    logits.sum().backward()
    gradients = {name: p.grad for name, p in detector.named_parameters()}
    assert all(g is not None and not g.any() for g in gradients.values()), gradients


@pytest.mark.parametrize("kind", ["autoencoder", "classifier", "detector"])
def test_it_starts_from_any_weights_of_ours_and_says_what_it_left(kind, tmp_path):
    config = tiny_config(num_classes=5)
    makers = {
        "autoencoder": lambda: build_autoencoder(config),
        "classifier": lambda: build_classifier(config),
        "detector": lambda: Detector(config, 5, CELLS),
    }
    source = randomised(makers[kind]())
    save_weights(source, config, tmp_path / "weights.safetensors")
    detector = detector_for()
    report = load_pretrained(detector, tmp_path / "weights.safetensors")
    head = [name for name in ("head.weight", "head.bias") if name in report.missing]
    assert bool(head) == (kind != "detector")
    assert ("head reads whole clips in the file" in str(report)) == (kind == "classifier")
    theirs = {n.removeprefix("encoder."): t for n, t in source.state_dict().items()}
    for name in report.used:
        torch.testing.assert_close(detector.state_dict()[name], theirs[name])


def test_nobody_takes_a_detectors_head_for_a_classifiers(tmp_path):
    config = tiny_config(num_classes=5)
    save_weights(detector_for(), config, tmp_path / "weights.safetensors")
    report = load_pretrained(build_classifier(config), tmp_path / "weights.safetensors")
    assert {"head.weight", "head.bias"} <= set(report.missing)
    assert "head reads boxes of people in the file, and not here" in str(report)


@pytest.mark.parametrize("name", ["vit_micro", "timesformer_base"])
def test_it_is_kept_whole_by_import_and_by_export_and_is_nothing_for_others(name, tmp_path):
    detector = detector_for(name)
    source = tmp_path / "weights.safetensors"
    save_weights(detector, detector.config, source)
    import_weights(source, tmp_path / "imported")
    export_weights(tmp_path / "imported", tmp_path / "exported", "safetensors")
    again = Detector(detector.config, 5, CELLS)
    report = load_pretrained(again, tmp_path / "exported")
    assert not report.missing
    for key, tensor in detector.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], tensor)
    for to, place in (("huggingface", "hf"), ("videomae", "weights.pth")):
        with pytest.raises(UserError, match=r"is a detector of actions.*--to safetensors"):
            export_weights(source, tmp_path / place, to)
        assert not (tmp_path / place).exists()
