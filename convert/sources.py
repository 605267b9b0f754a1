"""The SHA-256 of every file that a conversion reads, taken while it reads them.

A thread follows the conversion through each file and never gets ahead of it: what it hashes has just been read and
still lies in the system's page cache, so the disk is read once. hashlib lets the other threads work meanwhile.
What the hashes are for: the result names its sources by them, and `glm-edge verify --sources` compares.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from .checkpoint import SourceTensor
from .files import StableFile
from .layout import Layout
from .threads import Threads

BLOCK = 1 << 20  # bytes read at a time
STEP = 8 << 20  # bytes that the conversion is ahead before the thread follows


class SourceHashes:
    """Use as a context manager; call `reached` as the conversion goes on, and `text` at its end.

    Raises what `StableFile` raises: IntegrityError when a file is no longer the one that was opened.
    """

    def __init__(self, paths: Iterable[Path], layout: Layout) -> None:
        parts = {part for placed in layout.tensors for part in placed.tensor.source.parts}
        opened = {part.file.path: part.file for part in parts}
        self._files = [_Following(opened.get(path) or StableFile.find(path)) for path in paths]
        self._by_path = {following.file.path: following for following in self._files}
        for part in parts:
            self._by_path[part.file.path].unread[part.offset] = part.offset
        self._stop = threading.Event()
        self._pool = Threads(1, thread_name_prefix="hash")
        self._last: Future[None] | None = None

    def reached(self, source: SourceTensor, stop: int, *, is_last: bool) -> None:
        """Rows up to `stop` of a tensor have been read; `is_last`: that is all of it."""
        for part in source.parts:
            following = self._by_path[part.file.path]
            if is_last:
                following.unread.pop(part.offset, None)
            elif part.rows > 1:
                following.unread[part.offset] = part.offset + part.nbytes // part.rows * min(stop, part.rows)
            ahead = following.first_unread()
            if ahead >= following.sent + STEP:
                self._send(following, ahead)

    def text(self) -> str:
        """The value of SOURCES, when all files have been hashed to their ends."""
        for following in self._files:
            self._send(following, following.file.size)
        if self._last is not None:
            self._last.result()
        sizes = {following.file.path.name: following.file.size for following in self._files}
        return sources_text(sizes, {f.file.path.name: f.hash.hexdigest() for f in self._files})

    def _send(self, following: _Following, end: int) -> None:
        if self._last is not None and self._last.done():
            self._last.result()  # a file that changed ends the conversion now, not at its end
        following.sent = end
        self._last = self._pool.submit(self._follow, following, end, self._last)

    def _follow(self, following: _Following, end: int, before: Future[None] | None) -> None:
        """Hash up to `end`; runs in the thread. What failed `before` fails again, so that it is not lost."""
        if before is not None:
            before.result()
        buffer = memoryview(bytearray(min(BLOCK, end - following.done)))
        while following.done < end and not self._stop.is_set():
            block = buffer[: end - following.done]
            following.file.read_into(block, following.done)
            following.hash.update(block)
            following.done += len(block)

    def __enter__(self) -> SourceHashes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)


class _Following:
    """A file and how far its hash is."""

    def __init__(self, file: StableFile) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.done = 0  # bytes hashed
        self.sent = 0  # bytes that the thread has been told to hash
        self.unread: dict[int, int] = {}  # offset of a tensor that the result needs -> first byte of it not yet read

    def first_unread(self) -> int:
        return min(self.unread.values(), default=self.file.size)


def sources_text(files: Mapping[str, int], hashes: Mapping[str, str]) -> str:
    """The metadata's value: [name, bytes, SHA-256] of every file, by name. As long with any hashes."""
    return json.dumps([[name, size, hashes[name]] for name, size in sorted(files.items())])


def file_digest(path: Path, name: str = "sha256", prefix: bytes = b"") -> str:
    """The hash of `prefix` and a file, in hexadecimal. Raises IntegrityError (it changed meanwhile), StorageError."""
    file = StableFile.find(path)
    digest = hashlib.new(name, prefix, usedforsecurity=False)
    for offset in range(0, file.size, BLOCK):
        digest.update(file.read(offset, min(BLOCK, file.size - offset)))
    return digest.hexdigest()
