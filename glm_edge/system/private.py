"""Folders and files that are the user's alone: whether others may have changed them, and the key that proves it.

Programs believe later what they have put into a cache folder. So the folder must be out of others' reach. Its files
also carry a digest that only a holder of the folder's key can make, because someone else may have copied, restored or
unpacked the folder. Windows has no modes of this kind; there the user's profile is private by itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path

from ..errors import StorageError
from .atomic_write import atomic_write
from .safe_open import kind_of, safe_open

KEY_BYTES = 32
KEY_NAME = "key"  # of the file in a private folder

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def in_reach_of_others(status: os.stat_result, like: os.stat_result | None = None) -> str:
    """Why others may have changed a file or folder; empty if nobody could but those who can change `like` too."""
    if os.name == "nt":
        return ""
    owners = {os.geteuid()} if like is None else {os.geteuid(), 0, like.st_uid}
    if status.st_uid not in owners:
        return "belongs to another user"
    if status.st_mode & _OTHERS_WRITE & ~(0 if like is None else like.st_mode):
        return "can be written by other users"
    return ""


def check_folder(path: Path, like: os.stat_result | None = None) -> None:
    """Raise StorageError unless the path is a folder out of others' reach; OSError if it is not there."""
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StorageError(f"{path}: is {'a file' if stat.S_ISREG(status.st_mode) else kind_of(status.st_mode)}")
    if why := in_reach_of_others(status, like):
        raise StorageError(f"{path}: {why}")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for the user alone whatever the umask. Raises OSError."""
    missing = []
    for folder in (path, *path.parents):
        if os.path.lexists(folder):
            break
        missing.append(folder)
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another program was quicker
            folder.mkdir(mode=0o700)


def folder_key(folder: Path) -> bytes:
    """The key of a private folder, KEY_BYTES random bytes in a file of it; folder and key are made if missing.

    Raises StorageError or InvalidFileError for a folder or a key file that others could have changed or read, OSError.
    """
    make_folder(folder)
    check_folder(folder)
    path = folder / KEY_NAME
    if not os.path.lexists(path):
        _create(path, secrets.token_bytes(KEY_BYTES))
    with safe_open(path, follow=False) as file:
        status, key = os.fstat(file.fileno()), file.read(KEY_BYTES + 1)
    why = in_reach_of_others(status)
    if not why and os.name != "nt" and status.st_mode & 0o077:
        why = "can be read by other users"
    if not why and len(key) != KEY_BYTES:
        why = f"does not have {KEY_BYTES} bytes"
    if why:
        raise StorageError(f"{path}: {why}; remove it, and a new one is made")
    return key


def _create(path: Path, key: bytes) -> None:
    """Write a key file whole, unless another program was quicker."""
    made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        atomic_write(made, [key])
        try:
            os.link(made, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)


def forbid_core_files() -> None:
    """This process and its children leave no core file: it would have every prompt in memory."""
    if os.name == "nt":
        return
    import resource

    # a limit of 1 is too small for a file, and the one at which Linux gives nothing to a pipe (core(5)) either
    most = 1 if sys.platform == "linux" else 0
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
