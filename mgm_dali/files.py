"""Files that appear whole or not at all."""

import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside its name and moves it there; folders are made on the way.

    A reader finds the whole file or what was there before, even if this process is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if isinstance(content, str):
            content = content.encode(errors="surrogateescape")  # names of files may be any bytes
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # there after an error only
