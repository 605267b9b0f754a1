"""Which wheels a machine needs, and fetching them: by name and hash from `wheels.lock`, with pip.

The lock has one line a wheel, SHA-256, bytes and file name, for Python 3.10 to 3.13 on x86-64 and ARM, one version a
package. What of it a machine needs follows from the names' tags and from the wheels' own requirements. Not in the lock:
llama-cpp-python, which comes as source only and is built by `tools/runtime`. `lock.py` renews it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from ...errors import InvalidFileError, StorageError, UsageError
from ...system.hashes import sha256_of
from ...system.safe_open import safe_open

LOCK = Path(__file__).with_name("wheels.lock")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PIP = "pip"  # in the lock, but nothing that GLM Edge needs: it installs the others
IK = "ik-llama-cpp-python"  # in the lock, of the extra [ik]; for x86-64 alone

Progress = Callable[[int, int], None]  # bytes done, bytes in all

# 2.31, of Debian 11: no locked wheel needs more, and none but llguidance's more than 2.28. Its last version with wheels
# for that, 1.6.1, lacks an option that we set (other characters as escapes in strings), fails 15 of the first 183 tests
# of tests/engine/sampling without it, and takes all memory for an array that must have 10**12 items.
_NEWEST_GLIBC = 31
_OLD_GLIBC = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}
_AT_ONCE = 8  # wheels of one call of pip; what was fetched before an interruption stays


@dataclass(frozen=True)
class Target:
    """Linux on `machine` ("x86_64", "aarch64") with CPython `python` ("3.11")."""

    machine: str
    python: str

    @property
    def platforms(self) -> list[str]:
        """As wheels name them, the newest first."""
        named = [f"manylinux_2_{minor}_{self.machine}" for minor in range(_NEWEST_GLIBC, 4, -1)]
        return [*named, *(f"{name}_{self.machine}" for name in _OLD_GLIBC), f"linux_{self.machine}"]

    @property
    def tags(self) -> frozenset[Tag]:
        """Of all wheels that can be installed there."""
        version, interpreter = tuple(map(int, self.python.split("."))), f"cp{self.python.replace('.', '')}"
        compiled = cpython_tags(version, abis=[interpreter], platforms=self.platforms)
        return frozenset([*compiled, *compatible_tags(version, interpreter, self.platforms)])

    def fits(self, wheel: str) -> bool:
        """Whether a wheel of this file name can be installed. Raises UsageError for what is no such name."""
        return not self.tags.isdisjoint(named(wheel)[2])

    @property
    def markers(self) -> dict[str, str]:
        """What the conditions of requirements are about."""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


@dataclass(frozen=True)
class LockedWheel:
    """A line of the lock."""

    name: str  # of the file
    sha256: str
    size: int

    def is_in(self, folder: Path) -> bool:
        """Whether the whole wheel is there."""
        try:
            path = folder / self.name
            return path.stat().st_size == self.size and sha256_of(path) == self.sha256
        except FileNotFoundError:
            return False


def locked(target: Target, *, ik: bool = False) -> list[LockedWheel]:
    """The lines that fit a target; that of ik_llama.cpp only if it is asked for."""
    lines = (line.split() for line in LOCK.read_text("utf-8").splitlines() if line and not line.startswith("#"))
    wheels = [LockedWheel(name, sha256, int(size)) for sha256, size, name in lines]
    return [wheel for wheel in wheels if target.fits(wheel.name) and (ik or named(wheel.name)[0] != IK)]


def glibc_of(wheel: str) -> tuple[int, int]:
    """The glibc that pip asks for before it installs a wheel of this file name: (2, 28) for manylinux_2_28."""
    minors = []
    for tag in named(wheel)[2]:
        if match := re.match(r"manylinux_2_(\d+)_", tag.platform):
            minors.append(int(match[1]))
        else:
            minors.append(_OLD_GLIBC.get(tag.platform.partition("_")[0], 0))
    return 2, min(minors)


def named(wheel: str) -> tuple[str, str, frozenset[Tag]]:
    """(package, version, tags) of a wheel's file name. Raises UsageError for what is none."""
    try:
        name, version, _, tags = parse_wheel_filename(wheel)
    except InvalidWheelFilename:
        raise UsageError(f"{wheel}: is no wheel's file name, as glm-edge runtime gives it") from None
    return name, str(version), tags


