"""A Hugging Face hub on this machine, with one repository: as much of its protocol as the client asks for, and faults.

`/api/models/REPO/revision/REV?blobs=true` lists the files; `/REPO/resolve/REV/FILE` redirects, as the hub does, to
another address for what lies in LFS (X-Linked-Size, X-Linked-Etag, X-Repo-Commit) and for the rest, and those know
ranges. Every request is written down. Protocol: https://huggingface.co/docs/hub/api and the client's file_download.py.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "THUDM/chatglm2-small"
LFS = (".bin", ".safetensors", ".model")
STEP = 1 << 15  # bytes sent at a time


@dataclass
class Fault:
    """What goes wrong with the next `times` requests for a file, or for the listing ("")."""

    name: str
    status: int = 0  # answered instead of the file
    code: str = ""  # X-Error-Code of that answer
    cut: int = -1  # bytes after which the connection breaks
    content: bytes | None = None  # sent instead, with its own length
    location: str = ""  # where it redirects to, with 302
    length: int = 0  # Content-Length, where it is not the true one
    ranges: bool = True  # whether the file can be asked for in parts
    times: int = 1


@dataclass
class Hub:
    """`files` of `commit`, which is what `main` points to; `pause` is waited, in seconds, before each step is sent."""

    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    faults: list[Fault] = field(default_factory=list)
    pause: float = 0.0
    token: str = ""  # asked for where it is set
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)  # "GET NAME" of files, "LIST REVISION"
    tokens: set[str] = field(default_factory=set)  # all that came
    sent: Counter[str] = field(default_factory=Counter)  # bytes of each file
    stop: threading.Event = field(default_factory=threading.Event)

    def fault(self, name: str) -> Fault | None:
        for fault in self.faults:
            if fault.name == name and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob_id(content)}
            if name.endswith(LFS):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 135}
            siblings.append(entry)
        return {"id": REPO, "modelId": REPO, "sha": self.commit, "private": False, "tags": [], "siblings": siblings}


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder as a repository, with the Python files that the real ones have."""
    python = {f"{name}_chatglm.py": b"raise SystemExit('run')\n" for name in ("modeling", "configuration")}
    return python | {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` at a free port; sets its `endpoint`."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed break connections."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._refuse(401, "GatedRepo")
        if path.startswith(f"/api/models/{REPO}/revision/"):
            return self._list(path.rsplit("/", 1)[1])
        kind, _, name = path.removeprefix("/").rpartition("/")
        if kind == f"{REPO}/resolve/{self.hub.commit}" and name in self.hub.files:
            return self._redirect(name)
        if kind in ("cdn", "cache") and name in self.hub.files:
            return self._send(name)
        if path.startswith(f"/{REPO}/"):
            return self._refuse(404, "EntryNotFound")
        return self._refuse(401, "RepoNotFound")

    def _list(self, revision: str) -> None:
        self.hub.asked.append(f"LIST {revision}")
        if fault := self.hub.fault(""):
            if fault.content is None:
                return self._refuse(fault.status or 302, fault.code, fault.location)
            return self._answer(fault.content, fault.length)
        if revision not in ("main", self.hub.commit):
            return self._refuse(404, "RevisionNotFound")
        return self._answer(json.dumps(self.hub.listing()).encode())

    def _answer(self, content: bytes, length: int = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = length > len(content)

    def _refuse(self, status: int, code: str, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "as the test has it")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, name: str) -> None:
        content, lfs = self.hub.files[name], name.endswith(LFS)
        self.send_response(302 if lfs else 307)
        self.send_header("Location", f"{self.hub.endpoint if lfs else ''}/{'cdn' if lfs else 'cache'}/{name}")
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("X-Linked-Size", str(len(content)))
        etag = hashlib.sha256(content).hexdigest() if lfs else blob_id(content)
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, name: str) -> None:
        fault = self.hub.fault(name) or Fault(name)
        content = self.hub.files[name] if fault.content is None else fault.content
        asked = self.headers.get("Range", "") if fault.ranges else ""
        start = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
        self.hub.asked.append(f"GET {name} {start}")
        if fault.status or fault.location:
            return self._refuse(fault.status or 302, fault.code, fault.location)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(fault.length or len(content) - start))
        self.end_headers()
        end = len(content) if fault.cut < 0 else min(len(content), start + fault.cut)
        for at in range(start, end, STEP):
            if self.hub.stop.wait(self.hub.pause):
                break
            block = content[at : min(at + STEP, end)]
            try:
                self.wfile.write(block)
            except OSError:  # whoever asked has been killed
                break
            self.hub.sent[name] += len(block)
        if end < max(len(content), fault.length):
            self.close_connection = True
        return None

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `asked` has it."""
