"""G11: worker processes beside CUDA: they start behind it, serve two loaders, die with the parent.

As a program (`python -m gpu.processes CONFIG`) it is a parent that waits to be killed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice

import psutil

from gpu.configs import config_for, decode_here
from gpu.findings import Findings
from gpu.made_videos import NUM_VIDEOS, made
from gpu.setting import Setting
from mgm_dali.config import RunConfig
from mgm_dali.pipelines import Share, make_loader

__all__ = ["processes"]

SECONDS_TO_START, SECONDS_TO_DIE = 120.0, 10.0


def processes(setting: Setting, findings: Findings) -> None:
    """What is true of DALI's own workers does not matter: the loader has none of them."""
    decode = decode_here(setting, findings)
    manifest = made(setting, "prepared", setting.pick(NUM_VIDEOS, 4))
    data = {"train": manifest, "val": manifest, "num_workers": setting.pick(4, 1)}
    training = {"batch_size": 4}
    config = config_for(setting, manifest, decode=decode, data=data, training=training)
    if setting.on_gpu:
        import torch

        torch.ones(1, device="cuda")
    with findings.claim("loaders start when CUDA is already in use; two serve in turns") as found:
        _two_loaders(config, found)
    for number in (signal.SIGKILL, signal.SIGTERM):
        with findings.claim(f"workers end with a parent that gets {number.name}") as found:
            _orphans(config, number, found)


def _two_loaders(config: RunConfig, found: list[str]) -> None:
    with make_loader(config, "pretrain") as train, make_loader(config, "evaluate", Share(4)) as val:
        clips = 0
        for batches in zip(islice(train.endless(), 6), islice(val, 6), strict=False):
            clips += sum(len(batch) for batch in batches)
        found.append(f"{clips} clips")
    children = psutil.Process().children(recursive=True)
    # Python's own helper for spawned processes stays as long as this process.
    left = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    if left:
        raise RuntimeError(f"{len(left)} processes are left behind")


def _orphans(config: RunConfig, number: signal.Signals, found: list[str]) -> None:
    command = [sys.executable, "-m", "gpu.processes", config.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            line = next((text for text in parent.stdout if text.startswith("workers ")), "")
            if not line:
                raise RuntimeError("the parent has not come to its first batch")
            workers = [psutil.Process(pid) for pid in json.loads(line.removeprefix("workers "))]
        finally:
            parent.send_signal(number)
    _, alive = psutil.wait_procs(workers, SECONDS_TO_DIE)
    alive = [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    if alive or not workers:
        raise RuntimeError(f"{len(alive)} of {len(workers)} are still there")
    found.append(f"{len(workers)} workers")


def _wait_to_be_killed(config: RunConfig) -> None:
    with make_loader(config, "pretrain") as loader:
        next(loader.endless())
        pids = [child.pid for child in psutil.Process().children(recursive=True)]
        os.write(1, f"workers {json.dumps(pids)}\n".encode())
        time.sleep(SECONDS_TO_START)


if __name__ == "__main__":
    _wait_to_be_killed(RunConfig.model_validate_json(sys.argv[1]))
