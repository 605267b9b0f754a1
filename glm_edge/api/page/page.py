"""The chat page at `/`: `page.html` as it is sent, and the Content-Security-Policy that goes with it.

The page is one file that loads nothing and keeps everything in the browser. It speaks the same HTTP API as every other
client. Its script and its style stand in it, and the policy names both by their hash, so that no other script or style
can run, wherever it came from; no attribute in the page may hold either. Text of the user and of the model only ever
becomes text nodes. The one piece of structure that is read out of it is a ``` fence, which becomes a <pre>. Not here:
the route (`app.py`), who may come in (`access/policy.py`: the page itself is open, it asks for the key that its
requests need).
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """What GET / answers with."""

    body: bytes  # HTML in UTF-8
    headers: dict[str, str]


def load() -> Page:
    """Read the page and compute its policy; once, at start-up."""
    # As text, so that line ends are "\n" here as in the browser's parser: it hashes what it has parsed.
    text = Path(__file__).with_name("page.html").read_text("utf-8")
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy(text),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return Page(text.encode(), headers)


def policy(html: str) -> str:
    """The policy for a page with these inline scripts and styles; it allows no others.

    Trusted Types (W3C) makes the browser refuse every call that would parse text as markup, as `innerHTML` does.
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(hashes['script'])}",
            f"style-src {' '.join(hashes['style'])}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )
