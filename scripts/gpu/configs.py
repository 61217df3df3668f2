"""Configurations of the runs and loaders that are measured."""

from pathlib import Path
from typing import Any

from gpu.findings import Findings
from gpu.setting import NVDEC_LIBRARY, Setting, can_load
from mgm_dali.config import RunConfig

__all__ = ["config_for", "decode_here", "model_for"]


def model_for(setting: Setting, name: str = "vit_base") -> dict[str, object]:
    """The network's section: as published, or as small as can be."""
    if setting.tiny:
        return {"name": "vit_micro", "num_frames": 8, "image_size": 64, "decoder_depth": 1}
    return {"name": name, "num_frames": 16, "image_size": 224}


def config_for(setting: Setting, manifest: Path, **sections: Any) -> RunConfig:
    """A run on a manifest's videos; `sections` are laid over what stands here, key by key."""
    tree: dict[str, Any] = {
        "device": setting.device,
        "decode": setting.decode,
        "output_dir": setting.folder / "run",
        "data": {"train": manifest, "num_workers": setting.pick(4, 0)},
        "clip": {"stride_frames": setting.pick(4, 2)},
        "model": model_for(setting),
        "training": {"batch_size": setting.pick(32, 4)},
    }
    for name, values in sections.items():
        both = isinstance(values, dict) and isinstance(tree.get(name), dict)
        tree[name] = {**tree[name], **values} if both else values
    return RunConfig.model_validate(tree)


def decode_here(setting: Setting, findings: Findings) -> str:
    """The decoder of a section that can do without NVDEC; noted if it has to."""
    if setting.on_gpu and not can_load(NVDEC_LIBRARY):
        findings.note(f"decoded on the CPU, not by NVDEC: there is no {NVDEC_LIBRARY}")
        return "cpu"
    return setting.decode
