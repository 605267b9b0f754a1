"""Writes a bundle as a folder or as a tar archive: under its own name only when it is whole, the same bytes each time.

A folder grows under the name OUT.part, and a later run keeps what is right in it. An archive is written in one go. What
was made before and is ours gives way at the end. Not here: what is in a bundle (`bundle.py`).
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import GlmEdgeError, StorageError, UsageError
from ...system.atomic_write import TEMPORARY, atomic_write, sync_folder
from ...system.file_lock import Lock
from ...system.hashes import parts_with_hash, sha256_of
from ...system.safe_open import read_file, safe_open

ABOUT = "bundle.json"  # in every bundle: what it is, and by that whose
SUMS = "SHA256SUMS"

Progress = Callable[[int, int], None]  # bytes done, bytes in all

_COMPRESSED = {".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip"}
_ABOUT_BYTES = 1 << 16
_SUMS_BYTES = 1 << 22


@dataclass(frozen=True)
class Entry:
    """One file of a bundle: its name in it, "/" between folders, and what it has."""

    name: str
    content: Path | bytes
    size: int
    sha256: str
    mode: int = 0o644

    def parts(self, tell: Callable[[int], None]) -> Iterator[bytes]:
        """Its bytes. Raises IntegrityError where the file behind it no longer has the hash."""
        if isinstance(self.content, bytes):
            return iter([self.content])
        return parts_with_hash(self.content, self.sha256, tell)


def entry_of(name: str, content: Path | bytes, sha256: str | None = None, *, mode: int = 0o644) -> Entry:
    """Args: sha256: of the content; computed where it is None."""
    if isinstance(content, bytes):
        return Entry(name, content, len(content), hashlib.sha256(content).hexdigest(), mode)
    return Entry(name, content, content.stat().st_size, sha256 or sha256_of(content), mode)


def check_out(out: Path) -> None:
    """Raise StorageError unless a bundle may be written to `out`: nothing is there, or a bundle of ours.

    Raises UsageError for the name of a compressed archive.
    """
    if not out.name or out.suffix in _COMPRESSED:
        raise UsageError(f"{out}: name a folder, or a file that ends in .tar: wheels and models do not compress")
    if not out.parent.is_dir():
        raise StorageError(f"{out.parent}: there is no such folder; make it first")
    for path in (out, _part(out)):
        if path.is_symlink():
            raise StorageError(f"{path}: is a link; name the place itself")
        if path.exists() and not _is_ours(path):
            raise StorageError(f"{path}: is there and is no bundle; move it away or choose another name")
    if out.is_dir() and (strange := _strange(out)):
        raise StorageError(f"{out}: has {strange}, which is not of the bundle; move it away")


def write(out: Path, entries: Sequence[Entry], *, top: str, time: int, progress: Progress) -> None:
    """Write the bundle; one of ours that is there gives way.

    Args:
        entries: all files but SHA256SUMS.
        top: the folder in an archive.
        time: of all files, in seconds since 1970.

    Raises StorageError, also while another program writes there.
    """
    sums = "".join(f"{entry.sha256}  {entry.name}\n" for entry in sorted(entries, key=lambda entry: entry.name))
    every = sorted([*entries, entry_of(SUMS, sums.encode())], key=lambda entry: entry.name)
    lock = Lock(out.with_name(f".{out.name}.glm-edge.lock"), out)
    try:
        check_out(out)
        for left in out.parent.glob(f"{glob.escape(out.name)}.????????{TEMPORARY}"):  # of an archive's maker, killed
            left.unlink()
        check_space(out, sum(entry.size for entry in every))
        if out.suffix == ".tar":
            atomic_write(out, _archive(every, top, time, progress))
            out.chmod(0o644)
        else:
            _write_folder(out, every, time, progress)
        sync_folder(out.parent)
    finally:
        lock.release()


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _is_ours(path: Path) -> bool:
    """Whether this is a bundle, the beginning of one, or an empty folder."""
    try:
        if path.is_dir():
            return not any(path.iterdir()) or is_about(json.loads(read_file(path / ABOUT, _ABOUT_BYTES, follow=False)))
        with safe_open(path, follow=False) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            found = next((member for member in archive if PurePosixPath(member.name).name == ABOUT), None)
            inside = archive.extractfile(found) if found is not None else None
            return inside is not None and is_about(json.loads(inside.read(_ABOUT_BYTES)))
    except (GlmEdgeError, OSError, ValueError, RecursionError, tarfile.TarError):
        return False


def is_about(value: Any) -> bool:
    """Whether this is what the file `ABOUT` of a bundle has."""
    return isinstance(value, dict) and value.get("what") == "GLM Edge bundle" and value.get("format") == 1


def _strange(folder: Path) -> str:
    """A file of a bundle's folder that is not of the bundle; empty if there is none."""
    if not any(folder.iterdir()):
        return ""
    lines = read_file(folder / SUMS, _SUMS_BYTES, follow=False).decode("utf-8", "replace").splitlines()
    known = {SUMS, *(line.partition("  ")[2] for line in lines)}
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in files)
    return next((name for name in names if name not in known), "")


