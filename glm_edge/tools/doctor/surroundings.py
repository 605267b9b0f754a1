"""The rest of what a chat needs: the time, a locale, a port, a Python of 64 bits; and the versions of all that."""

from __future__ import annotations

import platform
import sys
import time

from ... import __version__
from .host import Finding, Host

_RELEASED = 2026  # a clock before that year was never set


def surroundings(host: Host, port: int) -> list[Finding]:
    return [_python(), _clock(host), _locale(host), _port(host, port)]


def _python() -> Finding:
    bits = 64 if sys.maxsize > 1 << 32 else 32
    facts = {
        "glm_edge": __version__, "python": platform.python_version(), "bits": bits, "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()).strip(),
    }  # fmt: skip
    text = f"GLM Edge {__version__}, Python {platform.python_version()} of {bits} bits, {platform.machine()}"
    if bits == 32:
        return Finding("versions", "problem", text, "install a 64-bit system: no model fits into 32 bits", facts)
    return Finding("versions", "ok", text, facts=facts)


def _clock(host: Host) -> Finding:
    year = time.gmtime(host.now).tm_year
    synchronised = host.synchronised()
    own = bool(host.names("sys/class/rtc/rtc*"))
    facts = {"time": host.now, "rtc": own, "synchronised": synchronised}
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(host.now))
    if year < _RELEASED:
        todo = "set it: sudo date -s 'YYYY-MM-DD HH:MM'; certificates and times in answers go wrong"
        return Finding("clock", "note", f"it is {date}, which cannot be", todo, facts)
    if not own and not synchronised:
        text = f"{date}; no clock that runs without power, and not set by the network"
        return Finding("clock", "note", text, "look whether it is right after each start", facts)
    return Finding("clock", "ok", date, facts=facts)


def _locale(host: Host) -> Finding:
    chosen = next((host.environment[key] for key in ("LC_ALL", "LC_CTYPE", "LANG") if host.environment.get(key)), "")
    facts = {"locale": chosen}
    if sys.platform == "win32" or "utf" in chosen.lower():
        return Finding("locale", "ok", chosen or "UTF-8", facts=facts)
    text = f"{chosen or 'none'}, not UTF-8: Chinese may be shown as question marks"
    return Finding("locale", "note", text, "export LANG=C.UTF-8", facts)


def _port(host: Host, port: int) -> Finding:
    facts = {"port": port, "free": host.port_is_free(port)}
    if facts["free"]:
        return Finding("port", "ok", f"{port} is free for glm-edge serve", facts=facts)
    return Finding("port", "note", f"{port} is in use", "a server runs already, or choose another: serve --port", facts)
