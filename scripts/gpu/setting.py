"""What every section is told: the device, a folder, how long it may take, how small it shall be."""

import ctypes
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

__all__ = ["ROOT", "CannotRun", "Setting", "can_load", "require_nvdec"]

ROOT = Path(__file__).parents[2]
"""The checkout."""
NVDEC_LIBRARY = "libnvcuvid.so.1"

Value = TypeVar("Value")


class CannotRun(Exception):
    """This machine lacks what a section needs; the text says what."""


@dataclass(frozen=True)
class Setting:
    """Where and how a section measures."""

    folder: Path
    """For videos and runs; all sections of a call share it."""
    seconds: float
    """After which the section is ended from outside."""
    cores: int
    device: str = "cuda"
    """`cuda`, or `cpu` for a rehearsal."""
    tiny: bool = False
    """Only shows that the section works."""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def decoder(self) -> str:
        """The device of DALI's `fn.decoders.video`: NVDEC is `mixed`."""
        return "mixed" if self.on_gpu else "cpu"

    @property
    def decode(self) -> str:
        """The same in a configuration; on a CPU that is PyAV."""
        return "nvdec" if self.on_gpu else "cpu"

    @property
    def encoder(self) -> str:
        """Whose files DALI's decoder reads there: on a CPU no H.264."""
        return "libx264" if self.on_gpu else "libvpx-vp9"

    @property
    def container(self) -> str:
        """That such files are kept in."""
        return "mp4" if self.on_gpu else "webm"

    @property
    def device_id(self) -> int | None:
        """For DALI's pipelines."""
        return 0 if self.on_gpu else None

    @property
    def workers(self) -> int:
        """As many processes as decoding on the CPU can use beside this one."""
        return 1 if self.tiny else max(self.cores - 1, 1)

    def pick(self, full: Value, tiny: Value) -> Value:
        """The value for a measurement, or the one for a rehearsal."""
        return tiny if self.tiny else full

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Setting":
        values = json.loads(text)
        return cls(**{**values, "folder": Path(values["folder"])})


def can_load(library: str) -> bool:
    """Whether the dynamic linker finds a library, as DALI asks it."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def require_nvdec(setting: Setting) -> None:
    """Raises `CannotRun` on a GPU machine without the driver's video decoder."""
    if setting.on_gpu and not can_load(NVDEC_LIBRARY):
        raise CannotRun(f"there is no {NVDEC_LIBRARY}, the driver's video decoder")
