"""What tests of bundles share: the target that is this machine, and small wheels."""

from __future__ import annotations

import platform
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from glm_edge.tools.bundle.bundle import Progress
from glm_edge.tools.bundle.wheels import Target

HERE = Target(platform.machine(), f"{sys.version_info[0]}.{sys.version_info[1]}")


@contextmanager
def quietly(what: str, unit: str) -> Iterator[Progress]:
    """The progress of a step that nobody watches."""
    yield lambda done, total: None


def write_wheel(path: Path, *needs: str, files: Mapping[str, bytes] | None = None) -> Path:
    """A wheel of this file name that needs these requirements."""
    name, version = path.name.split("-")[:2]
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    about += "".join(f"Requires-Dist: {line}\n" for line in needs)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", about)
        archive.writestr(f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for file, content in (files or {}).items():
            archive.writestr(file, content)
    return path
