"""Reads and writes files past the system's page cache, on Linux and where the file system can (O_DIRECT).

A conversion touches every byte once. Through the cache each costs a copy and a fresh page, and pushes out what others
use; on the virtual machine this was measured on, filling the cache took the processor longer than the quantizing. What
lies in the cache already is taken from there (RWF_NOWAIT). Where the system cannot, this is plain reading and writing.
Alignment: open(2), NOTES, "O_DIRECT"; 4096 suits every common disk, and what is refused is done the plain way.
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
LEAST = 1 << 16  # bytes; less goes through the cache


def aligned(size: int) -> NDArray[np.uint8]:
    """A buffer of `size` bytes whose address is a multiple of ALIGN."""
    room = np.empty(size + ALIGN, np.uint8)
    start = -room.ctypes.data % ALIGN
    return room[start : start + size]


def read_block(file: io.FileIO, offset: int, size: int) -> NDArray[np.uint8]:
    """`size` bytes from `offset` on, fewer where the file ends before. Raises OSError.

    The result's address is as aligned as `offset` is, up to ALIGN.
    """
    before = offset % ALIGN
    room = aligned(-(-(before + size) // ALIGN) * ALIGN)
    block = room[before : before + size]
    if_cached = getattr(os, "RWF_NOWAIT", 0)
    done = _at_once(file, block, offset, if_cached) if if_cached else 0
    if done < size and size >= LEAST:
        with bypassing(file.fileno()) as direct:
            skip = (before + done) // ALIGN * ALIGN
            if direct:
                done = max(done, min(skip + _at_once(file, room[skip:], offset - before + skip) - before, size))
    file.seek(offset + done)
    while done < size and (count := file.readinto(block[done:].data)):
        done += count
    return block[:done]


def _at_once(file: io.FileIO, buffer: NDArray[np.uint8], offset: int, flags: int = 0) -> int:
    """Read what one call gives; 0 where it gives nothing or this way of reading is refused."""
    try:
        return os.preadv(file.fileno(), [buffer.data], offset, flags)
    except OSError:
        return 0


@contextmanager
def bypassing(fd: int) -> Iterator[bool]:
    """Within the block the file is read and written past the cache; gives whether the system does that."""
    if not (flag := getattr(os, "O_DIRECT", 0)):
        yield False
        return
    import fcntl

    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | flag)
    except OSError:  # the file system cannot
        yield False
        return
    try:
        yield True
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def write_all(fd: int, data: memoryview) -> None:
    """Write all of `data`, however little the system takes at a time. Raises OSError."""
    while data:
        data = data[os.write(fd, data) :]


class Stage:
    """Collects what is written to a file, and hands it on in large pieces: whole pages past the cache, what begins or
    ends within a page through it. Raises OSError; short writes are continued."""

    def __init__(self, size: int = 4 << 20) -> None:
        self._room = aligned(size).data
        self._fd = -1
        self._start = self._end = 0  # what is collected; aligned as its place in the file is

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
        """Hand on everything collected."""
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
        """One direct write; 0 where it is refused for its kind."""
        try:
            return os.write(self._fd, data)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return 0
            raise
