"""API keys: where they come from, and which one a request has. Keys are never printed, logged or put into messages.

A key file is read again whenever it changes, so that a key is revoked without a restart. If it becomes unreadable or
empty, its keys stop working: a server that was started with keys never becomes open.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ...errors import GlmEdgeError, StorageError, UsageError
from ...system.safe_open import read_file

VARIABLE = "GLM_EDGE_API_KEY"
ANYONE = b"anyone"

_Stamp = tuple[int, ...] | None  # of a file; see `_stamp`

_FILE_BYTES = 1 << 20  # of a key file, at most

_BEARER = re.compile(rb"bearer ([^ ]+)", re.IGNORECASE)
_KEY = re.compile(r"[!-~]+")  # what arrives unchanged in an HTTP header


class Keys:
    """The set of keys that open the server; an empty set means that no key is needed.

    Args:
        given: keys from the command line and the environment.
        file: a file with one key a line.
        secret: of this installation, 32 bytes. It makes `find` return the same for a key after a restart; without it,
            the digests are of this object alone. They tell nothing of a key to those who do not know the secret.
        equal: the comparison, of two digests; must take the same time whatever they are.

    Raises UsageError for a key that no client can send, or a file without keys, StorageError for an unreadable one.
    """

    def __init__(
        self,
        given: Iterable[str] = (),
        file: Path | None = None,
        *,
        secret: bytes | None = None,
        equal: Callable[[bytes, bytes], bool] = hmac.compare_digest,
    ) -> None:
        self._secret = secret or secrets.token_bytes(32)
        self._given = [self._digest(_checked(key, "--api-key or " + VARIABLE).encode()) for key in given]
        self._file = file
        self._equal = equal
        # the file's stamp and its keys: one value, so that no thread has the keys of another stamp
        self._read: tuple[_Stamp, list[bytes]] = (None, [])
        if file is not None:
            self._read = _stamp(file), [self._digest(key.encode()) for key in read_key_file(file)]
        self.required = bool(self._given or file is not None)

    @classmethod
    def collect(
        cls, given: Iterable[str], file: Path | None, environment: Mapping[str, str], secret: bytes | None = None
    ) -> Keys:
        """Keys of the command line, the key file and GLM_EDGE_API_KEY together."""
        from_environment = environment.get(VARIABLE)
        return cls([*given, *([] if from_environment is None else [from_environment])], file, secret=secret)

    def accept(self, authorization: bytes | None, *bare: bytes | None) -> bool:
        """Whether one of the headers carries a key; see `find`."""
        return self.find(authorization, *bare) is not None

    def find(self, authorization: bytes | None, *bare: bytes | None) -> bytes | None:
        """Which key the headers carry, as a digest; None for none, `ANYONE` where none is needed.

        Args:
            authorization: "Bearer KEY".
            bare: other headers, each with a key alone.

        Every key is compared with every credential, whatever matched before: the time tells nothing.
        """
        if not self.required:
            return ANYONE
        bearer = _BEARER.fullmatch(authorization or b"")
        offered = [self._digest(one) for one in (bearer.group(1) if bearer else b"", *(key or b"" for key in bare))]
        matches = [key for key in self._current() for one in offered if self._equal(key, one)]
        return matches[0] if matches else None

    @property
    def several(self) -> bool:
        """Whether there are two keys at least."""
        return len(set(self._current())) > 1

    def _current(self) -> list[bytes]:
        if self._file is not None and (stamp := _stamp(self._file)) != self._read[0]:
            self._read = self._read_again(self._file, stamp)
        return self._given + self._read[1]

    def _read_again(self, file: Path, stamp: _Stamp) -> tuple[_Stamp, list[bytes]]:
        """A file that has changed while the server runs: no keys where it went wrong."""
        try:
            return stamp, [self._digest(key.encode()) for key in read_key_file(file)]
        except StorageError:
            return None, []  # without a stamp: it may be readable at the next request
        except GlmEdgeError:
            return stamp, []

    def _digest(self, key: bytes) -> bytes:
        """32 bytes for every key, so a comparison tells nothing of its length."""
        return hmac.digest(self._secret, key, "sha256")


def read_key_file(path: Path) -> list[str]:
    """The keys in a file: one a line, white space around it and empty lines ignored."""
    try:
        text = read_file(path, _FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: the key file is not text; it holds one key a line") from None
    keys = [_checked(line.strip(), str(path)) for line in text.splitlines() if line.strip()]
    if not keys:
        raise UsageError(f"{path}: the key file has no key; it holds one key a line")
    return keys


def key_file_warnings(path: Path) -> list[str]:
    """Warnings about a key file that others can read or that holds a key twice."""
    keys = read_key_file(path)
    warnings = []
    if os.name == "posix" and path.stat().st_mode & 0o044:
        warnings.append(f"{path}: every user of this machine can read the key file; chmod 600 it")
    if len(set(keys)) < len(keys):
        warnings.append(f"{path}: the key file holds a key twice")
    return warnings


def _checked(key: str, source: str) -> str:
    if not _KEY.fullmatch(key):
        raise UsageError(f"{source}: a key must be printable ASCII without spaces, and not empty")
    return key


def _stamp(path: Path) -> _Stamp:
    """Changes whenever the file does; None while it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
