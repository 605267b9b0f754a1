"""The SHA-256 of a file, and reading a file that must have one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import IntegrityError
from .safe_open import safe_open

_CHUNK = 1 << 20


def sha256_of(path: Path, tell: Callable[[int], None] | None = None) -> str:
    """In hexadecimal digits. Raises as `safe_open`. Args: tell: is called with the bytes read so far."""
    digest, done = hashlib.sha256(), 0
    with safe_open(path) as file:
        while part := file.read(_CHUNK):
            digest.update(part)
            done += len(part)
            if tell is not None:
                tell(done)
    return digest.hexdigest()


def parts_with_hash(path: Path, sha256: str, tell: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """A file's bytes, to be copied. Raises IntegrityError at the end where they have another hash."""
    digest, done = hashlib.sha256(), 0
    with safe_open(path) as file:
        while part := file.read(_CHUNK):
            digest.update(part)
            yield part
            done += len(part)
            if tell is not None:
                tell(done)
    if digest.hexdigest() != sha256:
        raise IntegrityError(f"{path}: is damaged, or has changed while it was read; repeat the command")
