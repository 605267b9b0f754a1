"""The store of prefixes outside of the KV cache: in memory, and on disk if there is a folder for them.

A prefix is a chain of cache blocks of about BLOCK_TOKENS tokens; each block continues its parent. So a growing
conversation writes only what is new, a beginning that many share is stored once (from the third conversation on, when
it is known where they part), and memory holds a block or two at a time. A partial block is too small for a file: it
stays in memory until a longer one replaces it. A block has the scope of the request that it was computed for, and only
requests of that scope find it. Blocks that came with the model are for all, and blocks of any scope may continue them.
They were computed elsewhere: another processor's kernels round otherwise, which is as right. Blocks of our own are used
by the kernels that computed them alone, so that an answer is the same before and after a restart.
Dropped: the least recently used, in memory and on disk, when the limit is reached; and a file of which a byte changed.
Format of the files: `store_file.py`.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import StorageError
from .prefix import common_prefix, front_of
from .store_file import SCOPE, CacheBlock, Folder, bundled_folder, key_of

BLOCK_TOKENS = 256  # tokens; 7 MB of ChatGLM2-6B's state
LEAST_WRITTEN = 128  # tokens of the smallest block in a file
_NO_SCOPE = bytes(SCOPE)
MEMORY = 32 << 20  # bytes of states in memory; four blocks of ChatGLM2-6B


class Store:
    """The prefix store of one engine: a tree of cache blocks, their states in memory, and the thread that writes files.

    Args:
        folder: for blocks of at least LEAST_WRITTEN tokens. None: all blocks stay in memory.
        identity: sha256 digest of what a state must fit to: the model, the cache's layout and llama.cpp's version.
        own: digest of the same and of what computes here, which prefixes in `folder` must have. None: `identity`.
        limit: bytes of files in `folder`; the least recently used are evicted.
        memory: bytes of states in memory, those to be written included; the least recently used are evicted.
        model: the model's file. Prefixes that are bundled with it are only read, unless `folder` is theirs.

    A scope is empty or SCOPE bytes. The writer is a thread of its own; everything else runs in the engine's thread.
    """

    def __init__(
        self,
        folder: Path | None,
        identity: bytes,
        *,
        own: bytes | None = None,
        limit: int = 2 << 30,
        memory: int = MEMORY,
        model: Path | None = None,
    ) -> None:
        self._root = identity
        bundled = None if model is None else bundled_folder(model)
        making = folder is not None and folder == bundled
        self._bundled = None if bundled is None or making else Folder(bundled, identity, 0, model=model)
        self._folder = None
        if folder is not None:
            whose = identity if making or own is None else own
            self._folder = Folder(folder, whose, limit, model=model if making else None, making=making)
        self.warnings: list[str] = []  # a line for each folder that is not used, or not all of it
        self._memory = memory
        self._lock = threading.Condition()  # guards what follows; notified of work for the writer, and of work done
        self._blocks: dict[bytes, CacheBlock] = {}
        self._following: dict[bytes, list[bytes]] = {}  # key -> keys of the blocks that continue it
        self._states: OrderedDict[bytes, memoryview] = OrderedDict()  # in memory, least recently used first
        self._failed: set[bytes] = set()  # could not be written; tried again when another block comes
        self._writing = False
        self._closing = False
        self._writer: threading.Thread | None = None
        found: list[CacheBlock] = []
        for opened in filter(None, (self._bundled, self._folder)):
            blocks, warning = opened.open()
            found += blocks
            self.warnings += [warning] if warning else []
        self._take_in(found)

    @property
    def writes(self) -> bool:
        """Whether prefixes outlive the engine."""
        return self._folder is not None

    def find(self, tokens: Sequence[int], scope: bytes = b"") -> list[tuple[CacheBlock, int]]:
        """The blocks of the longest beginning of `tokens` that its scope knows: (block, end of what fits)."""
        with self._lock:
            return self._walk(self._root, tokens, 0, scope or _NO_SCOPE)

    def load(self, block: CacheBlock) -> memoryview | None:
        """The state of a block, writable. None where it is broken or gone: then the block is evicted.

        None too where it cannot be read now, as without memory: then the block stays.
        """
        with self._lock:
            block = self._blocks.get(block.key, block)  # it may have been written since `find`
            state = self._states.get(block.key)
        folder = self._bundled if block.bundled else self._folder
        if state is None and folder is not None:
            try:
                state = folder.load(block)
            except (OSError, MemoryError, StorageError):
                return None
        with self._lock:
            if state is not None:
                self._touch(block)
            elif self._blocks.get(block.key) is block:
                self._forget(block)
        return state

    def end(self, tokens: Sequence[int], scope: bytes = b"") -> tuple[bytes, int, int]:
        """How far `tokens` are stored: (key, position, longest).

        Their first `longest` tokens are stored. A new block begins at `position`, after the block `key`: the last one
        that matches whole and is not partial.
        """
        found = self.find(tokens, scope)
        key, end = self._root, 0
        for block, position in found:
            if position < block.end or _is_partial(block):
                break
            key, end = block.key, position
        return key, end, found[-1][1] if found else 0

    def put(self, parent: bytes, start: int, tokens: list[int], state: memoryview, scope: bytes = b"") -> bytes | None:
        """Store a block and drop the partial blocks that it covers. Returns its key; None where memory cannot hold it.

        Args:
            parent, start: key and position from `end`, or from the block before.
        """
        scope = scope or _NO_SCOPE
        block = CacheBlock(key_of(scope, parent, tokens), parent, start, tokens, scope)
        with self._lock:
            if parent != self._root and parent not in self._blocks:
                return None
            for key in list(self._following.get(parent, ())):
                partial = self._blocks[key]
                covered = partial.scope == scope and partial.tokens == tokens[: len(partial.tokens)]
                if _is_partial(partial) and covered:
                    self._forget(partial)
            if block.key not in self._blocks:
                self._add(block)
                self._states[block.key] = state
            self._touch(self._blocks[block.key])
            self._shrink()
            self._failed.clear()
            if self._folder is not None and self._writer is None:
                writer = threading.Thread(
                    target=self._write_all, args=(self._folder,), name="prefix writer", daemon=True
                )
                with contextlib.suppress(RuntimeError):  # no memory for a thread: tried again with the next block
                    writer.start()
                    self._writer = writer
            self._lock.notify_all()
            return block.key if block.key in self._blocks else None

    def flush(self) -> None:
        """Wait until every block that goes into a file is written."""
        with self._lock:
            while self._writer is not None and (self._writing or self._unwritten() is not None):
                self._lock.wait()

    def close(self) -> None:
        """End the writer when every block that goes into a file is written."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        if self._writer is not None:
            self._writer.join()

    # What follows is called with the lock held; `_write_all` is the writer's thread and takes it itself.

    def _take_in(self, found: list[CacheBlock]) -> None:
        """Add the blocks of `found` whose parents are there too; the others cannot be used."""
        following: dict[bytes, list[CacheBlock]] = {}
        for block in found:
            following.setdefault(block.parent, []).append(block)
        known = [(self._root, 0)]
        while known:
            key, end = known.pop()
            for block in following.pop(key, ()):
                if block.start != end or len(block.tokens) < LEAST_WRITTEN:  # none of ours
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

    def _walk(self, key: bytes, tokens: Sequence[int], start: int, scope: bytes) -> list[tuple[CacheBlock, int]]:
        """As `find`, of `tokens` from `start` on, among the blocks that continue `key`."""
        best: list[tuple[CacheBlock, int]] = []
        for block in (self._blocks[key] for key in self._following.get(key, ())):
            if not block.bundled and block.scope != scope:
                continue
            n = common_prefix(block.tokens, tokens[start : start + len(block.tokens)])
            found = [(block, start + n)] if n else []
            if n == len(block.tokens):
                found += self._walk(block.key, tokens, start + n, scope)
            if found and (not best or found[-1][1] > best[-1][1]):
                best = found
        return best

    def _forget(self, block: CacheBlock) -> None:
        """Remove a block and all that continue it."""
        if self._blocks.pop(block.key, None) is None:
            return
        self._states.pop(block.key, None)
        self._following[block.parent].remove(block.key)
        for key in list(self._following.get(block.key, ())):
            self._forget(self._blocks[key])
        self._following.pop(block.key, None)
        block.remove()

    def _line(self, key: bytes) -> Iterator[CacheBlock]:
        """The block `key`, its parent, and so on to the first."""
        while (block := self._blocks.get(key)) is not None:
            yield block
            key = block.parent

    def _touch(self, block: CacheBlock) -> None:
        """Mark a block and its ancestors as used now: they are evicted last."""
        for used in self._line(block.key):
            if used.key in self._states:
                self._states.move_to_end(used.key)
            used.touch()

    def _shrink(self) -> None:
        """Evict the least recently used blocks until the other states fit into memory."""
        while self._states and sum(len(state) for state in self._states.values()) > self._memory:
            self._forget(self._blocks[next(iter(self._states))])

    def _unwritten(self) -> CacheBlock | None:
        """The next block to write: its parent must be written already."""
        for key in self._states:
            block = self._blocks[key]
            parent = self._blocks.get(block.parent)
            if key not in self._failed and not _is_partial(block) and (parent is None or parent.path is not None):
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
                ancestors = [known.path for known in self._line(block.parent) if known.path is not None]
                self._writing = True
            written, gone = folder.write(block, state, spared=ancestors)
            with self._lock:
                self._writing = False
                for lost in [known for known in self._blocks.values() if known.path in gone]:
                    self._forget(lost)
                if written is None:
                    self._failed.add(block.key)
                elif block.key not in self._blocks:  # evicted meanwhile
                    written.remove()
                else:
                    self._blocks[block.key] = written
                    del self._states[block.key]  # the page cache of the system has it from here on
                    self._touch(written)
                del state
                self._lock.notify_all()


def _is_partial(block: CacheBlock) -> bool:
    """Whether a block is too small for a file."""
    return block.path is None and len(block.tokens) - front_of(block.tokens) < LEAST_WRITTEN
