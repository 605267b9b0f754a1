"""Renews `wheels.lock`, for who works on GLM Edge: `python -m glm_edge.tools.bundle.lock [NAME==VERSION ...]`.

Takes the newest version of each package that has wheels for every Python and processor, or the one that is named. The
newest pip finds that for one target at a time, so the oldest Python goes first and the others must take its versions.
Needs the package index and an installation with llama-cpp-python, and some minutes. It writes when all is found.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ...errors import GlmEdgeError, StorageError
from ...system.atomic_write import atomic_write
from ...system.hashes import sha256_of
from ..runtime.compiler import MACHINES
from .wheels import LOCK, PIP, PYTHONS, Target, download, named, requirements

_HEAD = "# The wheels of a bundle: SHA-256, bytes, file name. python -m glm_edge.tools.bundle.lock renews this file.\n"
_NOT_HERE = {"glm-edge", "llama-cpp-python"}  # not of the index, and built by tools/runtime


def main() -> None:
    """Find the wheels of all targets and write the lock."""
    named_ones = [Requirement(text) for text in sys.argv[1:]]
    chosen: dict[str, Requirement] = {canonicalize_name(one.name): one for one in named_ones}
    with tempfile.TemporaryDirectory(prefix="glm-edge-lock-") as temporary:
        folder = Path(temporary)
        for python in PYTHONS:
            for machine in MACHINES:
                _fetch_all(Target(machine, python), chosen, folder)
        wheels = sorted(folder.glob("*.whl"), key=lambda path: path.name.lower())
        lines = [f"{sha256_of(path)} {path.stat().st_size} {path.name}\n" for path in wheels]
    atomic_write(LOCK, ["".join([_HEAD, *lines]).encode()])
    LOCK.chmod(0o644)
    print(f"{LOCK}: {len(lines)} wheels")


def _fetch_all(target: Target, chosen: dict[str, Requirement], folder: Path) -> None:
    """Fetch what a target needs; `chosen` has the versions of the targets before, and gets those of this one."""
    waiting = [Requirement(PIP), *_roots(target)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in _NOT_HERE or (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        path = _fetch(chosen.get(name, wanted), target, folder)
        version = named(path.name)[1]
        if not wanted.specifier.contains(version, prereleases=True):
            raise StorageError(f"{wanted} is needed, and {path.name} was chosen; name a version: {name}==VERSION")
        chosen[name] = Requirement(f"{name}=={version}")
        for extra in ("", *wanted.extras):
            waiting += requirements(path, extra, target)


def _roots(target: Target) -> list[Requirement]:
    """What GLM Edge and llama-cpp-python need, by what is installed."""
    lines = [line for name in sorted(_NOT_HERE) for line in requires(name) or ()]
    found = [Requirement(line) for line in lines]
    conditions = [{**target.markers, "extra": extra} for extra in ("", "ik")]
    return [one for one in found if one.marker is None or any(map(one.marker.evaluate, conditions))]


def _fetch(wanted: Requirement, target: Target, folder: Path) -> Path:
    """The newest wheel that meets a requirement on a target, from the folder or from the index."""
    for path in folder.glob("*.whl"):
        name, version, _ = named(path.name)
        chosen = name == canonicalize_name(wanted.name) and str(wanted.specifier) == f"=={version}"
        if chosen and target.fits(path.name):
            return path
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        if why := download(target, Path(temporary), f"{wanted.name}{wanted.specifier}"):
            raise StorageError(f"{wanted} for Python {target.python} on {target.machine}: {why}")
        path = next(Path(temporary).glob("*.whl"))
        print(path.name, file=sys.stderr)
        os.replace(path, folder / path.name)
    return folder / path.name


if __name__ == "__main__":
    try:
        main()
    except GlmEdgeError as error:
        sys.exit(f"error: {error}")
