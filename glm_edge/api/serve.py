"""`serve`: one model behind one address, from binding the socket to the last answer.

The order matters. The address is taken before the model is loaded, so that a port in use costs nothing. The app is
imported while the model loads, because both take time; from then on the server answers ("loading"). On the first signal
it takes no more requests and lets running answers end, on the second it stops at once. HTTP itself is in `http/` and
`app.py`, the engine comes from the caller.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import NoReturn

from ..errors import GlmEdgeError, StorageError, UsageError
from ..system.notify import notify
from ..system.private import forbid_core_files
from ..system.threads import start
from ..types import Engine
from . import log
from .access.policy import AccessPolicy, is_loopback
from .access.proxies import Proxies
from .admission import SPARE_REQUESTS, Admission
from .config import ServeConfig
from .http.limits import Limits
from .http.server import HttpServer

_OTHER_FILES = 100  # that the process has open besides connections
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # localhost has an IPv6 address even where there is no IPv6

_ABORT_S = 1.5  # after the grace: for errors to reach the clients, and for the engine to stop


def serve(
    load: Callable[[], Engine],
    config: ServeConfig,
    ready: Callable[[str], None] = lambda url: None,
    load_left_s: Callable[[], float | None] = lambda: None,
) -> None:
    """Serve until a signal says to stop. Must be called in the main thread, which gets the signals.

    Args:
        load: returns the loaded engine; called in a thread of its own once the address is taken.
        ready: called in that thread with the address to open, once the model is loaded.
        load_left_s: seconds until `load` is done; None while that is unknown.

    Raises UsageError for an address that needs a key, StorageError for one that cannot be had, and what `load` raises.
    """
    forbid_core_files()
    addresses = _addresses(config)
    local = all(is_loopback(sockaddr[0]) for _, sockaddr in addresses)
    if not local and not config.keys.required:
        raise UsageError(
            f"--host {config.host} can be reached from other machines and no key is set: set one with --api-key or"
            f" --api-key-file, or listen on --host {ServeConfig.host}"
        )
    sockets = _bind(addresses, config)
    log.configure(sys.stderr)
    proxies = Proxies(config.proxies)
    policy = AccessPolicy(config.keys, not local, config.hosts, config.origins, config.share_prefixes, proxies)
    admission = Admission(
        capacity=config.capacity,
        per_key=config.per_key,
        max_wait_s=config.max_wait,
        wait_for_model=config.wait_for_model,
        load_left_s=load_left_s,
    )
    limits = _within_file_limit(config.limits)
    limits = replace(limits, threads=max(limits.threads, config.capacity + 2 * SPARE_REQUESTS))

    def make_server() -> HttpServer:
        from .app import create_app

        app = create_app(
            admission, policy=policy, aliases=config.aliases, max_body=config.limits.body, trim=config.trim
        )
        return HttpServer(app, sockets, policy=policy, limits=limits)

    _Run(make_server, admission, load, config.grace, _url(sockets[0]), ready, reload=config.reload).run()


class _Run:
    """One run of the server: loading, serving, draining."""

    def __init__(
        self,
        make_server: Callable[[], HttpServer],
        admission: Admission,
        load: Callable[[], Engine],
        grace: float,
        url: str,
        ready: Callable[[str], None],
        *,
        reload: bool,
    ) -> None:
        self._make_server = make_server
        self._server: HttpServer
        self._listening = threading.Event()  # set when there is a server
        self._admission = admission
        self._load = load
        self._grace = grace
        self._url = url
        self._reload = reload
        self._reloading = threading.Lock()
        self._ready = ready
        self._stop = False
        self._failure: BaseException | None = None
        self._engine: Engine | None = None

    def run(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._on_signal)
        if self._reload and hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._on_hangup)
        start(threading.Thread(target=self._load_engine, name="loader", daemon=True))
        self._server = self._make_server()
        _say(f"listening at {self._url}, loading the model")
        self._listening.set()
        while not self._stop and self._failure is None:
            self._server.turn()
            if self._engine is not None and self._engine.ended:
                self._failure = self._engine.failure
        if self._failure is not None:
            self._end_failed(self._failure)
        self._drain()
        self._server.close()
        if not self._close_engine():
            # A native call that cannot be interrupted: leave without taking the process apart around it.
            sys.stderr.flush()
            os._exit(0)

    def _end_failed(self, failure: BaseException) -> NoReturn:
        """The engine could not be loaded, or has failed for good: raise that, once those who wait have been told."""
        if self._engine is not None:
            self._server.stop_listening()
            self._turn_while_busy(_ABORT_S / 2)
            self._close_engine()
        self._server.close()
        raise failure

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._stop:
            os._exit(128 + signum)
        self._stop = True
        self._wake()

    def _on_hangup(self, signum: int, frame: FrameType | None) -> None:
        """In a thread of its own: a signal's handler must not wait."""
        threading.Thread(target=self._reload_adapters, name="reload", daemon=True).start()

    def _reload_adapters(self) -> None:
        engine = self._engine
        if engine is None:
            _say("adapters are not read again: the model is still being loaded")
            return
        with self._reloading:
            try:
                _say(f"adapters: {', '.join(engine.reload_adapters().adapters) or 'none'}")
            except GlmEdgeError as error:
                _say(f"adapters are not read again, those that are loaded stay: {error}")

    def _load_engine(self) -> None:
        try:
            engine = self._load()
        except BaseException as error:  # raised again by `run`, in the main thread
            self._failure = error
            self._wake()
            return
        self._engine = engine
        self._listening.wait()  # nobody is told of an address that does not answer
        self._admission.ready(engine)
        info = engine.info
        serving = f"serving {info.id} at {self._url} (n_ctx {info.n_ctx})"
        notify("READY=1", f"STATUS={serving}")
        page = self._url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        _say(f"{serving}; open {page} in a browser")
        self._ready(page)

    def _wake(self) -> None:
        """End the server's wait for the network; where there is no server yet, it looks first."""
        if self._listening.is_set():
            self._server.wake()

    def _drain(self) -> None:
        notify("STOPPING=1")
        self._admission.drain()
        self._server.stop_listening()
        if self._server.busy:
            _say(f"stopping when the running answers end, in {self._grace:g} s at most; another signal stops at once")
            self._turn_while_busy(self._grace)
        if self._server.busy:
            self._admission.abort()
            self._turn_while_busy(_ABORT_S / 2)

    def _turn_while_busy(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._server.busy and (left := deadline - time.monotonic()) > 0:
            self._server.turn(min(0.1, left))

    def _close_engine(self) -> bool:
        """Whether the engine is gone, as far as there was one."""
        if self._engine is None:
            return False  # still loading
        closer = threading.Thread(target=self._engine.close, name="closer", daemon=True)
        closer.start()
        closer.join(_ABORT_S / 2)
        return not closer.is_alive()


def _addresses(config: ServeConfig) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """What --host stands for: families and addresses, each once."""
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {config.host}: no such address ({error})") from None
    return list(dict.fromkeys((family, (str(address[0]), int(address[1]))) for family, _, _, _, address in found))


def _bind(addresses: list[tuple[socket.AddressFamily, tuple[str, int]]], config: ServeConfig) -> list[socket.socket]:
    """Sockets bound to the addresses, all on one port. A name that stands for several needs one that can be had."""
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    port = config.port
    for family, (address, _) in addresses:
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            _take_alone(sock)
            sock.bind((address, port))
        except OSError as error:
            problem = error
            if sock is not None:
                sock.close()
            continue
        sockets.append(sock)
        port = sock.getsockname()[1]
    if not sockets or (problem is not None and problem.errno not in _ABSENT):
        for sock in sockets:
            sock.close()
        why = problem.strerror if problem else "it stands for no address"
        raise StorageError(f"cannot listen on {config.host} port {config.port}: {why}; choose another --port or --host")
    return sockets


def _take_alone(sock: socket.socket) -> None:
    """A restarted server gets its port back at once, and no other program shares it."""
    if sys.platform == "win32":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # REUSEADDR would let others in there
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _within_file_limit(limits: Limits) -> Limits:
    """As many connections as the system lets this process have open files; macOS starts with 256."""
    if sys.platform == "win32":
        return limits
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        limits = replace(limits, connections=max(16, soft - _OTHER_FILES))
    return limits


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _say(message: str) -> None:
    print(f"glm-edge: {message}", file=sys.stderr, flush=True)
