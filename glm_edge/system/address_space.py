"""The limit on this process's addresses (`ulimit -v`): whether the native libraries can be loaded under it.

Where addresses run out, OpenBLAS ends the process, another library aborts it, and Python reports libraries that cannot
be mapped as a broken installation. None of that can be caught, so the space is checked beforehand.
"""

from __future__ import annotations

import importlib
import os
import sys

from ..errors import OutOfMemoryError

# measured: numpy, OpenBLAS and llama.cpp map 125 MB with one processor and 42 MB more with each other one, for which
# OpenBLAS starts a thread; the rest is for what is done with them
_LIBRARIES, _PROCESSOR = 220_000_000, 42_000_000
_STACK = 1 << 20  # of a thread of the server


def require_addresses(threads: int = 0) -> None:
    """Raise OutOfMemoryError where the libraries, and so many threads of ours, have no space. Does nothing on Windows.

    Call it before numpy or llama_cpp is imported.
    """
    if sys.platform == "win32":
        return
    resource = importlib.import_module("resource")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    needed = _LIBRARIES + _PROCESSOR * (processors - 1) + _STACK * threads
    if limit - _used() < needed:
        raise OutOfMemoryError(
            f"this process may have {limit / 1e6:.0f} MB of addresses (ulimit -v), and needs {needed / 1e6:.0f} MB"
            " for its libraries and threads before it loads anything; raise that limit"
        )


def _used() -> int:
    """Bytes of addresses that are taken; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
