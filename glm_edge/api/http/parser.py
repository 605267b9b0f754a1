"""waitress's request parser, made stricter: whatever two HTTP programs could read differently is an error here.

A front server that sees one request where we see two lets the second one past its checks (request smuggling), so there
is exactly one way to say how long a request is, which host it is for and where its lines end. Also asks the
access policy as soon as the headers are in, so that the body of a request that will be refused is not kept.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.utilities import BadRequest

from ...errors import RequestError
from ..access.policy import AccessPolicy
from .chunks import BARE_LINE_END, FIELD_LINE, MAX_HEADERS, StrictChunkReceiver

_REQUEST_LINE = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01]")


class StrictParser(HTTPRequestParser):
    """The parser of one request."""

    # Set before anything is parsed: waitress reads them of requests that it could not parse.
    command: Any = ""
    path: str = ""
    headers: Any
    refusal: RequestError | None = None  # why the access policy refuses it

    def __init__(self, policy: AccessPolicy, peer: str, adj: Adjustments) -> None:
        super().__init__(adj)
        self._policy = policy
        self._peer = peer

    def received(self, data: bytes) -> int:
        """Take bytes off the wire; see HTTPRequestParser."""
        consumed = super().received(data)
        if not self.completed and not self.headers_finished and BARE_LINE_END.search(self.header_plus):
            # Without this, a request with bare line ends would be waited for until the deadline.
            self.error = BadRequest("bare line end")
            self.completed = True
        if self.completed:
            self.expect_continue = False  # there is nothing to continue with; waitress would wait for it
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Check the header block, then let waitress parse it. Raises what HTTPRequestParser does."""
        first, *lines = header_plus.split(b"\r\n")
        fields = [line.partition(b":") for line in lines if line]
        names = [name.lower() for name, _, _ in fields]
        if not _REQUEST_LINE.fullmatch(first):
            raise ParsingError("request line")
        if len(names) > MAX_HEADERS or not all(FIELD_LINE.fullmatch(line) for line in lines if line):
            raise ParsingError("too many headers, or a malformed or folded one")
        if any(names.count(name) > 1 for name in (b"host", b"content-length", b"transfer-encoding")):
            raise ParsingError("a header that must be one is repeated")
        for name, _, value in fields:
            if name.lower() == b"transfer-encoding" and value.strip(b" \t").lower() != b"chunked":
                raise TransferEncodingNotImplemented("transfer encoding")
        http_1_0 = first.endswith(b"1.0")
        if b"transfer-encoding" in names and (http_1_0 or b"content-length" in names):
            raise ParsingError("two lengths")
        if b"host" not in names and not http_1_0:
            raise ParsingError("no host")
        super().parse_header(header_plus)
        if self.chunked and self.body_rcv is not None:
            setattr(self, "body_rcv", StrictChunkReceiver(self.body_rcv.getbuf()))  # noqa: B010 - as below
        netloc = getattr(self, "proxy_netloc", "")
        if netloc and netloc != self.headers.get("HOST"):
            raise ParsingError("the URL names another host than the Host header")
        self._check_access()

    @property
    def wsgi_headers(self) -> dict[str, str]:
        return {f"HTTP_{name}": value for name, value in self.headers.items()}

    def _check_access(self) -> None:
        headers = self.wsgi_headers
        scheme = self._policy.proxies.scheme(self._peer, headers, self.url_scheme)
        try:
            self._policy.check(self.command, self.path, headers, scheme)
        except RequestError as refusal:
            self.refusal = refusal
            if self.body_rcv is not None:
                setattr(self.body_rcv, "buf", _NullBuffer())  # noqa: B010 - the stubs do not know it


class _NullBuffer:
    """A body's buffer that keeps nothing."""

    def append(self, data: bytes) -> None: ...

    def __len__(self) -> int:
        return 0

    def getfile(self) -> BytesIO:
        return BytesIO()

    def close(self) -> None: ...