def check_space(out: Path, size: int) -> None:
    """Raise StorageError where a bundle of `size` bytes will not fit. What an interrupted run has left counts."""
    part = _part(out)
    there = sum(path.stat().st_size for path in part.rglob("*") if path.is_file()) if out.suffix != ".tar" else 0
    free = shutil.disk_usage(out.parent).free
    if size - there > free:
        raise StorageError(f"{out}: {free / 1e9:.2f} GB are free, and the bundle takes {size / 1e9:.2f} GB")


def _write_folder(out: Path, entries: Sequence[Entry], time: int, progress: Progress) -> None:
    part = _part(out)
    old = out.with_name(f"{out.name}.old")
    if os.path.lexists(old):  # of a run that was killed at its end
        if old.is_symlink() or not _is_ours(old):
            raise StorageError(f"{old}: is in the way; move it away")
        shutil.rmtree(old)
    part.mkdir(exist_ok=True)
    known = {part / entry.name for entry in entries}
    for path in sorted(part.rglob("*"), reverse=True):  # of an earlier run that wanted something else
        if path.is_symlink() or not path.is_dir():
            if path not in known:
                path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()
    total, done = sum(entry.size for entry in entries), 0
    for entry in sorted(entries, key=lambda entry: entry.name != ABOUT):  # the first one says that the folder is ours
        path = part / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_there(path, entry):
            atomic_write(path, entry.parts(after(done, total, progress)))
        path.chmod(entry.mode)
        os.utime(path, (time, time))
        done += entry.size
        progress(done, total)
    for folder in (part, *(path for path in part.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    if out.exists():
        os.rename(out, old)
    os.rename(part, out)
    if old.exists():
        shutil.rmtree(old)


def _is_there(path: Path, entry: Entry) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    return path.stat().st_size == entry.size and sha256_of(path) == entry.sha256


def after(done: int, total: int, progress: Progress) -> Callable[[int], None]:
    """What one of several files tells its bytes to: those before it are `done`."""
    return lambda size: progress(done + size, total)


def _archive(entries: Sequence[Entry], top: str, time: int, progress: Progress) -> Iterator[bytes]:
    """The parts of a tar archive."""
    total, done = sum(entry.size for entry in entries), 0
    folders = {f"{top}/{folder}".rstrip("/.") for entry in entries for folder in PurePosixPath(entry.name).parents}
    for folder in sorted(folders):
        yield _header(folder, tarfile.DIRTYPE, 0, 0o755, time)
    for entry in entries:
        yield _header(f"{top}/{entry.name}", tarfile.REGTYPE, entry.size, entry.mode, time)
        yield from entry.parts(after(done, total, progress))
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
        done += entry.size
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, kind: bytes, size: int, mode: int, time: int) -> bytes:
    """As nobody in particular, so that the bytes say nothing of who made it."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mode, member.mtime = kind, size, mode, time
    return member.tobuf(tarfile.PAX_FORMAT)
