"""Writes a file whole or not at all: into a temporary sibling, which is then renamed.

A durable write is also safe from a power cut: the data is on the disk before the name is, and the name before the call
returns. Not here: files that are written over minutes (`convert/write.py`), and a lock against other writers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

TEMPORARY = ".tmp"  # how the names of temporary siblings end; what a killed process left can be removed by it


def atomic_write(path: Path, parts: Iterable[bytes | memoryview], *, durable: bool = True) -> None:
    """Write `parts` one after the other to `path`, replacing what was there. Only the user can read the file.

    Raises OSError and whatever iterating over `parts` raises. After that `path` has its old content, or all of the new
    where only the last step, sending the name to the disk, failed.
    """
    handle, temporary = tempfile.mkstemp(TEMPORARY, f"{path.name}.", path.parent)  # mode 0600
    try:
        with open(handle, "wb") as file:
            for part in parts:
                file.write(part)
            if durable:
                file.flush()
                os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Send the names in a folder to the disk, so that a rename in it outlives a power cut. Raises OSError."""
    if os.name == "nt":  # folders cannot be opened there; a rename is journalled
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
