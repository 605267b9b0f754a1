"""What the checks look at and what they find. Another machine is a folder with the files of its kernel."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...system.device import Processors, processors

Level = Literal["ok", "note", "problem"]
_TIME_ERROR = 5  # not synchronised


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. A problem keeps a chat from working; a note makes it slower or less certain."""

    topic: str
    level: Level
    text: str
    todo: str = ""  # what to do about it; empty where nothing is
    facts: Mapping[str, object] = field(default_factory=dict)  # the figures behind the text, for programs


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _port_is_free(port: int) -> bool:
    with socket.socket() as sock:
        if os.name == "posix":  # as serve does; elsewhere it would let two programs in
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _synchronised() -> bool:
    """Whether something keeps the clock right, as adjtimex(2) tells."""
    if sys.platform != "linux":
        return True
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    return adjtimex is None or adjtimex(ctypes.create_string_buffer(512)) != _TIME_ERROR


@dataclass(frozen=True)
class Host:
    """The machine that is looked at: this one, unless something else is said.

    Args:
        cpus: what the process may use of the processors.
        free: bytes free where a folder is.
        now: seconds since 1970.
    """

    root: Path = Path("/")
    cpus: Processors = field(default_factory=processors)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    free: Callable[[Path], int] = _free
    port_is_free: Callable[[int], bool] = _port_is_free
    synchronised: Callable[[], bool] = _synchronised
    now: float = field(default_factory=time.time)

    def text(self, name: str) -> str:
        """What a file of the kernel says, by its name below the root; nothing where there is none."""
        try:
            return (self.root / name).read_text("utf-8", "replace").strip().rstrip("\0")
        except OSError:
            return ""

    def number(self, name: str) -> int | None:
        text = self.text(name)
        return int(text) if text.lstrip("-").isdigit() else None

    def number_of(self, name: str, key: str) -> int | None:
        """The figure after "KEY:" in a file like /proc/meminfo."""
        lines = (line.partition(":") for line in self.text(name).splitlines())
        return next((int(value.split()[0]) for found, _, value in lines if found == key), None)

    def names(self, pattern: str) -> list[str]:
        """Names of files below the root that fit a pattern, sorted."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))

    def folder(self, path: Path) -> Path:
        """The folder itself, or the nearest one above it that is there."""
        return next((place for place in (path, *path.parents) if place.is_dir()), Path("/"))
