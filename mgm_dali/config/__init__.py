"""A run is one tree of frozen values, filled strictly from YAML and `key=value` overrides.

`load_config("configs/smoke/pretrain.yaml", ["mask.ratio=0.9"])` gives a `RunConfig`; all its keys
are in `schema.py`, the network's in `model.py`, those of training, probes and detection in
`training.py`, `probe.py` and `detection.py`.
"""

from mgm_dali.config.detection import DetectionConfig
from mgm_dali.config.model import PATCH_PIXELS, TUBELET_FRAMES, ModelConfig
from mgm_dali.config.reading import dump_config, load_config, override_config
from mgm_dali.config.schema import (
    CELL_PIXELS,
    AugmentConfig,
    ClipConfig,
    DataConfig,
    EvaluationConfig,
    MaskConfig,
    MotionConfig,
    RandAugmentConfig,
    RunConfig,
)
from mgm_dali.config.training import TrainingConfig

__all__ = [
    "CELL_PIXELS",
    "PATCH_PIXELS",
    "TUBELET_FRAMES",
    "AugmentConfig",
    "ClipConfig",
    "DataConfig",
    "DetectionConfig",
    "EvaluationConfig",
    "MaskConfig",
    "ModelConfig",
    "MotionConfig",
    "RandAugmentConfig",
    "RunConfig",
    "TrainingConfig",
    "dump_config",
    "load_config",
    "override_config",
]
