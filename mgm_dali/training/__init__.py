"""Training and judging: the DeepSpeed engine, the loop, checkpoints, logs."""

from mgm_dali.torchvision_ops import import_torchvision

import_torchvision()  # before any module of this package imports timm
