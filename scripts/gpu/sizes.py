"""G3: pictures of every size, mixed in one process, for NVDEC's decoders are kept and used again.

DALI looks a kept decoder up by its coded size, and remembers it under the size that is shown. So
640x360, coded as 640x368, may be decoded by what was made for a true 640x368.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from videos import SQUARE_PIXELS, Clip

from gpu.dali_decoder import (
    Pixels,
    batches_of,
    compared,
    decode,
    decoding_pipeline,
    reference_frames,
)
from gpu.findings import Findings
from gpu.measuring import rate_of, synchronizer
from gpu.setting import Setting, require_nvdec
from mgm_dali.pipelines.placement import NVDEC_SMALLEST_PIXELS
from mgm_dali.pipelines.recovery import cause_of

__all__ = ["sizes"]

Size = tuple[int, int]
"""Width and height."""
TRUSTED: Sequence[Size] = (
    *((320, 256), (352, 256), (340, 256), (640, 360), (640, 368), (640, 360), (640, 352)),
    *((456, 256), (454, 256), (256, 340), (1280, 720), (1920, 1080), (1920, 1088), (144, 144)),
)
SMALL: Sequence[Size] = ((162, 114), (128, 128), (96, 96), (64, 64), (50, 48), (48, 48), (32, 32))
NUM_FRAMES = 9


@dataclass(frozen=True)
class Background(Clip):
    """The background alone, which fits every size, in smooth colours."""

    grain_pixels: int = 8
    beyond: bool = True
    """That is where the square is."""

    def frames(self) -> Iterator[Pixels]:
        """What is encoded, uint8 `[H, W, 3]`."""
        width, height = self.width + SQUARE_PIXELS, self.height + SQUARE_PIXELS
        outside = (self.width, self.height)
        whole = Clip(width=width, height=height, start=outside, velocity=(0, 0))
        whole = replace(whole, num_frames=self.num_frames, grain_pixels=self.grain_pixels)
        for image in replace(whole, pan=self.pan).frames():
            gray = image[: self.height, : self.width, 0]
            colours = [np.roll(gray, shift, axis=(0, 1)) for shift in (0, 19, 41)]
            yield np.stack(colours, axis=-1)


def sizes(setting: Setting, findings: Findings) -> None:
    """Sizes one after the other, then all in one batch, then what it costs to change them."""
    require_nvdec(setting)
    trusted = setting.pick(TRUSTED, ((96, 64), (98, 66), (96, 64)))
    small = setting.pick(SMALL, ((64, 64),))
    references = {size: _reference(setting, size) for size in {*trusted, *small}}
    for turn in (1, 2):
        for number, size in enumerate(trusted, 1):
            what = f"{_name(size)}, size {number} of turn {turn}"
            with findings.claim(f"{what}: the frames are PyAV's") as found:
                _require_same(setting, [size], references, found)
    with findings.claim("all of these sizes in one batch: the frames are PyAV's") as found:
        _require_same(setting, trusted, references, found)
    for size in small:
        _small(setting, findings, size, references)
    for size in setting.pick(((320, 256), (340, 256), (352, 256)), ((96, 64),)):
        _speed(setting, findings, size)


def _require_same(
    setting: Setting,
    chosen: Sequence[Size],
    references: dict[Size, tuple[Path, Pixels]],
    said: list[str],
) -> None:
    numbers = list(range(NUM_FRAMES))
    paths = [references[size][0] for size in chosen]
    found = decode(paths, [numbers] * len(paths), setting.decoder)
    wrong = []
    for size, pixels in zip(chosen, found, strict=True):
        comparison = compared(pixels, references[size][1], numbers)
        if len(chosen) == 1 or not comparison.is_same:
            said.append(f"{_name(size)}: {comparison}")
        if not comparison.is_same:
            wrong.append(_name(size))
    if wrong:
        raise ValueError(f"other pixels: {', '.join(wrong)}")


def _small(
    setting: Setting,
    findings: Findings,
    size: Size,
    references: dict[Size, tuple[Path, Pixels]],
) -> None:
    """A decoder may refuse what is small, but it must not give something else."""
    what = f"{_name(size)}, below the {NVDEC_SMALLEST_PIXELS} that `decode: auto` trusts"
    findings.doing(what)
    said: list[str] = []
    try:
        _require_same(setting, [size], references, said)
    except RuntimeError as error:
        findings.check(f"{what}: right or refused", True, f"refused: {cause_of(error)}")
    except ValueError as error:
        findings.check(f"{what}: right or refused", False, "; ".join([*said, str(error)]))
    else:
        findings.check(f"{what}: right or refused", True, f"right: {'; '.join(said)}")


def _speed(setting: Setting, findings: Findings, size: Size) -> None:
    """A size of which no decoder is kept costs the making of one for each clip."""
    path = _file(setting, size, gop=12, num_frames=setting.pick(60, 13))
    numbers = np.arange(0, setting.pick(60, 13), 4, dtype=np.int32)
    for threads in setting.pick((1, 8), (1,)):
        batch = setting.pick(8, 2)
        known = {"size": _name(size), "threads": threads, "frames of a clip": len(numbers)}
        with findings.row("decoding by size", known) as row:
            pipeline = decoding_pipeline(
                _again_and_again(path, numbers, batch),
                decoder=setting.decoder,
                batch_size=batch,
                num_threads=threads,
            )
            start = time.perf_counter()
            pipeline.run()
            row["first batch s"] = time.perf_counter() - start
            seconds = setting.pick(3.0, 0.1)
            rate = rate_of(batches_of(pipeline), seconds, synchronizer(setting))
            row |= {**rate.columns(), "ms/clip": 1e3 / rate.clips_per_second}


def _again_and_again(
    path: Path, numbers: NDArray[np.int32], batch: int
) -> Callable[[], tuple[list[Any], list[Any]]]:
    encoded = [np.fromfile(path, np.uint8)] * batch
    return lambda: (encoded, [numbers] * batch)


def _reference(setting: Setting, size: Size) -> tuple[Path, Pixels]:
    path = _file(setting, size, gop=8, num_frames=NUM_FRAMES)
    return path, reference_frames(path)


def _file(setting: Setting, size: Size, *, gop: int, num_frames: int) -> Path:
    width, height = size
    clip = Background(
        encoder=setting.encoder,
        container=setting.container,
        width=width,
        height=height,
        num_frames=num_frames,
        pan=(1, 1),
        gop=gop,
    )
    return clip.path()


def _name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
