"""The networks: VideoMAE's autoencoder and classifier, and their weights."""

from mgm_dali.torchvision_ops import import_torchvision

import_torchvision()  # before any module of this package imports timm

from mgm_dali.models.autoencoder import Autoencoder, build_autoencoder  # noqa: E402
from mgm_dali.models.classifier import Classifier, build_classifier  # noqa: E402
from mgm_dali.models.detector import Detector  # noqa: E402
from mgm_dali.models.pretrained import LoadReport, load_pretrained  # noqa: E402
from mgm_dali.models.vit import BACKBONES  # noqa: E402

__all__ = [
    "BACKBONES",
    "Autoencoder",
    "Classifier",
    "Detector",
    "LoadReport",
    "build_autoencoder",
    "build_classifier",
    "load_pretrained",
]
