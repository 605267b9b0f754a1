"""Opens regular files and nothing else, reads them with a limit, and recognises what a failed download leaves.

Every file that a user names, and every file in a folder that others may reach, is opened here. Nothing else in the
product opens one by name, but for what `tests/system/test_opening.py` lists.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from ..errors import InvalidFileError, StorageError

# Flags of os.open that not every system has.
BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate line ends
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # follow no link: it would lead to another file

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link",
}


def safe_open(path: Path, *, follow: bool = True) -> io.FileIO:
    """Open a regular file, unbuffered. It never waits, also not for a pipe or device.

    Args:
        follow: whether the name may be a link.

    Raises FileNotFoundError, which means different things to callers, InvalidFileError if the file is of another kind,
    StorageError if the system refuses.
    """
    try:
        # before opening, because opening a device can have effects, and after, because the name may get another file
        _refuse_other_kinds(path, path.stat().st_mode if follow else path.lstat().st_mode)
        flags = os.O_RDONLY | BINARY | getattr(os, "O_CLOEXEC", 0) | (0 if follow else NO_FOLLOW)
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


def read_file(path: Path, limit: int, *, follow: bool = True) -> bytes:
    """The content of a regular file of at most `limit` bytes, as `safe_open` opens it.

    Raises StorageError if it is missing or cannot be read, InvalidFileError if it is of another kind or larger.
    """
    try:
        with io.BufferedReader(safe_open(path, follow=follow)) as file:
            too_large = os.fstat(file.fileno()).st_size > limit
            content = b"" if too_large else file.read(limit + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if too_large or len(content) > limit:
        raise InvalidFileError(f"{path}: is larger than the {limit} bytes that are read of such a file")
    return content


def kind_of(mode: int) -> str:
    """What a file of this mode is, where it is no regular file."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def _refuse_other_kinds(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InvalidFileError(f"{path}: is {kind_of(mode)}, not a file")


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
