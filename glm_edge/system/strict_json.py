"""JSON as RFC 8259 has it and no further: bytes in, Python values out, JsonError for everything else.

Python's parser takes more than the standard allows (NaN, repeated keys, lone surrogates, UTF-16) and fails in its own
ways (RecursionError on depth, infinity out of 1e999). Where two programs read one text differently, the second may get
what the first would have refused; so none of that passes. The HTTP API reads bodies with it, and the converter reads
the files of a checkpoint. Not here: what the values mean, and a limit on the size.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

MAX_DEPTH = 32  # levels of [ and {; what we read has 5 at most
MAX_DIGITS = 40  # of an integer; what we read has 20 at most


class JsonError(ValueError):
    """Why a text is refused. The message is a predicate, to follow the name of the text: "is not UTF-8"."""

    def __init__(self, message: str, *, duplicate_key: bool = False) -> None:
        super().__init__(message)
        self.duplicate_key = duplicate_key


def loads(content: bytes) -> Any:
    """The value that `content` holds.

    Raises JsonError when it is not UTF-8, not JSON, nested deeper than MAX_DEPTH, repeats a key in one object, or holds
    a number or a string that has no value (1e999, half a surrogate pair).
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"is not UTF-8: bad byte at offset {error.start}") from None
    if text.startswith("\ufeff"):
        raise JsonError("starts with a byte order mark; plain UTF-8 is expected")
    _check_depth(content)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        raise JsonError(f"is not valid JSON: {error.msg} at character {error.pos}") from None
    if "\\u" in text:
        _check_surrogates(value)
    return value


def _check_depth(content: bytes) -> None:
    """Refuse deep nesting before the parser recurses.

    Without escaped quotes, every second part between quotes is outside of strings. This holds up to the first syntax
    error, where the parser stops.
    """
    outside = b"".join(content.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    depth = 0
    for byte in outside.translate(None, _NO_BRACKET):
        depth += 1 if byte in b"[{" else -1
        if depth > MAX_DEPTH:
            raise JsonError(f"is nested deeper than {MAX_DEPTH} levels")


_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        double = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise JsonError(f"has the key {double[:64]!r} twice in one object", duplicate_key=True)
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise JsonError(f"has an integer of {len(digits)} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise JsonError(f"has the number {text[:40]}, which is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise JsonError(f"has {name}, which is not a JSON number")


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise JsonError("has half a surrogate pair (\\ud800 to \\udfff), which is no character") from None
