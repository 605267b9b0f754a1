"""Prefixes on disk: what was computed once is read back in milliseconds, after a restart too.

One file a prefix, named by its content's hash, complete or absent:

    8 bytes   magic          b"GLMEPFX1"
    32 bytes  identity       sha256 of the model's fingerprint, the cache's types and llama.cpp's version
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
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .prefixes import common_prefix

_MAGIC = b"GLMEPFX1"
_HEADER = struct.Struct("<8s32sIQ")
_SUFFIX = ".prefix"
_MAX_TOKENS = 1 << 20
_DIGEST = 32  # bytes of sha256
_TEMPORARY = ".tmp"
_ABANDONED_S = 600.0  # nothing takes so long to write


@dataclass(frozen=True)
class File:
    """What a file says it holds."""

    path: Path
    identity: bytes
    tokens: list[int]
    size: int  # bytes
    writable: bool  # lies in the folder that is ours to clean up


@dataclass(frozen=True)
class Stored:
    """A state that was read, and how many of the tokens asked for it begins with."""

    state: memoryview
    length: int
    file: File


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
        for path in folder.glob(f"*{_TEMPORARY}"):  # of a program that was killed while it wrote
            if time.time() - _used(path) > _ABANDONED_S:
                _remove(path)
        for path in folder.glob(f"*{_SUFFIX}"):
            if file := _read(path, writable=True):
                self._files.append(file)
            else:
                _remove(path)
        self._files = [f for f in self._files if f.identity == identity]
        # one at a time: a state may be hundreds of megabytes, and those that wait would all be in memory
        self._work: queue.Queue[tuple[list[int], memoryview] | None] = queue.Queue(maxsize=1)
        self._writer: threading.Thread | None = None

    def longest(self, tokens: list[int]) -> int:
        """How many leading tokens of these the best file holds."""
        with self._lock:
            return max((common_prefix(file.tokens, tokens) for file in self._files), default=0)

    def load(self, tokens: list[int], at_least: int = 1) -> Stored | None:
        """The state with the longest prefix of `tokens`; None where no file has `at_least` so many, or it is broken."""
        with self._lock:
            lengths = [(common_prefix(file.tokens, tokens), i) for i, file in enumerate(self._files)]
            length, best = max(lengths, default=(0, -1))
            if length < max(at_least, 1):
                return None
            file = self._files[best]
        state = _read_state(file)
        if state is None:
            self.forget(file)
            return None
        if file.writable:
            with contextlib.suppress(OSError):
                os.utime(file.path)
        return Stored(state, length, file)

    def save(self, tokens: list[int], state: memoryview) -> None:
        """Write a prefix in the background, unless another is still being written; what it covers is removed then."""
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="prefix writer", daemon=True)
            self._writer.start()
        with contextlib.suppress(queue.Full):
            self._work.put_nowait((tokens, state))

    def flush(self) -> None:
        """Wait until what was handed to `save` is written."""
        self._work.join()

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
            self._work.task_done()

    def _write(self, tokens: list[int], state: memoryview) -> None:
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
        handle, temporary = tempfile.mkstemp(dir=self._folder, suffix=_TEMPORARY)
        try:
            with open(handle, "wb") as file:
                for part in (header, ids, state, digest.digest()):
                    file.write(part)
            os.replace(temporary, self._folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        with self._lock:
            self._files.append(File(self._folder / name, self._identity, tokens, size, writable=True))

    def _make_room(self, size: int, tokens: list[int]) -> None:
        """Remove what the new file covers, then the least recently used, of any model, until it fits."""
        with self._lock:
            covered = [f for f in self._files if f.writable and common_prefix(f.tokens, tokens) == len(f.tokens)]
        for file in covered:
            self.forget(file)
        paths = sorted(self._folder.glob(f"*{_SUFFIX}"), key=_used)
        sizes = [path.stat().st_size for path in paths]
        while paths and sum(sizes) + size > self._limit:
            self._forget_path(paths.pop(0))
            sizes.pop(0)

    def forget(self, file: File) -> None:
        """Remove a file that is of no use."""
        with self._lock:
            self._files = [f for f in self._files if f is not file]
        if file.writable:
            _remove(file.path)

    def _forget_path(self, path: Path) -> None:
        with self._lock:
            self._files = [f for f in self._files if f.path != path]
        _remove(path)


def _read(path: Path, *, writable: bool) -> File | None:
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
    return File(path, identity, np.frombuffer(ids, "<i4").tolist(), size, writable)


def _read_state(file: File) -> memoryview | None:
    """The state of a file; None when any byte of it changed since it was written."""
    content = bytearray(file.size)
    try:
        with open(file.path, "rb") as source:
            complete = source.readinto(content) == file.size and not source.read(1)
    except OSError:
        return None
    body = memoryview(content)[:-_DIGEST]
    if not complete or hashlib.sha256(body).digest() != content[-_DIGEST:]:
        return None
    return body[_HEADER.size + 4 * len(file.tokens) :]


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _used(path: Path) -> float:
    """When a file was last used, by its time of change; 0 where it has gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
