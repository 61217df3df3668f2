"""Motion-guided pretraining in a plain PyTorch loop: no DeepSpeed, no launcher, no run folder.

    python examples/plain_loop.py videos.csv

`videos.csv` is a manifest: `mgm-dali index FOLDER -o videos.csv` makes one.
"""

import argparse

import torch

from mgm_dali.config import load_config
from mgm_dali.masking import make_mask
from mgm_dali.models import build_autoencoder
from mgm_dali.pipelines import make_loader


def main() -> None:
    """Three epochs of the smallest network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("overrides", nargs="*", help="key=value, as on mgm-dali's command line")
    options = parser.parse_args()
    overrides = [f"data.train={options.manifest}", *options.overrides]
    config = load_config("configs/smoke/pretrain.yaml", overrides)

    with make_loader(config, "pretrain") as loader:
        print(loader.placement.reason)
        model = build_autoencoder(config.model).to(loader.placement.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
        for epoch in range(3):
            for batch in loader:  # one epoch
                mask = make_mask(
                    batch.motion,
                    batch.motion_valid,
                    batch.seed,
                    model.grid,
                    config.mask,
                    batch.motion_known,
                )
                loss = model(batch.video, mask)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            print(f"epoch {epoch}  loss {loss.item():.4f}  skipped {len(loader.skipped)}")
        torch.save({"model": model.state_dict(), "loader": loader.state_dict()}, "plain_loop.pt")


if __name__ == "__main__":  # worker processes import this file
    main()
