"""A network of a test's own: the calling thread, and what it starts, see only a loopback with the addresses given."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_CLONE_NEWNET = 0x40000000


@contextmanager
def own_network(*addresses: str) -> Iterator[None]:
    """Skips the test where this machine does not allow it: it takes Linux, its `ip` program, and root."""
    if not os.path.exists("/proc/self/ns/net") or shutil.which("ip") is None:
        pytest.skip("needs network namespaces and the program ip")
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"no network of its own: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            for address in addresses:
                subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
            yield
        finally:
            assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0
