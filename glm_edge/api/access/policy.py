"""The access policy: which requests are let in, by their headers alone, before a body is read.

Three checks, in this order. Host: a page of another site whose name points at 127.0.0.1 (DNS rebinding) sends that
name. Origin: a page of another site that calls across sends its origin. Key: when there are keys, every path but the
health checks and the page needs one. Pure but for the key file. Not here: limits on size.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import RequestError
from .keys import ANYONE, Keys
from .proxies import Proxies

OPEN_PATHS = frozenset({"/health", "/livez"})
PAGE = "/"  # open to GET and HEAD: the page holds nothing, and is where a browser's user types the key in
PAGE_FILES = "/page/"  # so are the files that it loads

_KEY_HEADERS = ("HTTP_AUTHORIZATION", "HTTP_API_KEY", "HTTP_X_API_KEY")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/?#@,\s]+))(?::\d{1,5})?")


@dataclass(frozen=True)
class AccessPolicy:
    """The rules that let requests in; see `check`.

    Args:
        keys: the API keys; without any, no key is needed.
        any_host: skip the check of Host. For a server that listens beyond loopback: it has other names there, and a
            key, which a rebound page does not know.
        hosts: names that are accepted besides the loopback's.
        origins: pages that may call from elsewhere, exactly as browsers send them: "https://chat.example".
        share_prefixes: whether a request may use what was computed for another key; who measures learns what was asked.
        proxies: whose word about a client's address and scheme is taken.
    """

    keys: Keys = field(default_factory=Keys)
    any_host: bool = False
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    share_prefixes: bool = False
    proxies: Proxies = field(default_factory=Proxies)

    def check(self, method: str, path: str, headers: Mapping[str, str], scheme: str = "http") -> bytes:
        """The key of a request for `path` with these headers, as Keys.find has it.

        Raises RequestError for a request that is not let in.

        Args:
            headers: by WSGI's names, HTTP_HOST and so on; text decoded from latin-1.
        """
        self.check_host(headers.get("HTTP_HOST"))
        self.check_origin(headers, scheme)
        is_page = (path == PAGE or path.startswith(PAGE_FILES)) and method in ("GET", "HEAD")
        if path in OPEN_PATHS or is_page:
            return ANYONE
        key = self.keys.find(*(_raw(headers.get(name)) for name in _KEY_HEADERS))
        if key is None:  # in OpenAI's words, by which litellm tells it from other bad requests
            raise RequestError(
                "Incorrect API key provided, or none; send 'Authorization: Bearer KEY', 'API-KEY: KEY' or"
                " 'X-Api-Key: KEY'",
                code="invalid_api_key",
            )
        return key

    def prefix_scope(self, key: bytes) -> bytes:
        """Whose computed prefixes a request with this key, as `check` returned it, may use (types.Request)."""
        return b"" if self.share_prefixes or key == ANYONE else key

    def check_host(self, host: str | None) -> None:
        """Raise RequestError for a Host that is not ours."""
        if host is None or self.any_host:  # only HTTP/1.0 comes without, and no browser speaks it
            return
        match = _HOST.fullmatch(host)
        name = (match["v6"] or match["name"]).lower().removesuffix(".") if match else ""
        if not (is_loopback(name) or name in self.hosts):
            raise RequestError(
                "this server does not answer to that Host; use localhost, 127.0.0.1 or a name given with --allow-host",
                code="host_not_allowed",
            )

    def check_origin(self, headers: Mapping[str, str], scheme: str) -> None:
        """Raise RequestError for the Origin of another site that is not allowed."""
        origin = headers.get("HTTP_ORIGIN")
        if origin is not None and not self.allows(origin) and origin != f"{scheme}://{headers.get('HTTP_HOST')}":
            raise RequestError(
                "pages of that Origin may not call this server; allow them with --allow-origin",
                code="origin_not_allowed",
            )

    def preflight(self, origin: str, headers: str | None) -> dict[str, str]:
        """The answer to a browser that asks before it calls across origins: these headers are the permission.

        Args:
            headers: those that it wants to send.
        """
        if not self.allows(origin):
            return {}
        return {
            "Access-Control-Allow-Methods": "GET, POST",
            # a page we trust may send what it likes
            "Access-Control-Allow-Headers": headers or "Authorization, API-KEY, Content-Type",
            "Access-Control-Max-Age": "600",
        }

    def allows(self, origin: str) -> bool:
        """Whether pages of this other origin may call."""
        return origin in self.origins


def is_loopback(name: str) -> bool:
    """Whether a host name or address, without brackets and port, can only mean this machine."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _raw(header: str | None) -> bytes | None:
    return None if header is None else header.encode("latin-1", "backslashreplace")
