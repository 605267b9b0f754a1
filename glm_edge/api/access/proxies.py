"""Who asks, behind proxies: the client's address and scheme, as a proxy that is named says. Pure.

Anyone can write X-Forwarded-For. So it is read from connections of named proxies only, from its end, where the nearest
proxy wrote, up to the first address that is no named proxy's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from ...errors import UsageError

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """The proxies whose headers are believed.

    Args:
        addresses: each an IPv4 or IPv6 address or a network, as "10.0.0.0/24". Raises UsageError for anything else.
    """

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self._networks = tuple(map(_network, addresses))

    def client(self, peer: str, headers: Mapping[str, str]) -> str:
        """The address of the client of a request.

        Args:
            peer: the connection's other end.
            headers: by WSGI's names.
        """
        address = peer
        for before in reversed(headers.get("HTTP_X_FORWARDED_FOR", "").split(",")):
            if not self._named(address) or _address(before := before.strip()) is None:
                break
            address = before
        return address

    def scheme(self, peer: str, headers: Mapping[str, str], own: str) -> str:
        """What the client speaks, "http" or "https": a proxy may end its TLS."""
        told = headers.get("HTTP_X_FORWARDED_PROTO", "").strip().lower()
        return told if told in ("http", "https") and self._named(peer) else own

    def _named(self, address: str) -> bool:
        found = _address(address) if self._networks else None
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
            found = found.ipv4_mapped
        return found is not None and any(found in network for network in self._networks)


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UsageError(f"--proxy {text} is no IP address or network; give the proxy's, as 10.0.0.1") from None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None where it is no address."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
