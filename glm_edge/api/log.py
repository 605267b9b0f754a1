"""Log lines of the server: one event, one line, whatever a client put into a path.

What is logged is decided where it happens: never a key, a header, a query string or a word of a conversation.
"""

from __future__ import annotations

import logging
import os
import traceback
from typing import TextIO

from ..errors import GlmEdgeError


class OneLine(logging.Formatter):
    """A formatter that escapes all but printable text, line ends included: a terminal or a log reader acts on it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return "".join(map(_visible, super().format(record)))


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def configure(stream: TextIO) -> None:
    """Send what the server logs, and waitress under it, to `stream`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine())
    for name in ("glm_edge", "waitress"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == "glm_edge" else logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a queue that is full for a moment is normal


def what_failed(error: Exception) -> str:
    """An error for the log. Of a bug only file and line: its message may quote what the client wrote."""
    if isinstance(error, GlmEdgeError):
        return f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return f"{type(error).__name__} at " + " < ".join(
        f"{os.path.basename(f.filename)}:{f.lineno}" for f in frames[::-1]
    )
