"""Huge pages for weights and cache, on Linux: 2 MiB instead of 4 KiB (as the processor has them), by madvise(2).

Every weight is read once a token, and the processor looks up the address of each page. With huge pages there are 512
times fewer. Where the system gives them to every program, and where it gives them to none, there is nothing to do.
Where it gives them to those who ask, the default of most distributions, `ask` comes when the runtime has allocated the
weights and has not touched them, so that it costs nothing: a page is huge from its first touch. The cache is touched
while it is allocated, so `collapse` moves it (Linux 6.1; its pages stay small before that).

Pages are a matter of speed alone: what the kernel refuses, or does not know, is left as it is.
Not here: mapped weights. They are in the page cache, whose pages the file system chooses.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ENABLED = "sys/kernel/mm/transparent_hugepage/enabled"
_ROOT = Path("/")
_LEAST = 32 << 20  # bytes; smaller regions are not worth it
_HUGEPAGE, _POPULATE_WRITE, _COLLAPSE = 14, 23, 25  # MADV_HUGEPAGE and so on of linux/mman.h


def chosen(text: str) -> str:
    """Who gets huge pages: "always" (everyone), "madvise" (who asks), "never"; "" where the kernel has none.

    Args:
        text: of the file ENABLED, as "always [madvise] never".
    """
    return text.partition("[")[2].partition("]")[0]


def may_ask(root: Path = _ROOT) -> bool:
    """Whether it is of use to ask: on Linux, where the system gives them to those who do."""
    return sys.platform == "linux" and chosen(_text(root / ENABLED)) == "madvise"


def ask() -> None:
    """Ask for huge pages for the large memory regions of this process, from their next touch on."""
    _advise(_HUGEPAGE)


def collapse() -> None:
    """The same, and move what is touched already into huge pages: 0.1 s for 230 MB."""
    _advise(_HUGEPAGE)
    _advise(_COLLAPSE)


def touch(ended: Callable[[], bool]) -> None:
    """Make the pages of the large memory regions, as far as there are none, until `ended` says so (Linux 5.14).

    The processors that would write them first do not have to wait for the kernel then.
    """
    madvise = _madvise()
    for address, size in large_regions(_text(_ROOT / "proc/self/maps").splitlines()):
        for at in range(0, size, _LEAST):
            if ended():
                return
            madvise(address + at, min(_LEAST, size - at), _POPULATE_WRITE)


def bytes_in_use(root: Path = _ROOT) -> int:
    """Bytes of this process in huge pages, those of mapped files included; 0 where the system does not tell."""
    lines = (line.split() for line in _text(root / "proc/self/smaps_rollup").splitlines())
    return sum(int(line[1]) << 10 for line in lines if line[0] in ("AnonHugePages:", "FilePmdMapped:"))


def large_regions(maps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Address and size of the private, writable memory of at least _LEAST bytes that is no file's.

    Args:
        maps: lines of /proc/self/maps: address range, permissions, offset, device, inode, name.
    """
    for line in maps:
        addresses, permissions, _, _, inode, *name = line.split(maxsplit=5)
        first, _, end = addresses.partition("-")
        size = int(end, 16) - int(first, 16)
        nameless = not name or name[0].startswith("[anon")  # a name that the program has given
        if permissions.startswith("rw") and permissions[3] == "p" and inode == "0" and nameless and size >= _LEAST:
            yield int(first, 16), size


def _advise(advice: int) -> None:
    if not may_ask():
        return
    madvise = _madvise()
    for address, size in large_regions(_text(_ROOT / "proc/self/maps").splitlines()):
        madvise(address, size, advice)  # its result does not matter, see above


def _madvise() -> Any:
    found = ctypes.CDLL(None).madvise
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found


def _text(path: Path) -> str:
    """A file of the kernel; "" where there is none."""
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
