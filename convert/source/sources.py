"""The SHA-256 of every file that a conversion reads, taken from the very blocks that it reads.

Nothing is read twice. Blocks come from several threads and nearly in the order of the file; those that come early wait.
What the conversion passes over (headers, padding, tensors that no model needs) is read here.
What the hashes are for: the result names its sources by them, and `glm-edge verify --sources` compares.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from .files import StableFile

BLOCK = 1 << 20  # bytes read at a time
GAP = 1 << 16  # bytes between two tensors that are taken for passed over, not for late
MOST_WAITING = 64 << 20  # bytes of blocks that came early; what goes beyond is read again at the end


class SourceHashes:
    """Follows the conversion while used as a context manager; `text` at its end.

    Raises what `StableFile` raises: IntegrityError when a file is no longer the one that was opened.
    """

    def __init__(self, files: Iterable[StableFile]) -> None:
        self._files = [_Following(file) for file in files]

    def text(self) -> str:
        """The value of SOURCES, once the conversion has read what it needs."""
        hashes = {following.file.path.name: following.complete() for following in self._files}
        return sources_text({following.file.path.name: following.file.size for following in self._files}, hashes)

    def __enter__(self) -> SourceHashes:
        for following in self._files:
            following.file.listeners.append(following.add)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for following in self._files:
            following.file.listeners.remove(following.add)


class _Following:
    """A file and the hash of its beginning."""

    def __init__(self, file: StableFile) -> None:
        self.file = file
        self._unheard = replace(file, listeners=[])
        self._hash = hashlib.sha256()
        self._done = 0  # bytes hashed
        self._waiting: dict[int, memoryview] = {}  # by offset
        self._lock = threading.Lock()
        self._busy = False  # one of the threads is hashing; the others leave their blocks to it

    def add(self, offset: int, block: memoryview) -> None:
        """Take a block that was read at `offset`; hashes it, or leaves it to the thread that does."""
        with self._lock:
            if offset < self._done or (offset > self._done and self._bytes_waiting() > MOST_WAITING):
                return
            self._waiting[offset] = block
            if self._busy:
                return
            self._busy = True
        try:
            while (turn := self._next()) is not None:
                self._hash.update(turn)
        except BaseException:
            self._busy = False
            raise

    def complete(self) -> str:
        """The hash of the whole file, in hexadecimal; what is missing is read."""
        with self._lock:
            self._waiting.clear()
        while self._done < self.file.size:
            self._hash.update(self._take(min(BLOCK, self.file.size - self._done)))
        return self._hash.hexdigest()

    def _next(self) -> memoryview | None:
        """What comes next in the file, if it is there or was passed over; None ends the turn."""
        with self._lock:
            start = min(self._waiting, default=None)
            if start is None or start > self._done + GAP:
                self._busy = False
                return None
            if start > self._done:
                return self._take(start - self._done)
            block = self._waiting.pop(start)[self._done - start :]  # tensors may share bytes
            self._done += len(block)
            return block

    def _take(self, size: int) -> memoryview:
        """The next `size` bytes, from the file."""
        self._done += size
        return self._unheard.read(self._done - size, size)

    def _bytes_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))


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
