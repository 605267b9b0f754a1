"""Prefixes on disk: what was computed once is read back in milliseconds, after a restart too.

One file a prefix, named by its content's hash, complete or absent:

    8 bytes   magic          b"GLMEPFX1"
    32 bytes  identity       sha256 of the model file, the cache's types and llama.cpp's version
    4 bytes   n              token ids, little endian as all numbers
    8 bytes   m              bytes of state
    n x 4     token ids      int32
    m         state          llama.cpp's own format for one sequence
    32 bytes  sha256         of everything before

A broken file in the writable folder is removed, one of another model is left alone until its turn comes to make room.
The files contain what users wrote: only their owner may read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import struct
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .prefixes import common_prefix

_MAGIC = b"GLMEPFX1"
_HEADER = struct.Struct("<8s32sIQ")
_SUFFIX = ".prefix"
_MAX_TOKENS = 1 << 20
_DIGEST = 32  # bytes of sha256


@dataclass(frozen=True)
class _File:
    path: Path
    identity: bytes
    tokens: list[int]
    size: int  # bytes
    writable: bool  # lies in the folder that is ours to clean up


class Store:
    """Args:
    folder: where new prefixes go; made when the first is saved.
    shipped: folders of prefixes that came with the model, only read.
    identity: sha256 digest of all that a state depends on.
    limit: bytes that `folder` may hold; the least recently used files go first.

    `longest` and `load` are the engine thread's; `save` hands the writing to a thread of its own.
    """

    def __init__(self, folder: Path, identity: bytes, *, limit: int, shipped: tuple[Path, ...] = ()) -> None:
        self._folder = folder
        self._identity = identity
        self._limit = limit
        self._lock = threading.Lock()  # guards _files
        self._files = [
            f for place in shipped for path in place.glob(f"*{_SUFFIX}") if (f := _read(path, writable=False))
        ]
        for path in folder.glob(f"*{_SUFFIX}"):
            if file := _read(path, writable=True):
                self._files.append(file)
            else:
                _remove(path)
        self._files = [f for f in self._files if f.identity == identity]
        self._work: queue.SimpleQueue[tuple[list[int], bytes] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    def longest(self, tokens: list[int]) -> int:
        """How many leading tokens of these the best file holds."""
        with self._lock:
            return max((common_prefix(file.tokens, tokens) for file in self._files), default=0)

    def load(self, tokens: list[int]) -> bytes | None:
        """The state of the file with the longest prefix; None when it turns out broken, and then it is gone."""
        with self._lock:
            file = max(self._files, key=lambda f: common_prefix(f.tokens, tokens))
        state = _read_state(file)
        if state is None:
            self._forget(file)
        elif file.writable:
            with contextlib.suppress(OSError):
                os.utime(file.path)
        return state

    def save(self, tokens: list[int], state: bytes) -> None:
        """Write a prefix in the background; what it covers is removed then."""
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="prefix writer", daemon=True)
            self._writer.start()
        self._work.put((tokens, state))

    def close(self) -> None:
        """Wait until everything is written."""
        if self._writer is not None:
            self._work.put(None)
            self._writer.join()
            self._writer = None

    def _write_all(self) -> None:
        while (work := self._work.get()) is not None:
            # a full or read-only disk costs the cache, nothing else
            with contextlib.suppress(OSError):
                self._write(*work)

    def _write(self, tokens: list[int], state: bytes) -> None:
        header = _HEADER.pack(_MAGIC, self._identity, len(tokens), len(state))
        ids = np.array(tokens, "<i4").tobytes()
        digest = hashlib.sha256(header + ids)
        name = digest.hexdigest()[:32] + _SUFFIX
        digest.update(state)
        size = len(header) + len(ids) + len(state) + _DIGEST
        if size > self._limit:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_room(size, tokens)
        # mkstemp's files are readable by their owner only
        handle, temporary = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
        try:
            with open(handle, "wb") as file:
                for part in (header, ids, state, digest.digest()):
                    file.write(part)
            os.replace(temporary, self._folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        with self._lock:
            self._files.append(_File(self._folder / name, self._identity, tokens, size, writable=True))

    def _make_room(self, size: int, tokens: list[int]) -> None:
        """Remove what the new file covers, then the least recently used, of any model, until it fits."""
        with self._lock:
            covered = [f for f in self._files if f.writable and common_prefix(f.tokens, tokens) == len(f.tokens)]
        for file in covered:
            self._forget(file)
        paths = sorted(self._folder.glob(f"*{_SUFFIX}"), key=_used)
        sizes = [path.stat().st_size for path in paths]
        while paths and sum(sizes) + size > self._limit:
            self._forget_path(paths.pop(0))
            sizes.pop(0)

    def _forget(self, file: _File) -> None:
        with self._lock:
            self._files = [f for f in self._files if f is not file]
        if file.writable:
            _remove(file.path)

    def _forget_path(self, path: Path) -> None:
        with self._lock:
            self._files = [f for f in self._files if f.path != path]
        _remove(path)


def _read(path: Path, *, writable: bool) -> _File | None:
    """What a file says it holds; None unless its length is the one that this takes."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return None
            magic, identity, n, m = _HEADER.unpack(head)
            if magic != _MAGIC or not 0 < n <= _MAX_TOKENS:
                return None
            ids = file.read(4 * n)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return None
    if size != _HEADER.size + 4 * n + m + _DIGEST:
        return None
    return _File(path, identity, np.frombuffer(ids, "<i4").tolist(), size, writable)


def _read_state(file: _File) -> bytes | None:
    """The state of a file; None when any byte of it changed since it was written."""
    try:
        content = file.path.read_bytes()
    except OSError:
        return None
    body, digest = memoryview(content)[:-_DIGEST], content[-_DIGEST:]
    if len(content) != file.size or hashlib.sha256(body).digest() != digest:
        return None
    return bytes(body[_HEADER.size + 4 * len(file.tokens) :])


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _used(path: Path) -> float:
    """When a file was last used, by its time of change; 0 where it has gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
