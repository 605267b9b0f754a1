"""Whether a bundle runs on this machine: processor, C library, the modules of this Python. Needs Python alone."""

from __future__ import annotations

import importlib.util
import os
import struct
import sys
import sysconfig
from collections.abc import Mapping
from typing import Any

from ....errors import UnsupportedModelError

_MODULES = ("bz2", "ctypes", "sqlite3", "ssl", "zlib")  # what packages of small systems leave out, and ours import


def check_machine(about: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError where the bundle does not run. Args: about: bundle.json."""
    wanted, here = about["machine"], os.uname().machine
    bits = 8 * struct.calcsize("P")
    if here != wanted:
        raise UnsupportedModelError(f"this bundle is for linux-{wanted}, and this machine is {here}")
    if bits != 64:
        raise UnsupportedModelError(f"{sys.executable}: is a program of {bits} bits; a 64-bit system is needed")
    needed = tuple(map(int, about["glibc"].split(".")))
    found = _glibc()
    if found is None:
        raise UnsupportedModelError("this system's C library is not glibc, and the bundle's programs need that")
    if found < needed:
        version = ".".join(map(str, found))
        raise UnsupportedModelError(f"this system's glibc is {version}, and the bundle needs {about['glibc']}")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise UnsupportedModelError(f"{sys.executable}: is free-threaded Python; name an ordinary one with PYTHON=")
    for name in _MODULES:
        if importlib.util.find_spec(name) is None:
            raise UnsupportedModelError(f"{sys.executable}: lacks the module {name}; install all of Python")


def _glibc() -> tuple[int, ...] | None:
    """Its version; None where the C library is another."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):
        return None
    parts = version.split(".")[:2]
    return tuple(map(int, parts)) if name == "glibc" and all(part.isdigit() for part in parts) else None
