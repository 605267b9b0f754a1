"""The messages between parent and child, and the pipes that carry them.

Values of `types.py` are pickled as they are. That is safe here: both ends are one program, version and user, nobody
else can write to the pipes, and the child has no right that the parent lacks. A pickle marks its own end, so there are
no length fields.
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
    """From the parent: a call, answered with one Reply. Items follow that of a submit. The first call is the load."""

    id: int
    do: Literal["load", "submit", "tokenize", "adapters"]
    argument: Any  # a function that makes the engine, pickled by its name; a Request; a text; None


@dataclass(frozen=True)
class Cancel:
    """From the parent: nobody waits for this answer, or for the ids of this text, any more."""

    id: int


@dataclass(frozen=True)
class Close:
    """From the parent: close the engine and exit."""


@dataclass(frozen=True)
class Reply:
    """From the child: what a call returned or raised. A child that cannot load exits after it.

    `value`: of load and adapters a ModelInfo, of submit the request's Progress, of tokenize the ids.
    """

    id: int
    value: Any
    error: GlmEdgeError | None = None


@dataclass(frozen=True)
class Failed:
    """From the child: its engine has failed for good, and the child is about to exit."""

    error: GlmEdgeError


@dataclass(frozen=True)
class Item:
    """From the child: a chunk, or the end of the request: None or an error."""

    id: int
    item: Chunk | GlmEdgeError | None


@dataclass(frozen=True)
class Beat:
    """From the child, at least twice a second: a heartbeat. `steps` grows while the engine works."""

    steps: int
    # of each request without a chunk: id, whether it has left the queue, how far it is
    waiting: tuple[tuple[int, bool, Progress | None], ...] = ()
    loaded: float = 0.0  # of the model, 0 to 1


def encode(message: object) -> bytes:
    return pickle.dumps(message, protocol=5)


class Pipes:
    """One end of the two pipes: send from any thread, iterate in one."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()  # one message at a time

    def send(self, message: object) -> None:
        """Blocks while the pipe is full. A message to a dead end is lost; the reading side notices the death."""
        self.write(encode(message))

    def write(self, data: bytes) -> None:
        """Send an encoded message."""
        with self._lock, contextlib.suppress(OSError, ValueError):  # ValueError: closed
            self._outgoing.write(data)
            self._outgoing.flush()

    def __iter__(self) -> Iterator[Any]:
        """Messages until the other end closes or dies."""
        while True:
            try:
                message = pickle.load(self._incoming)
            except (EOFError, OSError, pickle.UnpicklingError):  # UnpicklingError: died within a message
                return
            yield message

    def close(self) -> None:
        """Close both pipes: after the last message, when nobody sends any more."""
        for file in (self._incoming, self._outgoing):
            with contextlib.suppress(OSError):  # what could not be written cannot be flushed either
                file.close()
