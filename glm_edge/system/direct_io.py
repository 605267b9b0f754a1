"""Reads and writes files past the system's page cache, on Linux where the file system supports it (O_DIRECT).

A conversion touches every byte once. Through the cache each byte costs a copy and part of a new page, and pushes out
pages that others use; on a virtual machine, filling the cache took more processor time than quantizing. Pages that are
in the cache are read from there (RWF_NOWAIT). On other systems this is plain reading and writing. Alignment: open(2),
NOTES, "O_DIRECT"; 4096 suits every common disk, and a refused call is repeated the plain way.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

ALIGN = 4096  # bytes
LEAST = 1 << 16  # bytes; shorter reads go through the cache


def aligned(size: int) -> NDArray[np.uint8]:
    """A buffer of `size` bytes whose address is a multiple of ALIGN."""
    space = np.empty(size + ALIGN, np.uint8)
    start = -space.ctypes.data % ALIGN
    return space[start : start + size]


def read_block(file: io.FileIO, offset: int, size: int) -> NDArray[np.uint8]:
    """`size` bytes from `offset` on, or fewer at the end of the file. Raises OSError.

    The result's address is as aligned as `offset` is, up to ALIGN.
    """
    before = offset % ALIGN
    space = aligned(-(-(before + size) // ALIGN) * ALIGN)
    block = space[before : before + size]
    if_cached = getattr(os, "RWF_NOWAIT", 0)
    done = _at_once(file, block, offset, if_cached) if if_cached else 0
    if done < size and size >= LEAST:
        with bypassing(file.fileno()) as direct:
            skip = (before + done) // ALIGN * ALIGN
            if direct:
                done = max(done, min(skip + _at_once(file, space[skip:], offset - before + skip) - before, size))
    file.seek(offset + done)
    while done < size and (count := file.readinto(block[done:].data)):
        done += count
    return block[:done]


def _at_once(file: io.FileIO, buffer: NDArray[np.uint8], offset: int, flags: int = 0) -> int:
    """Bytes that one call reads; 0 if it reads none or the system refuses this way of reading."""
    try:
        return os.preadv(file.fileno(), [buffer.data], offset, flags)
    except OSError:
        return 0


@contextmanager
def bypassing(fd: int) -> Iterator[bool]:
    """Read and write the file past the cache within the block. Gives whether the system does that."""
    if not (flag := getattr(os, "O_DIRECT", 0)):
        yield False
        return
    import fcntl

    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | flag)
    except OSError:  # the file system does not support it
        yield False
        return
    try:
        yield True
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def write_all(fd: int, data: memoryview) -> None:
    """Write all of `data`, also when the system takes it in parts. Raises OSError."""
    while data:
        data = data[os.write(fd, data) :]


class Stage:
    """A write buffer in front of a file. It writes whole pages past the cache, and the parts of a page at its ends
    through the cache. Raises OSError; short writes are continued."""

    def __init__(self, size: int = 4 << 20) -> None:
        self._room = aligned(size).data
        self._fd = -1
        self._start = self._end = 0  # the collected bytes; aligned as their place in the file

    def begin(self, fd: int) -> None:
        """Write to the start of a file."""
        self._fd = fd
        self._start = self._end = 0

    def write(self, data: memoryview) -> None:
        while data:
            count = min(len(data), len(self._room) - self._end)
            self._room[self._end : self._end + count] = data[:count]
            self._end += count
            data = data[count:]
            if self._end == len(self._room):
                self.flush()

    def flush(self) -> None:
        """Write everything collected to the file."""
        first = min(-(-self._start // ALIGN) * ALIGN, self._end)
        last = max(self._end // ALIGN * ALIGN, first)
        start, end = self._start, self._end
        self._start = self._end = end % ALIGN
        write_all(self._fd, self._room[start:first])
        if first < last:
            with bypassing(self._fd) as direct:
                done = self._try(self._room[first:last]) if direct else 0
            write_all(self._fd, self._room[first + done : last])
        write_all(self._fd, self._room[last:end])

    def seek(self, offset: int) -> None:
        self.flush()
        os.lseek(self._fd, offset, os.SEEK_SET)
        self._start = self._end = offset % ALIGN

    def _try(self, data: memoryview) -> int:
        """Bytes that one direct write takes; 0 if the file system refuses direct writes."""
        try:
            return os.write(self._fd, data)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return 0
            raise
