"""Prefixes outside of the KV cache: on disk, where what was computed once is read back after a restart too, and in
memory until they are there, or where no folder is.

A prefix is kept in pieces of at most PIECE tokens, each a continuation of the one before it. So a conversation that
grows writes only what is new, what many begin with is kept once (from the third on, when it is known where they part),
and memory never has to hold more than a piece or two. A piece too small for a file is a tail: it stays in memory until
a longer one takes its place. How files look: `store_file.py`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from .prefix import common_prefix
from .store_file import CacheBlock, Folder, key_of, read_folder, read_state

BLOCK_TOKENS = 256  # tokens; 7 MB of ChatGLM2-6B's state
LEAST_WRITTEN = 128  # tokens of the smallest piece in a file
MEMORY = 32 << 20  # bytes of states in memory; four pieces of ChatGLM2-6B


class Store:
    """Args:
    folder: where pieces go that are worth it. None: all of them stay in memory.
    identity: sha256 digest of all that a state depends on.
    limit: bytes that `folder` may hold; the least recently used files go first.
    memory: bytes of states in memory, those that wait to be written included; the least recently used go first.
    shipped: folders of prefixes that came with the model, only read.

    A thread of its own writes; everything else is the engine thread's.
    """

    def __init__(
        self,
        folder: Path | None,
        identity: bytes,
        *,
        limit: int = 2 << 30,
        memory: int = MEMORY,
        bundled: Sequence[Path] = (),
    ) -> None:
        self._root = identity
        self._folder = None if folder is None else Folder(folder, identity, limit)
        self._memory = memory
        self._lock = threading.Condition()  # guards what follows; told of work for the writer, and of work done
        self._blocks: dict[bytes, CacheBlock] = {}
        self._following: dict[bytes, list[bytes]] = {}  # keys of the pieces that continue one
        self._states: OrderedDict[bytes, memoryview] = OrderedDict()  # in memory, least recently used first
        self._failed: set[bytes] = set()  # could not be written; tried again when another piece comes
        self._writing = False
        self._closing = False
        self._writer: threading.Thread | None = None
        found = [block for place in bundled for block in read_folder(place, identity)]
        self._take_in(found + ([] if self._folder is None else self._folder.open()))

    @property
    def writes(self) -> bool:
        """Whether prefixes outlive the engine."""
        return self._folder is not None

    def find(self, tokens: Sequence[int]) -> list[tuple[CacheBlock, int]]:
        """The pieces that hold the longest beginning of `tokens`: (piece, position up to which it is theirs)."""
        with self._lock:
            return self._walk(self._root, tokens, 0)

    def load(self, block: CacheBlock) -> memoryview | None:
        """The state of a piece, writable; None where it is broken or has gone, and then the piece is given up."""
        with self._lock:
            block = self._blocks.get(block.key, block)  # it may have been written since it was found
            state = self._states.get(block.key)
        if state is None and block.path is not None:
            state = read_state(block)
        with self._lock:
            if state is not None:
                self._touch(block)
            elif self._blocks.get(block.key) is block:
                self._forget(block)
        return state

    def end(self, tokens: Sequence[int]) -> tuple[bytes, int, int]:
        """Where `tokens` part from what is here: (key, position, longest).

        A new piece is to begin at `position`, after the piece `key`, the last that is whole and no tail; `longest` of
        the tokens are here in all.
        """
        found = self.find(tokens)
        key, end = self._root, 0
        for block, position in found:
            if position < block.end or _is_partial(block):
                break
            key, end = block.key, position
        return key, end, found[-1][1] if found else 0

    def put(self, parent: bytes, start: int, tokens: list[int], state: memoryview) -> bytes | None:
        """Keep a piece, in place of the tails that it covers; returns its key, or None where memory has no room for it.

        Args:
            parent, start: key and position as `end` gave them, or the last call of this.
        """
        block = CacheBlock(key_of(parent, tokens), parent, start, tokens)
        with self._lock:
            if parent != self._root and parent not in self._blocks:
                return None
            for key in list(self._following.get(parent, ())):
                partial = self._blocks[key]
                if _is_partial(partial) and partial.tokens == tokens[: len(partial.tokens)]:
                    self._forget(partial)
            if block.key not in self._blocks:
                self._add(block)
                self._states[block.key] = state
            self._touch(self._blocks[block.key])
            self._shrink()
            self._failed.clear()
            if self._folder is not None and self._writer is None:
                self._writer = threading.Thread(
                    target=self._write_all, args=(self._folder,), name="prefix writer", daemon=True
                )
                self._writer.start()
            self._lock.notify_all()
            return block.key if block.key in self._blocks else None

    def flush(self) -> None:
        """Wait until everything that is worth it is written."""
        with self._lock:
            while self._folder is not None and (self._writing or self._unwritten() is not None):
                self._lock.wait()

    def close(self) -> None:
        """End the writer when everything that is worth it is written."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        if self._writer is not None:
            self._writer.join()

    # What follows is called with the lock held, but for the writer's own thread.

    def _take_in(self, found: list[CacheBlock]) -> None:
        """Those of `found` whose beginning is there too; the others are of no use."""
        following: dict[bytes, list[CacheBlock]] = {}
        for block in found:
            following.setdefault(block.parent, []).append(block)
        known = [(self._root, 0)]
        while known:
            key, end = known.pop()
            for block in following.pop(key, ()):
                if block.start != end or len(block.tokens) < LEAST_WRITTEN:  # we never write such
                    block.remove()
                elif block.key not in self._blocks:
                    self._add(block)
                    known.append((block.key, block.end))
        for blocks in following.values():
            for block in blocks:
                block.remove()

    def _add(self, block: CacheBlock) -> None:
        self._blocks[block.key] = block
        self._following.setdefault(block.parent, []).append(block.key)

    def _walk(self, key: bytes, tokens: Sequence[int], start: int) -> list[tuple[CacheBlock, int]]:
        """As `find`, of `tokens` from `start` on, among what continues the piece `key`."""
        best: list[tuple[CacheBlock, int]] = []
        for block in (self._blocks[key] for key in self._following.get(key, ())):
            n = common_prefix(block.tokens, tokens[start : start + len(block.tokens)])
            found = [(block, start + n)] if n else []
            if n == len(block.tokens):
                found += self._walk(block.key, tokens, start + n)
            if found and (not best or found[-1][1] > best[-1][1]):
                best = found
        return best

    def _forget(self, block: CacheBlock) -> None:
        """A piece and all that continues it."""
        if self._blocks.pop(block.key, None) is None:
            return
        self._states.pop(block.key, None)
        self._following[block.parent].remove(block.key)
        for key in list(self._following.get(block.key, ())):
            self._forget(self._blocks[key])
        self._following.pop(block.key, None)
        block.remove()

    def _line(self, key: bytes) -> Iterator[CacheBlock]:
        """The piece `key`, the one before it, and so on to the first."""
        while (block := self._blocks.get(key)) is not None:
            yield block
            key = block.parent

    def _touch(self, block: CacheBlock) -> None:
        """The piece was used, and so were those before it: they are the last to go."""
        for used in self._line(block.key):
            if used.key in self._states:
                self._states.move_to_end(used.key)
            used.touch()

    def _shrink(self) -> None:
        """Give up the least recently used states until the others fit into memory."""
        while self._states and sum(len(state) for state in self._states.values()) > self._memory:
            self._forget(self._blocks[next(iter(self._states))])

    def _unwritten(self) -> CacheBlock | None:
        """The next piece to write: one that what comes before it is written of."""
        for key in self._states:
            block, before = self._blocks[key], self._blocks.get(self._blocks[key].parent)
            if key not in self._failed and not _is_partial(block) and (before is None or before.path is not None):
                return block
        return None

    def _write_all(self, folder: Folder) -> None:
        """The writer's thread."""
        while True:
            with self._lock:
                while (block := self._unwritten()) is None and not self._closing:
                    self._lock.wait()
                if block is None:
                    return
                state = self._states[block.key]
                before = [known.path for known in self._line(block.parent) if known.path is not None]
                self._writing = True
            written, gone = folder.write(block, state, spared=before)
            with self._lock:
                self._writing = False
                for lost in [known for known in self._blocks.values() if known.path in gone]:
                    self._forget(lost)
                if written is None:
                    self._failed.add(block.key)
                elif block.key not in self._blocks:  # given up meanwhile
                    written.remove()
                else:
                    self._blocks[block.key] = written
                    del self._states[block.key]  # the system's own cache has it from here on
                    self._touch(written)
                del state
                self._lock.notify_all()


def _is_partial(block: CacheBlock) -> bool:
    """Whether it is too small for a file; one that continues further is as good as a large one."""
    return block.path is None and len(block.tokens) < LEAST_WRITTEN
