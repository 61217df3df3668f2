"""Every key but those of the network, training, probes and detection: type, range, meaning.

Those are in `model.py`, `training.py`, `probe.py` and `detection.py`. The values are frozen. Units
live in the names; a path is relative to the folder the command runs in.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from mgm_dali.config.detection import DetectionConfig
from mgm_dali.config.model import ModelConfig
from mgm_dali.config.probe import ProbeConfig
from mgm_dali.config.section import Section
from mgm_dali.config.training import TrainingConfig

__all__ = [
    "CELL_PIXELS",
    "AugmentConfig",
    "ClipConfig",
    "DataConfig",
    "EvaluationConfig",
    "MaskConfig",
    "MotionConfig",
    "RandAugmentConfig",
    "RunConfig",
]

CELL_PIXELS = 8
"""Side of a motion cell: the smallest block whose vector the codecs report."""


class DataConfig(Section):
    """Where the clips come from and how they travel."""

    train: Path | None = None
    """Manifest CSV of the training videos (`mgm-dali index`)."""
    val: Path | None = None
    """Manifest CSV of the videos that are judged."""
    motion_store: Path | None = None
    """Folder filled by `mgm-dali extract`; without it vectors are read live from the file."""
    num_workers: int = Field(2, ge=0)
    """Processes per rank that read and decode; 0 does it in the training process."""
    prefetch_batches: int = Field(2, ge=1)
    """Batches kept ready ahead of the training step."""
    max_skipped: float = Field(0.01, ge=0, le=1)
    """Share of clips that may be replaced because their file is bad, before the run stops."""
    clip_timeout_seconds: float = Field(120.0, gt=0)
    """Longest that a worker process may read on one clip. Then it is ended and another tries; after
    the second time the file is given up. Needs `num_workers` of 1 or more."""


class ClipConfig(Section):
    """Which frames of a video make a clip (their number is `model.num_frames`)."""

    sampling: Literal["dense", "segments"] = "dense"
    """`dense`: every stride-th frame from a random start; `segments`: one from each equal part."""
    stride_frames: int = Field(4, ge=1)
    """Frames from one sampled frame to the next under dense sampling (paper: 4 K400, 2 SSv2)."""
    target_fps: float | None = Field(None, ge=0.1, le=1000)
    """Take strides as if every video were shown at this rate, so that a clip lasts as long whatever
    the video's own; empty counts the video's frames."""

    @model_validator(mode="after")
    def _strides_are_used(self) -> Self:
        if self.target_fps is not None and self.sampling == "segments":
            raise ValueError("target_fps: segments have no stride; leave it out")
        return self


class RandAugmentConfig(Section):
    """RandAugment (Cubuk et al. 2019): random changes of a whole clip, while finetuning.

    timm's and VideoMAE's `rand-m7-n4-mstd0.5-inc1` is `layers: 4` and the defaults.
    """

    layers: int = Field(0, ge=0, le=16)
    """Changes one behind the other; 0 is off (paper: 4)."""
    magnitude: float = Field(7.0, ge=0, le=10)
    """Mean strength of a change, from 0 to 10."""
    magnitude_std: float = Field(0.5, ge=0)
    """Standard deviation of the strength."""
    probability: float = Field(0.5, ge=0, le=1)
    """Of each layer to change anything."""


class AugmentConfig(Section):
    """What is drawn once per clip and applied to all its frames and its motion alike."""

    crop: Literal["multi_scale", "random_resized", "center", "whole"] = "multi_scale"
    """`multi_scale`: VideoMAE pretraining; `random_resized`: finetuning; `center`: the largest
    square; `whole`: the whole frame, made square (for detection)."""
    min_area: float = Field(0.08, gt=0, le=1)
    """Smallest share of the frame that a `random_resized` crop may take."""
    flip: bool = True
    """Mirror half of the clips left to right. Off where left and right mean something (SSv2)."""
    repeats: int = Field(1, ge=1)
    """Clips made of one decoding: the same frames, each with draws of its own. A batch of 8 with 2
    repeats holds 4 videos, and an epoch shows each video twice (paper: 2 while finetuning)."""
    rand_augment: RandAugmentConfig = RandAugmentConfig()
    erase: float = Field(0.0, ge=0, le=1)
    """Share of the clips in which a random box is filled with noise while finetuning, the same box
    in all frames (Zhong et al. 2017, random erasing; VideoMAE: 0.25)."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of mixup while finetuning; 0 is off (paper: 0.8)."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of cutmix while finetuning; 0 is off (paper: 1.0)."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread over all classes (paper: 0.1)."""


class MotionConfig(Section):
    """Where motion comes from."""

    source: Literal[
        "auto", "codec", "block_matching", "dis_flow", "optical_flow", "raft", "store"
    ] = "auto"
    """`auto` takes the store if `data.motion_store` is set, else the codec's vectors, live. The
    flow of a network or of a GPU (`raft`, `optical_flow`) is extracted into a store first."""
    without_vectors: Literal["error", "block_matching", "dis_flow", "ignore"] = "error"
    """For videos whose codec is one of which FFmpeg gives none (HEVC, VP8, VP9, AV1), read live:
    refuse them, estimate their motion, or let their clips be masked by simulated motion, as those
    of any other file without vectors are. (`mgm-dali extract --without-vectors` goes by whether it
    found any in the file.)"""
    accumulate: Literal["auto", "frame", "window"] = "auto"
    """Motion of the sampled frame alone since the frame before it (`frame`, as in the paper), or
    since the sampled frame before it, followed through all frames between (`window`), which must
    be decoded for it. `auto` is `frame`, but for `mask.strategy: flow_warp`, which moves tokens
    from sampled frame to frame."""
    subtract_camera: bool = False
    """Subtract each frame's dominant affine motion, so that what moves against the background
    counts and not the background. Off: the paper takes the vectors as they are."""


