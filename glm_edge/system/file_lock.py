"""A lock file beside an output: one process at a time writes there, and knows that other temporary files are stale.

The lock is the operating system's (flock; on Windows a locked byte), so it ends with its process in every case. The
file only says who holds it. A file system without locks has none here. It does not hold against other machines that
share the disk, unless the file system passes flock on, as NFS does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO

from glm_edge.errors import StorageError
from glm_edge.system.safe_open import NO_FOLLOW

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
_UNKNOWN = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> None:
        file.seek(1 << 30)  # after the text, which others must be able to read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | NO_FOLLOW, 0o666)


class Lock:
    """The lock of one output, held from construction to `release`. `held` is false if the file system has no locks.

    Raises StorageError, which names `output`, while another process or thread holds it; OSError.
    """

    def __init__(self, path: Path, output: Path) -> None:
        self._path = path
        self.held = True
        while True:
            self._file = open(path, "a+b", buffering=0, opener=_open_no_link)  # noqa: SIM115
            try:
                self._take(output)
                if self._is_there():
                    self._sign()
                    return
            except BaseException:
                self._file.close()
                raise
            self._file.close()  # its last holder removed it after we opened it

    def _sign(self) -> None:
        try:
            self._file.truncate(0)
            self._file.write(str(os.getpid()).encode())
        except OSError:  # the disk is full
            self._path.unlink(missing_ok=True)
            raise

    def _take(self, output: Path) -> None:
        try:
            _try_lock(self._file)
        except OSError as error:
            if error.errno in _UNKNOWN:
                self.held = False
                return
            if error.errno not in _TAKEN:
                raise
            self._file.seek(0)
            holder = self._file.read(20)
            who = f"pid {int(holder)}" if holder.isdigit() else "another process"
            raise StorageError(
                f"{output}: locked by {who}, which is writing it; wait for its end or choose another output"
            ) from None

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file, then unlock it, so that nobody locks a file that has no name any more."""
        if os.name != "nt":  # Windows cannot remove an open file
            self._path.unlink(missing_ok=True)
        self._file.close()
        if os.name == "nt":
            with contextlib.suppress(OSError):  # the next holder has opened it
                self._path.unlink(missing_ok=True)
