"""One cache block in one file, named by its key, complete or absent; and the folder of such files.

    8 bytes   magic          b"GLMEPFX2"
    32 bytes  identity       sha256 of the model's fingerprint, the cache's types and llama.cpp's version
    32 bytes  parent         key of the block before; the identity where there is none
    4 bytes   start          position of the first token; little endian as all numbers
    4 bytes   n              token ids
    8 bytes   m              bytes of state
    n x 4     token ids      int32
    m         state          llama.cpp's own format for one sequence
    32 bytes  sha256         of everything before

A key is sha256(parent, token ids). A broken file in our folder is removed. A file of another model stays until the
limit of the folder evicts it. The files contain what users wrote: only their owner may read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...system.atomic_write import TEMPORARY, atomic_write

_MAGIC = b"GLMEPFX2"
_HEADER = struct.Struct("<8s32s32sIIQ")
_SUFFIX = ".prefix"
_MAX_TOKENS = 1 << 20
_DIGEST = 32  # bytes of sha256
_ABANDONED_S = 600.0  # nothing takes so long to write
_FILES = 1000  # at most: every first block is compared with a prompt, which takes some 3 ms


@dataclass(frozen=True, eq=False)
class CacheBlock:
    """A cache block: the tokens of a prefix from position `start` on. Its parent has those before."""

    key: bytes
    parent: bytes
    start: int
    tokens: list[int]
    path: Path | None = None  # where it is on disk
    size: int = 0  # bytes there
    writable: bool = False  # in our own folder, where we remove files

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    def touch(self) -> None:
        """Mark its file as used now: others are evicted first."""
        if self.path is not None and self.writable:
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def remove(self) -> None:
        """Delete its file, where that is ours."""
        if self.path is not None and self.writable:
            _remove(self.path)


def key_of(parent: bytes, tokens: list[int]) -> bytes:
    return hashlib.sha256(parent + np.array(tokens, "<i4").tobytes()).digest()


class Folder:
    """The folder of cache blocks of one engine; several engines may share it.

    Args:
        path: made when the first block is written.
        limit: bytes of its files; the least recently used are evicted, whatever model they are of.
    """

    def __init__(self, path: Path, identity: bytes, limit: int) -> None:
        self._path = path
        self._identity = identity
        self._limit = limit

    def open(self) -> list[CacheBlock]:
        """The blocks of our identity. Broken files are removed, and temporary ones of killed programs."""
        for path in self._path.glob(f"*{TEMPORARY}"):
            if time.time() - _used(path) > _ABANDONED_S:
                _remove(path)
        return read_folder(self._path, self._identity, writable=True)

    def write(
        self, block: CacheBlock, state: memoryview, spared: Sequence[Path] = ()
    ) -> tuple[CacheBlock | None, frozenset[Path]]:
        """The block as it is on disk, None where it could not be written; and the files that were evicted for it.

        Args:
            spared: files that must stay: the block cannot be used without them.
        """
        gone: set[Path] = set()
        with contextlib.suppress(OSError, MemoryError):  # a full or read-only disk costs only the cache
            ids = np.array(block.tokens, "<i4").tobytes()
            numbers = block.start, len(block.tokens), len(state)
            header = _HEADER.pack(_MAGIC, self._identity, block.parent, *numbers)
            digest = hashlib.sha256(header + ids)
            digest.update(state)
            size = len(header) + len(ids) + len(state) + _DIGEST
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._evict(size, spared, gone):
                path = self._path / (block.key.hex()[:32] + _SUFFIX)
                atomic_write(path, (header, ids, state, digest.digest()), durable=False)  # for its owner alone
                return replace(block, path=path, size=size, writable=True), frozenset(gone)
        return None, frozenset(gone)

    def _evict(self, size: int, spared: Sequence[Path], gone: set[Path]) -> bool:
        """Evict files until one more of `size` bytes fits; False, with nothing evicted, where it cannot fit."""
        sizes = {path: _size(path) for path in sorted(self._path.glob(f"*{_SUFFIX}"), key=_used)}
        if sum(sizes.get(path, 0) for path in spared) + size > self._limit:
            return False
        over = sum(sizes.values()) + size - self._limit
        too_many = len(sizes) + 1 - _FILES
        for path in [path for path in sizes if path not in spared]:
            if over <= 0 and too_many <= 0:
                break
            _remove(path)
            gone.add(path)
            over -= sizes[path]
            too_many -= 1
        return True


def read_folder(folder: Path, identity: bytes, *, writable: bool = False) -> list[CacheBlock]:
    """The blocks of this identity in a folder. If it is `writable`, broken files are removed."""
    found: list[CacheBlock] = []
    for path in folder.glob(f"*{_SUFFIX}"):
        known, block = _read(path, identity, writable)
        if block is not None:
            found.append(block)
        elif writable and not known:
            _remove(path)
    return found


def _read(path: Path, identity: bytes, writable: bool) -> tuple[bool, CacheBlock | None]:
    """(whether the file is well formed, its block if it is of this identity)."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return False, None
            magic, owner, parent, start, n, m = _HEADER.unpack(head)
            if magic != _MAGIC or not 0 < n <= _MAX_TOKENS:
                return False, None
            ids = file.read(4 * n)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return False, None
    if size != _HEADER.size + 4 * n + m + _DIGEST:
        return False, None
    if owner != identity:
        return True, None
    tokens = np.frombuffer(ids, "<i4").tolist()
    return True, CacheBlock(key_of(parent, tokens), parent, start, tokens, path, size, writable)


def read_state(block: CacheBlock) -> memoryview | None:
    """The state in a block's file; None if any byte of the file has changed since it was written."""
    if block.path is None:
        return None
    content = bytearray(block.size)
    try:
        with open(block.path, "rb") as source:
            complete = source.readinto(content) == block.size and not source.read(1)
    except OSError:
        return None
    body = memoryview(content)[:-_DIGEST]
    if not complete or hashlib.sha256(body).digest() != content[-_DIGEST:]:
        return None
    return body[_HEADER.size + 4 * len(block.tokens) :]


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it is gone: another program with the same folder may have removed it."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _used(path: Path) -> float:
    """When a file was last used, by its time of change; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
