"""Opens regular files and nothing else, and knows what a failed download leaves in a file's place.

Both halves ask here: the converter for the files of a checkpoint, the engine for a model. Imports errors alone.
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
    """Open a regular file, unbuffered; never waits, whatever lies there.

    Raises FileNotFoundError, of which the caller knows what it means, InvalidFileError where the file is of another
    kind, StorageError where the system refuses.
    """
    try:
        # before it is opened, because opening a device can have effects, and after, because a name can change hands
        _refuse_other_kinds(path, path.stat().st_mode)
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        # O_NONBLOCK: a pipe is not waited for
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
    names = (errno.ENOENT, errno.EACCES, errno.EPERM)
    advice = "; check the path and its permissions" if error.errno in names else ""
    return StorageError(f"{path}: cannot be read: {error.strerror or error}{advice}")


def failed_download(head: bytes) -> str:
    """What a file is by its first bytes where its download failed, and what to do; nothing where it may be right."""
    if not head:
        return "is empty; download it again"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer instead of the file; run `git lfs pull` in its folder"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page instead of the file; download it again"
    return ""
