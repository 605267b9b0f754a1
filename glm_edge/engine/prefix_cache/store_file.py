"""One cache block in one file, named by its key, complete or absent; and the folder of such files.

    8 bytes   magic          b"GLMEPFX3"
    32 bytes  identity       sha256 of what the state must fit to, in our folder of what computed it too (`Store`)
    32 bytes  scope          whose requests may use it (`types.Request.prefix_scope`)
    32 bytes  parent         key of the block before; where there is none, sha256 of what the state must fit to
    4 bytes   start          position of the first token; little endian as all numbers
    4 bytes   n              token ids
    8 bytes   m              bytes of state
    n x 4     token ids      int32
    m         state          llama.cpp's own format for one sequence
    32 bytes  BLAKE2b        of everything before, keyed with the folder's secret

A block's key is sha256(scope, parent, token ids). llama.cpp trusts a state, so a file is used only if its digest proves
that it was written by someone who can read the folder's secret (`system/private.py`), and says what it said at the
start. A folder that is bundled with a model has no secret: it is trusted as much as the model. A broken file in our
folder is removed. A file of another model stays until the limit of the folder evicts it. What is no regular file is
left alone. The files contain what users wrote: only their owner may read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ...errors import GlmEdgeError, InvalidFileError, StorageError
from ...system.atomic_write import TEMPORARY, atomic_write
from ...system.private import check_folder, folder_key, in_reach_of_others, make_folder
from ...system.safe_open import safe_open

_MAGIC = b"GLMEPFX3"
_HEADER = struct.Struct("<8s32s32s32sIIQ")
_SUFFIX = ".prefix"
_MAX_TOKENS = 1 << 12  # of a block; the store makes none of 400
_MAX_BYTES = 1 << 28  # of a file; 11 MB with ChatGLM2-6B in f16
_DIGEST = 32  # bytes
SCOPE = 32  # bytes of a scope
_ABANDONED_S = 600.0  # nothing takes so long to write
_FILES = 1000  # at most: every first block is compared with a prompt, which takes some 3 ms


@dataclass(frozen=True, eq=False)
class CacheBlock:
    """A cache block: the tokens of a prefix from position `start` on. Its parent has those before."""

    key: bytes
    parent: bytes
    start: int
    tokens: list[int]
    scope: bytes = bytes(SCOPE)
    path: Path | None = None  # where it is on disk
    size: int = 0  # bytes there
    bundled: bool = False  # it came with the model: for all requests, and not ours to remove

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    def touch(self) -> None:
        """Mark its file as used now: others are evicted first."""
        if self.path is not None and not self.bundled:
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def remove(self) -> None:
        """Delete its file, where that is ours."""
        if self.path is not None and not self.bundled:
            _remove(self.path)


def key_of(scope: bytes, parent: bytes, tokens: list[int]) -> bytes:
    return hashlib.sha256(scope + parent + np.array(tokens, "<i4").tobytes()).digest()


def bundled_folder(model: Path) -> Path:
    """The folder of the prefixes that come with a model."""
    return model.with_name(model.name + ".prefixes")


class Folder:
    """A folder of cache blocks of one identity; several engines may share it.

    Args:
        path: made private if it is missing.
        limit: bytes of its files; the least recently used are evicted, whatever model they are of.
        model: the file that the folder is bundled with, if it is; then it has no secret, and nothing in it is ours.
        making: whether the folder of a model is being made now, so that it is written to.
    """

    def __init__(
        self, path: Path, identity: bytes, limit: int, *, model: Path | None = None, making: bool = False
    ) -> None:
        self._path = path
        self._identity = identity
        self._limit = limit
        self._model = model
        self._bundled = model is not None and not making
        self._secret: bytes | None = None  # None while the folder could not be used
        self._like: os.stat_result | None = None  # who may write the folder and its files: those who may write this

    def open(self) -> tuple[list[CacheBlock], str]:
        """(the blocks of our identity, a warning where the folder or something in it is not used).

        Broken files are removed, and temporary ones of killed programs, unless the folder came with the model.
        """
        try:
            self._prepare()
        except FileNotFoundError:
            return [], ""
        except (OSError, GlmEdgeError) as error:
            return [], f"{_reason(self._path, error)}; the folder is not used for computed prompts"
        if not self._bundled:
            for path in _regular(self._path, TEMPORARY):
                if time.time() - _used(path) > _ABANDONED_S:
                    _remove(path)
        found: list[CacheBlock] = []
        others = 0
        for path in islice(self._path.glob(f"*{_SUFFIX}"), 10 * _FILES):
            try:
                block = self._read(path)
            except (OSError, GlmEdgeError):
                others += 1
                continue
            if isinstance(block, CacheBlock):
                found.append(block)
            elif block and not self._bundled:
                _remove(path)
        ignored = f"{self._path}: {others} entries are no files, or can be written by others, and are ignored"
        return found, ignored if others else ""

    def _prepare(self) -> bytes:
        """The secret of the folder, which is known to be out of others' reach then. Raises GlmEdgeError, OSError."""
        if self._model is None:
            secret = folder_key(self._path)
        else:
            self._like = self._model.stat() if self._bundled else None
            check_folder(self._path, self._like)
            secret = b""
        self._secret = secret  # at once: the engine's thread reads it while the writer's is here
        return secret

    def write(
        self, block: CacheBlock, state: memoryview, spared: Sequence[Path] = ()
    ) -> tuple[CacheBlock | None, frozenset[Path]]:
        """The block as it is on disk, None where it could not be written; and the files that were evicted for it.

        Args:
            spared: files that must stay: the block cannot be used without them.
        """
        gone: set[Path] = set()
        # a full or read-only disk, or a folder in others' reach, costs only the cache
        with contextlib.suppress(OSError, MemoryError, GlmEdgeError):
            make_folder(self._path)
            head = self._head(block, len(state))
            digest = hashlib.blake2b(head, digest_size=_DIGEST, key=self._prepare())
            digest.update(state)
            size = len(head) + len(state) + _DIGEST
            if size <= _MAX_BYTES and self._evict(size, spared, gone):
                path = self._path / (block.key.hex()[:32] + _SUFFIX)
                atomic_write(path, (head, state, digest.digest()), durable=False)  # for its owner alone
                return replace(block, path=path, size=size), frozenset(gone)
        return None, frozenset(gone)

    def load(self, block: CacheBlock) -> memoryview | None:
        """The state in a block's file; None if it is gone, has changed, or was written without the secret.

        Raises StorageError, OSError or MemoryError where it cannot be read now, which says nothing of the file.
        """
        secret = self._secret
        if block.path is None or secret is None:
            return None
        try:
            with io.BufferedReader(safe_open(block.path, follow=False)) as source:
                content = bytearray(block.size)
                complete = source.readinto(content) == block.size and not source.read(1)
        except (FileNotFoundError, InvalidFileError):
            return None
        body = memoryview(content)[:-_DIGEST]
        digest = hashlib.blake2b(body, digest_size=_DIGEST, key=secret).digest()
        if not complete or not hmac.compare_digest(digest, content[-_DIGEST:]):
            return None
        start = _HEADER.size + 4 * len(block.tokens)
        # another file of ours may have been put in its place
        return body[start:] if body[:start] == self._head(block, len(body) - start) else None

    def _head(self, block: CacheBlock, state_bytes: int) -> bytes:
        """All of a block's file before the state."""
        numbers = block.start, len(block.tokens), state_bytes
        head = _HEADER.pack(_MAGIC, self._identity, block.scope, block.parent, *numbers)
        return head + np.array(block.tokens, "<i4").tobytes()

    def _evict(self, size: int, spared: Sequence[Path], gone: set[Path]) -> bool:
        """Evict files until one more of `size` bytes fits; False, with nothing evicted, where it cannot fit."""
        sizes = {path: _size(path) for path in sorted(_regular(self._path, _SUFFIX), key=_used)}
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

    def _read(self, path: Path) -> CacheBlock | bool:
        """The block in a file, or whether the file is broken: it may be well formed and of another identity.

        Raises OSError, InvalidFileError or StorageError for what is no file that we could use.
        """
        with safe_open(path, follow=False) as file:
            status = os.fstat(file.fileno())
            if why := in_reach_of_others(status, self._like):
                raise StorageError(f"{path}: {why}")
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return True
            magic, owner, scope, parent, start, n, m = _HEADER.unpack(head)
            if magic != _MAGIC or not 0 < n <= _MAX_TOKENS or status.st_size > _MAX_BYTES:
                return True
            ids = file.read(4 * n)
        if status.st_size != _HEADER.size + 4 * n + m + _DIGEST:
            return True
        if owner != self._identity:
            return False
        tokens = np.frombuffer(ids, "<i4").tolist()
        key = key_of(scope, parent, tokens)
        return CacheBlock(key, parent, start, tokens, scope, path, status.st_size, self._bundled)


def _reason(path: Path, error: OSError | GlmEdgeError) -> str:
    return str(error) if isinstance(error, GlmEdgeError) else f"{path}: {error.strerror or error}"


def _regular(folder: Path, suffix: str) -> list[Path]:
    """The regular files in a folder whose names end so; none if there is no such folder."""
    return [path for path in folder.glob(f"*{suffix}") if path.is_file() and not path.is_symlink()]


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
