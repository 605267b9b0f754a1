"""Shell commands as an ordinary user without a network, in namespaces of their own where the system has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

_UNSHARE = shutil.which("unshare") or ""
_USER = (_UNSHARE, "--user", "--map-user=1000", "--map-group=1000", "--net")
_ROOT = (_UNSHARE, "--user", "--map-root-user", "--net", "--mount")


@cache
def _works(command: tuple[str, ...]) -> bool:
    if sys.platform != "linux" or not _UNSHARE:
        return False
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


def as_user() -> tuple[str, ...]:
    """What goes before a command, so that it runs as a user who is not root; skips the test where that cannot be."""
    if _works(_USER):
        return _USER
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("this system lets root make no user namespace to be an ordinary user in")
    return ()


def as_root() -> tuple[str, ...]:
    """The same, as a root who may mount; skips the test where that cannot be."""
    if not _works(_ROOT):
        pytest.skip("this system lets nobody make a mount namespace")
    return _ROOT


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of somebody who has just logged in."""
    plain = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHON": sys.executable}
    return plain | more


def run_alone(
    command: Sequence[str | Path], home: Path, *, before: tuple[str, ...] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """A command's end and what it said.

    Args:
        before: by default `as_user()`.
        more: variables of its environment.
    """
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [*(as_user() if before is None else before), *command],
        cwd=home,
        env=environment(home, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
