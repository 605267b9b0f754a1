"""Server-sent events: how one is framed, the end of a stream, and comments that say how far a request is. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ....generation import Progress
from ..strict_json import dumps

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"  # a comment, which every reader of event streams skips


def event(data: Mapping[str, Any]) -> bytes:
    """An event. JSON has no raw line end in it, so one data line holds it all."""
    return f"data: {dumps(data)}\n\n".encode()


def named_event(name: str, data: Mapping[str, Any]) -> bytes:
    """An event with a name, as POST /v1/responses has them."""
    return f"event: {name}\n".encode() + event(data)


def comment(progress: Progress) -> bytes:
    """How far a request is, for whoever reads a stream's comments: ": queue 2 eta 30" (seconds), ": prefill 96/500"
    (tokens)."""
    if not progress.position:
        return f": prefill {progress.done}/{progress.total}\n\n".encode()
    eta = "" if progress.wait_s is None else f" eta {math.ceil(progress.wait_s)}"
    return f": queue {progress.position}{eta}\n\n".encode()