class MaskConfig(Section):
    """Which tokens are hidden while pretraining."""

    strategy: Literal[
        "random",
        "tube",
        "block",
        "simulated_motion",
        "simulated_motion_sparse",
        "motion_guided",
        "motion_guided_sparse",
        "flow_warp",
    ] = "motion_guided"
    """The rule; the table is `MASKS` in mgm_dali/masking/__init__.py, docs/masks.md shows them."""
    ratio: float = Field(0.75, gt=0, lt=1)
    """Share of the tokens that is hidden (the paper's best for motion-guided masks: 0.75; VideoMAE
    and MGMAE, whose masks are `tube` and `flow_warp`: 0.9)."""
    jitter: bool = True
    """Let the moving rectangle change its aspect ratio over time (paper: +0.2 top-1)."""
    border: Literal["shift", "grow"] = "shift"
    """At the border: move the rectangle inside, or let it be cut and grow to keep its count."""
    center: Literal["top_1", "top_k", "vote"] = "top_1"
    """Where `motion_guided` puts its rectangle: on the strongest vector (paper), in the middle of
    the `top_k` strongest, or of the `top_k` strongest means of 3 x 3 vectors, in which noise
    cancels."""
    top_k: int = Field(16, ge=1)
    """Cells of 8 x 8 pixels that `center: top_k` and `vote` look at in each slice."""
    decoded_share: float = Field(1.0, gt=0, le=1)
    """Share of the hidden tokens that the decoder predicts, chosen by a running cell (VideoMAEv2:
    0.5). Fewer make a step cheaper; the encoder sees the same tokens."""
    compile: bool = False
    """Compile the mask's arithmetic: a dozen kernels instead of some 150 small steps. Takes a
    minute or more at the start."""

    @model_validator(mode="after")
    def _top_k_is_used(self) -> Self:
        if self.center == "top_1" and self.top_k != MaskConfig.model_fields["top_k"].default:
            raise ValueError("top_k: is for center: top_k and center: vote; set one of them")
        return self


class EvaluationConfig(Section):
    """Multi-view testing: every video is seen `num_segments * num_crops` times."""

    num_segments: int = Field(5, ge=1)
    """Clips spread over the video's length (K400: 5, SSv2: 2)."""
    num_crops: int = Field(3, ge=1)
    """Square crops spread over the longer side."""
    batch_size: int = Field(8, ge=1)
    """Views per rank and forward pass."""
    merge: Literal["probabilities", "logits"] = "probabilities"
    """A video's verdict: the mean of its views' probabilities (VideoMAE), or the softmax of the
    mean of their logits."""
    class_map: Path | None = None
    """CSV of classes of `data.train` and of `data.val` that mean the same (configs/class_maps/): to
    judge a classifier on another data set than it was trained on."""


class RunConfig(Section):
    """Everything a run depends on; the resolved form is kept as RUN/config.yaml."""

    output_dir: Path = Path("runs/run")
    """The run folder; starting again with the same one resumes it."""
    seed: int = Field(0, ge=0)
    """Root of every draw: order, frames, crops, flips, masks, initial weights."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where augmentation, masks and the network run."""
    decode: Literal["auto", "nvdec", "cpu"] = "auto"
    """Where video is decoded; `auto` is nvdec on a GPU when no vectors have to be read live (a
    motion store is given, or nothing looks at motion) and NVDEC takes every file: one VP9 or AVI
    moves the whole run to the CPU. mgm_dali/pipelines/placement.py has all conditions, the log's
    first lines say which decided."""
    data: DataConfig = DataConfig()
    clip: ClipConfig = ClipConfig()
    augment: AugmentConfig = AugmentConfig()
    motion: MotionConfig = MotionConfig()
    mask: MaskConfig = MaskConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    probe: ProbeConfig = ProbeConfig()
    detection: DetectionConfig = DetectionConfig()
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's own options, passed through; one that contradicts ours is refused."""

    @property
    def accumulates_motion(self) -> bool:
        """Whether motion is that since the clip's frame before, instead of the video's."""
        if self.motion.accumulate == "auto":
            return self.mask.strategy == "flow_warp"
        return self.motion.accumulate == "window"

    @model_validator(mode="after")
    def _boxes_fit(self) -> Self:
        """Refuses for detection what would part the clips from their boxes."""
        if self.detection.actions is None:
            return self
        augment, views = self.augment, self.evaluation
        wrong = {
            "augment.rand_augment.layers: turns and moves clips, and boxes would stay; set 0": (
                augment.rand_augment.layers
            ),
            "augment.mixup, augment.cutmix: mix clips, and boxes would be of one; set 0": (
                augment.mixup or augment.cutmix
            ),
            "augment.label_smoothing: is for one class of many, and people do several things; "
            "set 0": augment.label_smoothing,
            "clip.sampling: a clip lies around its moment; set dense": (
                self.clip.sampling != "dense"
            ),
            "evaluation.num_segments, num_crops: a moment has one view; set 1": (
                (views.num_segments, views.num_crops) != (1, 1)
            ),
            "evaluation.class_map: is for classes of whole clips; leave it out": views.class_map,
            "training.compile: would compile anew for each number of boxes; set false": (
                self.training.compile
            ),
        }
        for problem, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f"{problem} (detection.actions is set)")
        return self

    @model_validator(mode="after")
    def _clips_mix_in_pairs(self) -> Self:
        mixing = self.augment.mixup or self.augment.cutmix
        if mixing and self.training.batch_size % 2:
            raise ValueError(
                f"training.batch_size: {self.training.batch_size} is odd, but augment.mixup and "
                "augment.cutmix mix clips in pairs"
            )
        return self
