"""Opens regular files and nothing else, and recognises what a failed download leaves in a file's place.

The converter opens the files of a checkpoint with it, the engine a model.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from ..errors import InvalidFileError, StorageError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def safe_open(path: Path) -> io.FileIO:
    """Open a regular file, unbuffered. It never waits, also not for a pipe or device.

    Raises FileNotFoundError, which means different things to callers, InvalidFileError if the file is of another kind,
    StorageError if the system refuses.
    """
    try:
        # before opening, because opening a device can have effects, and after, because the name may get another file
        _refuse_other_kinds(path, path.stat().st_mode)
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        # O_NONBLOCK: do not wait for a pipe
        file = io.FileIO(os.open(path, flags | getattr(os, "O_NONBLOCK", 0)), "rb")
        try:
            _refuse_other_kinds(path, os.fstat(file.fileno()).st_mode)
        except BaseException:
            file.close()
            raise
        return file
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidFileError(f"{path}: a link that leads to itself; put the file itself there") from None
        raise unreadable(path, error) from error


def _refuse_other_kinds(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InvalidFileError(f"{path}: is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")


def unreadable(path: Path, error: OSError) -> StorageError:
    """The error for a file that the system does not let us read."""
    names = (errno.ENOENT, errno.EACCES, errno.EPERM)
    advice = "; check the path and its permissions" if error.errno in names else ""
    return StorageError(f"{path}: cannot be read: {error.strerror or error}{advice}")


def failed_download(head: bytes) -> str:
    """What a failed download is, by its first bytes, and what to do; empty if the file may be right."""
    if not head:
        return "is empty; download it again"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer instead of the file; run `git lfs pull` in its folder"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page instead of the file; download it again"
    return ""
