"""What parent and child say to each other, and the pipes they say it through.

Pickles, because both ends are one program, version and user, and nobody else can write to the pipes: the child has no
right that the parent lacks, so it could gain nothing through them. A pickle knows its own end; no lengths are needed.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import GlmEdgeError
from ..types import Chunk, Engine, ModelInfo, Request

_END = b""  # to the writer: nothing comes after


@dataclass(frozen=True)
class Load:
    """Parent, first of all: how to make the engine; pickled by its name."""

    load: Callable[[], Engine]


@dataclass(frozen=True)
class Submit:
    """Parent: answered with Returned (of None) or Raised, and after Returned with Pieces and one Ended."""

    id: int
    request: Request


@dataclass(frozen=True)
class Tokenize:
    """Parent: answered with Returned or Raised."""

    id: int
    text: str


@dataclass(frozen=True)
class Cancel:
    """Parent: nobody reads this answer any more."""

    id: int


@dataclass(frozen=True)
class Close:
    """Parent: close the engine and leave."""


@dataclass(frozen=True)
class Loaded:
    """Child: the engine takes requests."""

    info: ModelInfo


@dataclass(frozen=True)
class NotLoaded:
    """Child: and it leaves."""

    error: GlmEdgeError


@dataclass(frozen=True)
class Returned:
    """Child."""

    id: int
    value: Any


@dataclass(frozen=True)
class Raised:
    """Child."""

    id: int
    error: GlmEdgeError


@dataclass(frozen=True)
class Started:
    """Child: the request has left the engine's queue."""

    id: int


@dataclass(frozen=True)
class Piece:
    """Child."""

    id: int
    chunk: Chunk


@dataclass(frozen=True)
class Ended:
    """Child: the answer is over."""

    id: int
    error: GlmEdgeError | None


@dataclass(frozen=True)
class Beat:
    """Child, twice a second: it lives; `steps` grows while the engine works."""

    steps: int


class Pipes:
    """One end: `send` from any thread, iterate in one."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="pipe", daemon=True)
        self._writer.start()

    def send(self, message: object) -> None:
        """Returns at once; lost when the other end is gone, which its reader learns from the end of messages."""
        self._queue.put(pickle.dumps(message, protocol=5))

    def __iter__(self) -> Iterator[Any]:
        """Messages until the other end closes or dies."""
        while True:
            try:
                message = pickle.load(self._incoming)
            except (EOFError, OSError, pickle.UnpicklingError):  # the last one: died in the middle of a message
                return
            yield message

    def flush(self, seconds: float) -> None:
        """Write what was sent so far, as far as the other end takes it in time; nothing can be sent afterwards."""
        self._queue.put(_END)
        self._writer.join(seconds)

    def close(self) -> None:
        """After the end of messages."""
        self.flush(1.0)
        for file in (self._incoming, self._outgoing):
            with contextlib.suppress(OSError):  # what could not be written cannot be flushed either
                file.close()

    def _write(self) -> None:
        """All that has gathered goes at once, so that a writer that is behind catches up."""
        end = False
        while not end:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            end = _END in batch
            try:
                self._outgoing.write(b"".join(batch))
                self._outgoing.flush()
            except (OSError, ValueError):  # ValueError: closed
                return
