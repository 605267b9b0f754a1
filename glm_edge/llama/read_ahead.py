"""Loads large files sooner, on Linux: reads them, and makes memory for their weights, beside the runtime's one thread.

llama.cpp reads a tensor, repacks it, and then reads the next. Its direct reads bypass the page cache, and so nothing
can be read beforehand. Here the file is read through the page cache, and a thread asks the kernel for the tensors that
come next. What it brought into the cache it drops again, since other programs, and huge pages, need the room; what was
in the cache stays. Another thread has the kernel make the weights' pages before they are written (Linux 5.14). And the
C library keeps the runtime's buffers from one tensor to the next: each new one costs a page fault for every 4 KiB.

All that is a matter of speed alone: what the system refuses, or does not know, is left out.
Not here: mapped weights, which are read when they are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable

from ..errors import GlmEdgeError
from ..model.values import GgufFile, TensorInfo
from ..system.safe_open import safe_open
from ..system.threads import start
from . import huge_pages

_WINDOW = 256 << 20  # bytes that are asked for and not read by the runtime yet
_STEP = 8 << 20  # bytes of one call
_LEAST = 256 << 20  # bytes; smaller files are loaded in a moment
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of glibc's mallopt(3)
_LARGEST = 32 << 20  # bytes; what glibc raises _MMAP_THRESHOLD to by itself, with twice as much for trimming


def of_use(file: GgufFile) -> bool:
    """Whether a file is worth it, and this system can."""
    return sys.platform == "linux" and file.size >= _LEAST


class ReadAhead:
    """A load that is read ahead; a context manager around it.

    Args:
        order: the tensors in the order in which they will be read, about: one that comes sooner is read as it would be
            without this.
        window: bytes.
    """

    def __init__(self, file: GgufFile, order: list[TensorInfo], window: int = _WINDOW) -> None:
        self._file = file
        self._order = order
        self._window = window
        self._total = sum(tensor.n_bytes for tensor in order)
        self._done = 0  # bytes that the runtime has loaded
        self._ended = False
        self._moved = threading.Condition()  # notified when either changes
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> ReadAhead:
        self._start(self._read, "read ahead")
        return self

    def allocated(self) -> None:
        """To be called when the weights have their memory, and nothing is written into it."""
        _keep_freed_memory(keep=True)
        self._start(self._touch, "pages")

    def loaded(self, done: float) -> None:
        """Tell how much is loaded, from 0 to 1."""
        with self._moved:
            self._done = int(done * self._total)
            self._moved.notify_all()

    def __exit__(self, *_: object) -> None:
        with self._moved:
            self._ended = True
            self._moved.notify_all()
        for thread in self._threads:
            thread.join()
        _keep_freed_memory(keep=False)

    def _start(self, work: Callable[[], None], name: str) -> None:
        self._threads.append(start(threading.Thread(target=work, name=name, daemon=True)))

    def _read(self) -> None:
        asked = 0
        ours: deque[tuple[int, int, int]] = deque()  # offset, size, and what must be loaded before it is dropped
        with contextlib.suppress(OSError, GlmEdgeError), safe_open(self._file.path) as file:
            for tensor in self._order:
                if not self._wait(asked - self._window):
                    break
                while ours and ours[0][2] <= self._done:
                    offset, size, _ = ours.popleft()
                    os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_DONTNEED)
                asked += tensor.n_bytes
                if not _may_be_cached(file.fileno(), tensor):
                    ours.append((tensor.offset, tensor.n_bytes, asked))
                for at in range(tensor.offset, tensor.offset + tensor.n_bytes, _STEP):
                    if not self._ended:  # a call takes as long as the disk where many wait for it
                        os.posix_fadvise(file.fileno(), at, _STEP, os.POSIX_FADV_WILLNEED)
            self._wait(self._total + 1)  # for the end
            for offset, size, _ in ours:
                os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_DONTNEED)

    def _wait(self, done: int) -> bool:
        """Until so many bytes are loaded; False at the end."""
        with self._moved:
            self._moved.wait_for(lambda: self._ended or self._done >= done)
            return not self._ended

    def _touch(self) -> None:
        huge_pages.touch(lambda: self._ended)


def _may_be_cached(fd: int, tensor: TensorInfo) -> bool:
    """Whether the middle of it is in the page cache, and so was read before; True where the system does not tell."""
    try:
        os.preadv(fd, [bytearray(1)], tensor.offset + tensor.n_bytes // 2, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _keep_freed_memory(*, keep: bool) -> None:
    """Let glibc keep what is freed, or give it back to the system; other C libraries have no such choice."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        return
    libc.mallopt(_MMAP_MAX, 0 if keep else 1 << 16)
    libc.mallopt(_TRIM_THRESHOLD, 1 << 30 if keep else 2 * _LARGEST)
    if not keep:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.malloc_trim(ctypes.c_size_t(0))