def fetch(wheels: Sequence[LockedWheel], target: Target, folder: Path, progress: Progress) -> None:
    """Fetch wheels into an existing folder with pip, from where the user's pip fetches. What is there is kept.

    Raises UsageError where this Python has no pip, StorageError where a wheel cannot be fetched.
    """
    missing = [wheel for wheel in wheels if not wheel.is_in(folder)]
    if missing and importlib.util.find_spec("pip") is None:
        raise UsageError(f"{sys.executable} has no pip, which fetches the wheels: {sys.executable} -m ensurepip")
    total, done = sum(wheel.size for wheel in missing), 0
    for start in range(0, len(missing), _AT_ONCE):
        some = missing[start : start + _AT_ONCE]
        _fetch(some, target, folder)
        done += sum(wheel.size for wheel in some)
        progress(done, total)


def _fetch(wheels: Sequence[LockedWheel], target: Target, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as temporary:
        wanted = Path(temporary) / "wanted.txt"
        wanted.write_text("".join(pinned(wheel.name, wheel.sha256) for wheel in wheels), "utf-8")
        failed = download(target, Path(temporary), "--require-hashes", "-r", str(wanted))
        for wheel in wheels:
            if not wheel.is_in(Path(temporary)):
                why = failed or "pip brought another file"
                raise StorageError(f"{wheel.name}: cannot be fetched: {why}; the same command goes on from here")
            os.replace(Path(temporary) / wheel.name, folder / wheel.name)


def download(target: Target, folder: Path, *wanted: str) -> str:
    """Let pip download wheels for a target into a folder; returns why it failed, in a line, or an empty text."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "download"]
    command += ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", target.python]
    command += [word for platform in target.platforms for word in ("--platform", platform)]
    command += ["-d", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if not done.returncode:
        return ""
    lines = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
    return next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")


def pinned(wheel: str, sha256: str) -> str:
    """A line of pip's requirements file that only this wheel meets."""
    name, version, _ = named(wheel)
    return f"{name}=={version} --hash=sha256:{sha256}\n"


def needed(wheels: Iterable[Path], root: str, target: Target) -> list[Path]:
    """Those of `wheels` that `root` needs, itself included, by their own requirements.

    Raises UsageError where one is missing, or has a version that another one does not take.
    """
    found = {named(path.name)[0]: path for path in wheels}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(root), "glm-edge bundle")]
    while waiting:
        wanted, who = waiting.pop()
        name = canonicalize_name(wanted.name)
        path = found.get(name)
        if path is None:
            raise UsageError(f"{who} needs {wanted} on Python {target.python}, and there is no wheel of it")
        if not wanted.specifier.contains(version := named(path.name)[1], prereleases=True):
            raise UsageError(f"{who} needs {wanted} on Python {target.python}, not {version}")
        for extra in ("", *wanted.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(other, path.name) for other in requirements(path, extra, target)]
    return sorted({found[name] for name, _ in seen})


def requirements(path: Path, extra: str, target: Target) -> Iterator[Requirement]:
    """What a wheel needs there, for itself or for one of its extras."""
    about = metadata(path)
    python = about["Requires-Python"] or ""
    if not SpecifierSet(python).contains(f"{target.python}.99"):
        raise UsageError(f"{path.name} needs Python {python}, not {target.python}")
    environment: Mapping[str, str] = {**target.markers, "extra": extra}
    for line in about.get_all("Requires-Dist", []):
        wanted = Requirement(line)
        if wanted.marker.evaluate(dict(environment)) if wanted.marker is not None else not extra:
            yield wanted


def metadata(wheel: Path) -> Message:
    """The fields of a wheel's METADATA. Raises InvalidFileError for what is no wheel."""
    folder = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    try:
        with safe_open(wheel) as file, zipfile.ZipFile(file) as archive:
            return HeaderParser().parsestr(archive.read(f"{folder}/METADATA").decode("utf-8", "replace"))
    except (zipfile.BadZipFile, KeyError):
        raise InvalidFileError(f"{wheel}: is no wheel, or a damaged one") from None
