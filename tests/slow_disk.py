"""A disk that is slow: so many bytes of a file a second, until the system remembers them."""

import shutil
import subprocess
from pathlib import Path

__all__ = ["slow_disk"]

SOURCE = Path(__file__).with_name("slow_disk.c")
STATE_BYTES = 4 << 20
"""More than its `struct disk`."""


def slow_disk(folder: Path, suffix: str, bytes_per_second: int) -> dict[str, str] | None:
    """Environment variables with which a process and its children read files of this suffix slowly.

    All share the disk: two read half as fast each. What was read once is read fast, until
    POSIX_FADV_DONTNEED drops it. None where there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "slow_disk.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    state = folder / "slow_disk"
    state.write_bytes(b"\0" * STATE_BYTES)
    return {
        "SLOW_DISK_STATE": str(state),
        "LD_PRELOAD": str(library),
        "SLOW_DISK_SUFFIX": suffix,
        "SLOW_DISK_BYTES_PER_SECOND": str(bytes_per_second),
    }
