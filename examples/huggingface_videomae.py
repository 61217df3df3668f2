"""Hugging Face's VideoMAE, pretrained with motion-guided masks: its model, our clips and masks.

    pip install transformers
    python examples/huggingface_videomae.py videos.csv --out videomae-mgm

The result is a Hugging Face folder, for `VideoMAEForVideoClassification.from_pretrained`. With
`--init MCG-NJU/videomae-base` it goes on from VideoMAE's own weights.
"""

import argparse
from itertools import islice

import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.clips.huggingface import huggingface_inputs
from mgm_dali.config import load_config
from mgm_dali.masking import make_mask
from mgm_dali.pipelines import make_loader

SMALL = VideoMAEConfig(
    image_size=112,
    num_frames=8,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=256,
    decoder_hidden_size=32,
    decoder_num_hidden_layers=1,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=128,
)


def main() -> None:
    """A few steps; whoever wants more adds a schedule, and mixed precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("--out", default="videomae-mgm")
    parser.add_argument("--init", help="a model of the hub or a folder; none: a small new one")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()

    model = VideoMAEForPreTraining(SMALL)
    if options.init:
        model = VideoMAEForPreTraining.from_pretrained(options.init)
    size, num_frames = model.config.image_size, model.config.num_frames
    overrides = [
        f"data.train={options.manifest}",
        f"model.image_size={size}",
        f"model.num_frames={num_frames}",
        f"training.batch_size={options.batch_size}",
    ]
    config = load_config("configs/smoke/pretrain.yaml", overrides)
    grid = PatchGrid(num_frames // 2, size // 16, size // 16)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-4, betas=(0.9, 0.95))
    with make_loader(config, "pretrain") as loader:
        model.to(loader.placement.device).train()
        for step, batch in enumerate(islice(loader.endless(), options.steps)):
            mask = make_mask(
                batch.motion,
                batch.motion_valid,
                batch.seed,
                grid,
                config.mask,
                batch.motion_known,
            )
            loss = model(**huggingface_inputs(batch, mask)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"step {step}  loss {loss.item():.4f}")
    model.save_pretrained(options.out)


if __name__ == "__main__":  # worker processes import this file
    main()
