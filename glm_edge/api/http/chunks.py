"""Reads a chunked body, strictly: lines end in one way, and no trailer has a name that means something in a header.

waitress's own reader takes bare line feeds in size lines and trailers of any kind. A front server that reads those
differently sees other requests on the connection than we do. Rules: RFC 9112, 7.1; RFC 9110, 6.5.1.
"""

from __future__ import annotations

import re
from typing import Any

from waitress.utilities import BadRequest

MAX_HEADER = 32 * 1024  # bytes of request line and headers together; of a size line; of all trailers
MAX_HEADERS = 100  # lines

BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|$)")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
FIELD_LINE = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*")  # takes linear time, waitress's does not
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]+)(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*")

# Fields that frame, route, authenticate or describe a request: a program that merges trailers into the headers obeys.
_NEVER_TRAILERS = re.compile(
    rb"(?:content-.*|transfer-encoding|te|trailer|host|connection|keep-alive|upgrade|expect|max-forwards|range|if-.*"
    rb"|authorization|proxy-.*|api-key|cookie|origin|forwarded|x-forwarded-.*|cache-control|pragma)",
    re.IGNORECASE,
)


class StrictChunkReceiver:
    """The receiver of one chunked body, with the interface of waitress's ChunkedReceiver.

    Args:
        buf: where the body goes.
    """

    completed = False
    error: BadRequest | None = None

    def __init__(self, buf: Any) -> None:
        self.buf = buf
        self._line = b""  # a line that has begun
        self._left = 0  # bytes of the chunk that have not come
        self._in_data = self._in_trailers = False
        self._trailers = self._trailer_bytes = 0

    def received(self, data: bytes) -> int:
        """Take bytes off the wire; returns how many of them are this body's."""
        rest = data
        while rest and not self.completed and self.error is None:
            if self._left:
                self.buf.append(rest[: self._left])
                rest, self._left = rest[self._left :], max(0, self._left - len(rest))
            else:
                rest = self._read_line(rest)
        return len(data) - len(rest)

    def _read_line(self, data: bytes) -> bytes:
        """Take bytes up to the end of a line; returns what follows it."""
        self._line, found, rest = (self._line + data).partition(b"\r\n")
        if BARE_LINE_END.search(self._line) or len(self._line) > MAX_HEADER:
            self.error = BadRequest("a bare or a missing line end in a chunked body")
        elif found:
            line, self._line = self._line, b""
            self._end_line(line)
        return rest

    def _end_line(self, line: bytes) -> None:
        if self._in_data:
            self._in_data = False
            if line:
                self.error = BadRequest("more bytes in a chunk than its size")
        elif self._in_trailers:
            self._end_trailer(line)
        else:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                self.error = BadRequest("a chunk's size line")
                return
            self._left = int(match[1], 16)
            self._in_data, self._in_trailers = self._left > 0, self._left == 0

    def _end_trailer(self, line: bytes) -> None:
        self._trailers += 1
        self._trailer_bytes += len(line)
        if not line:
            self.completed = True
        elif self._trailers > MAX_HEADERS or self._trailer_bytes > MAX_HEADER:
            self.error = BadRequest("too many trailers")
        elif not FIELD_LINE.fullmatch(line) or _NEVER_TRAILERS.fullmatch(line.partition(b":")[0]):
            self.error = BadRequest("a trailer that is malformed or must be a header")

    def __len__(self) -> int:
        return len(self.buf)

    def getfile(self) -> Any:
        return self.buf.getfile()

    def getbuf(self) -> Any:
        return self.buf
