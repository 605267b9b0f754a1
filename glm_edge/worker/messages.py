"""What parent and child say to each other, and the pipes they say it through.

Values of `types.py` travel as they are. Pickles, because both ends are one program, version and user, and nobody else
can write to the pipes: the child has no right that the parent lacks, so it could gain nothing through them. A pickle
knows its own end; no lengths are needed.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from ..errors import GlmEdgeError
from ..generation import Progress
from ..types import Chunk


@dataclass(frozen=True)
class Call:
    """Parent: answered with one Reply; after that of a submit come Items. The first call of all is the load."""

    id: int
    do: Literal["load", "submit", "tokenize"]
    argument: Any  # a function that makes the engine, pickled by its name; a Request; a text


@dataclass(frozen=True)
class Cancel:
    """Parent: nobody reads this answer any more."""

    id: int


@dataclass(frozen=True)
class Close:
    """Parent: close the engine and leave."""


@dataclass(frozen=True)
class Reply:
    """Child: what a call gave (ModelInfo, None, ids) or raised. One that could not load leaves."""

    id: int
    value: Any
    error: GlmEdgeError | None = None


@dataclass(frozen=True)
class Item:
    """Child: a chunk, or the end of the answer: None or an error."""

    id: int
    item: Chunk | GlmEdgeError | None


@dataclass(frozen=True)
class Beat:
    """Child, at least twice a second: it lives. `steps` grows while the engine works."""

    steps: int
    # of each answer without a chunk: id, whether it has left the queue, how far it is
    waiting: tuple[tuple[int, bool, Progress | None], ...] = ()


def encode(message: object) -> bytes:
    return pickle.dumps(message, protocol=5)


class Pipes:
    """One end: send from any thread, iterate in one."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()  # one message after the other

    def send(self, message: object) -> None:
        """Waits while the pipe is full; lost when the other end is gone, which its reader learns in its own way."""
        self.write(encode(message))

    def write(self, data: bytes) -> None:
        """Send what was encoded before."""
        with self._lock, contextlib.suppress(OSError, ValueError):  # ValueError: closed
            self._outgoing.write(data)
            self._outgoing.flush()

    def __iter__(self) -> Iterator[Any]:
        """Messages until the other end closes or dies."""
        while True:
            try:
                message = pickle.load(self._incoming)
            except (EOFError, OSError, pickle.UnpicklingError):  # the last one: died in the middle of a message
                return
            yield message

    def close(self) -> None:
        """After the end of messages, when nobody sends any more."""
        for file in (self._incoming, self._outgoing):
            with contextlib.suppress(OSError):  # what could not be written cannot be flushed either
                file.close()
