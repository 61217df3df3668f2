"""The kernels that can compute attention, and which of them is the fastest here.

Letters: B clips, N tokens, Q queries, d width of a head.
"""

import functools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = [
    "ATTENTION_KERNELS",
    "CPU_MULTIPLIES_BFLOAT16",
    "AttentionShape",
    "Kernel",
    "attend",
    "measure_kernels",
    "usual_kernel",
    "why_unusable",
]

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`q [B, heads, Q, d]`, `k` and `v` `[B, heads, N, d]`, `allowed` bool `[B, 1, Q, N]` or None (all
of them), to `[B, heads, Q, d]`. A query must be allowed one key or more."""


class AttentionShape(NamedTuple):
    """One of the attentions of a training step."""

    times: int
    """How often it is computed, as one a block."""
    batch: int
    heads: int
    tokens: int
    width: int
    """Of a head."""


Outcome = TypeVar("Outcome")

ROUNDS = 3
LONG_MS, HOPELESS = 5000, 1.5
"""A kernel that takes so long, and so many times as long as another, is not measured again."""
CLEARLY_FASTER, FAR_FASTER = 0.9, 0.7
"""Of the time of torch's own choice. A kernel that gains less is not worth a coin's toss between
runs, for kernels differ in rounding; `plain` keeps all scores in memory, and must gain more."""


def _cpu_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return set()


CPU_MULTIPLIES_BFLOAT16 = bool(_cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
"""Whether this processor has instructions for it; without them bfloat16 is slower than float32."""


def _sdpa(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


def _flash(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return _sdpa(q, k, v, allowed)


def _cudnn(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa(q, k, v, allowed)


def _plain(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    mixed: Tensor = scores.softmax(dim=-1) @ v
    return mixed


def _float32(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    return _sdpa(q.float(), k.float(), v.float(), allowed).to(q.dtype)


ATTENTION_KERNELS: dict[str, Kernel] = {
    "sdpa": _sdpa,  # torch's own choice among those it has
    "flash": _flash,
    "cudnn": _cudnn,
    "plain": _plain,  # two products and a softmax
    "float32": _float32,  # for processors without instructions for bfloat16
}
"""Every kernel by its name in `training.attention_kernel`."""


def usual_kernel(dtype: torch.dtype, device: torch.device) -> str:
    """The kernel where nothing is measured: torch's choice, but for bfloat16 on a CPU.

    With instructions for it, two plain products save a third of the training step; without, float32
    takes a third of the time or less.
    """
    if device.type == "cpu" and dtype == torch.bfloat16:
        return "plain" if CPU_MULTIPLIES_BFLOAT16 else "float32"
    return "sdpa"


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Softmax attention by the usual kernel; a `Kernel` itself."""
    return ATTENTION_KERNELS[usual_kernel(q.dtype, q.device)](q, k, v, allowed)


@functools.cache
def measure_kernels(
    shapes: tuple[AttentionShape, ...], dtype: torch.dtype, device: torch.device
) -> tuple[str, dict[str, float | str]]:
    """The fastest kernel's name, and of each the milliseconds, or why it cannot be used.

    Measured forward and backward, each shape once and counted as often as it is computed. Torch's
    own choice stays unless another is clearly faster.
    """
    inputs = [(shape.times, _inputs(shape, dtype, device)) for shape in shapes]
    samples: dict[str, list[float]] = {name: [] for name in _candidates(dtype, device)}
    refused: dict[str, str] = {}
    for _ in range(1 + ROUNDS):
        for name, taken in samples.items():
            best = min(map(min, filter(None, samples.values())), default=math.inf)
            too_slow = len(taken) > 1 and taken[-1] > max(LONG_MS, HOPELESS * best)
            if name in refused or too_slow:
                continue
            kernel = ATTENTION_KERNELS[name]
            outcome = _tried(functools.partial(_milliseconds, kernel, inputs, device))
            if isinstance(outcome, str):
                refused[name] = outcome
            else:
                taken.append(outcome)
    times = {
        name: min(taken[1:] or taken)  # the first of several warmed up
        for name, taken in samples.items()
        if taken and name not in refused
    }
    usual = times.get("sdpa", math.inf)
    better = {
        name: taken
        for name, taken in times.items()
        if taken < usual * (FAR_FASTER if name == "plain" else CLEARLY_FASTER)
    }
    return min(better, key=better.__getitem__, default="sdpa"), {**times, **refused}


def _candidates(dtype: torch.dtype, device: torch.device) -> Sequence[str]:
    if device.type == "cuda":  # where `plain` would need memory for all pairs of tokens
        return ("sdpa",) if dtype == torch.float32 else ("sdpa", "flash", "cudnn")
    return ("sdpa", "plain") if dtype == torch.float32 else ("sdpa", "plain", "float32")


def why_unusable(
    name: str, dtype: torch.dtype, device: torch.device, masked: bool = False
) -> str | None:
    """What torch says against this kernel, with a mask or without; None: nothing."""
    q, k, v = _inputs(AttentionShape(1, 1, 1, 16, 64), dtype, device)
    allowed = torch.ones(1, 1, 16, 16, dtype=torch.bool, device=device) if masked else None
    kernel = ATTENTION_KERNELS[name]
    outcome = _tried(lambda: torch.autograd.grad(kernel(q, k, v, allowed).sum(), (q, k, v)))
    return outcome if isinstance(outcome, str) else None


def _tried(compute: Callable[[], Outcome]) -> Outcome | str:
    """What is computed, or why torch cannot: that is in its warnings, if anywhere."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            return compute()
        except RuntimeError as error:
            reasons = [error, *(each.message for each in said)]
            return "; ".join(str(reason).splitlines()[0] for reason in reasons[:3])


def _inputs(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `[B, heads, N, d]`, in memory as an attention layer has them."""
    generator = torch.Generator().manual_seed(0)
    sizes = (shape.batch, shape.tokens, 3, shape.heads, shape.width)
    layer = torch.randn(sizes, generator=generator).to(device, dtype)
    q, k, v = (part.transpose(1, 2).requires_grad_() for part in layer.unbind(2))
    return q, k, v


def _milliseconds(
    kernel: Kernel, inputs: Iterable[tuple[int, Sequence[Tensor]]], device: torch.device
) -> float:
    """Of a step's forward and backward passes; each shape is computed once and counted `times`."""
    total = 0.0
    for times, (q, k, v) in inputs:
        _wait(device)
        start = time.perf_counter()
        torch.autograd.grad(kernel(q, k, v, None).sum(), (q, k, v))
        _wait(device)
        total += times * (time.perf_counter() - start) * 1e3
    return total


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
