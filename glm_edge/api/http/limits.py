"""What the HTTP server takes at most: threads, connections, bytes, seconds. Imports nothing heavy."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from ..contract.strict_json import MAX_BODY


@dataclass(frozen=True)
class Deadlines:
    """Seconds that a client has; see Channel.expire."""

    read: float = 30.0  # for a whole request, from its first byte, or from connecting
    idle: float = 75.0  # between two requests
    stalled: float = 60.0  # without taking a single byte of an answer
    delivery: float = 600.0  # in which bytes of one answer wait for it, all together: the bound on a slow reader
    linger: float = 2.0  # to read an error that came before its request was read


@dataclass(frozen=True)
class Limits:
    """The limits of one HTTP server."""

    threads: int = 40  # must be above the capacity of Admission, so that health checks find one free
    connections: int = 400 if sys.platform == "win32" else 1500  # select() takes 512 there
    body: int = MAX_BODY  # bytes
    ahead: int = 32  # requests that a client may send while one of its own is answered; and twice `body` of their bytes
    deadlines: Deadlines = field(default_factory=Deadlines)
