"""Three ways in which a client leaves a connection."""

from __future__ import annotations

import socket
import struct

from support.server.live_server import Wire


def fin(wire: Wire) -> None:
    wire.__exit__()


def rst(wire: Wire) -> None:
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.__exit__()


def half_close(wire: Wire) -> None:
    """Counts as leaving: a client that will read but never write again cannot be told from one that is gone."""
    wire.socket.shutdown(socket.SHUT_WR)
