"""The chat page: its files as they are sent, and the Content-Security-Policy that goes with them.

`page.html` is what GET / answers with; everything that it loads lies beside it and is sent from `page/...`: `style/`,
`script/` (ES modules without a framework) and `vendor/` (other people's libraries, see its LICENSES.txt). The page
speaks the same HTTP API as every other client, keeps everything in the browser, and loads nothing from elsewhere. The
policy allows files of this server alone: no script or style in the page, no attribute that holds either. Trusted Types
(W3C) makes the browser refuse every call that would parse text as markup, as `innerHTML` does, but DOMPurify's.

Not here: the routes (`app.py`), who may come in (`access/policy.py`: these files are open, the page asks for the key
that its requests need).
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PAGE = "page.html"  # the name of what GET / answers with
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",  # the one library that turns markup into nodes, and lets through what is listed
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # kept, and asked for by its ETag each time: a newer version shows at once
    "Referrer-Policy": "no-referrer",
    "X-DNS-Prefetch-Control": "off",  # a link is not even looked up before it is followed
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page: its bytes and its media type."""

    body: bytes
    type: str

    def sent(self, *, packed: bool) -> tuple[bytes, int, dict[str, str]]:
        """Body, status and headers; `packed` for clients that take gzip."""
        headers = {**HEADERS, "Content-Type": self.type, "ETag": self._etag}
        if packed and self._packed is not None:
            return self._packed, 200, {**headers, "Content-Encoding": "gzip"}
        return self.body, 200, headers

    @cached_property
    def _etag(self) -> str:
        """The hash of the content; weak, because it is the same for a compressed body."""
        return f'W/"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    @cached_property
    def _packed(self) -> bytes | None:
        """The body by gzip, made when it is first asked for; None where that saves little."""
        packed = gzip.compress(self.body, mtime=0)
        return packed if len(packed) < 0.9 * len(self.body) else None


def load() -> dict[str, PageFile]:
    """Every file by its name below this folder, as "script/main.js"; once, at start-up."""
    folder = Path(__file__).parent
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in _TYPES]
    return {path.relative_to(folder).as_posix(): PageFile(path.read_bytes(), _TYPES[path.suffix]) for path in paths}
