"""JSON as RFC 8259 has it and no further: bytes in, Python values out, RequestError for everything else.

Python's parser takes more than the standard allows (NaN, repeated keys, lone surrogates, UTF-16) and fails in its own
ways (RecursionError on depth, infinity out of 1e999). Two programs that read one body differently are a way around
whatever the first one checked, so none of that passes. Which fields mean what is not known here.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from ...errors import RequestError

MAX_BODY = 2 * 1024 * 1024  # bytes; 32768 tokens of Chinese are about a tenth
MAX_DEPTH = 32  # levels of [ and {; the deepest field we know has 5
MAX_DIGITS = 40  # of an integer; none of ours needs more than 19


def loads(body: bytes) -> Any:
    """The value that `body` holds.

    Raises RequestError when it is not UTF-8, not JSON, nested deeper than MAX_DEPTH, repeats a key in one object (code
    "duplicate_key"), or holds a number or a string that has no value (1e999, half a surrogate pair).
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: bad byte at offset {error.start}") from None
    if text.startswith("\ufeff"):
        raise RequestError("the body starts with a byte order mark; send plain UTF-8")
    _check_depth(body)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    if "\\u" in text:
        _check_surrogates(value)
    return value


def dumps(value: Any) -> str:
    """One line of JSON with Chinese as it is; the line ends that Unicode adds are escaped, because some readers of
    event streams split lines at them."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_UNICODE_LINE_ENDS)


_UNICODE_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def _check_depth(body: bytes) -> None:
    """Before the parser recurses. Up to the first syntax error, where the parser stops, this sees what it sees: without
    escaped quotes, every second piece between quotes is outside of strings."""
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    depth = 0
    for byte in outside.translate(None, _NO_BRACKET):
        depth += 1 if byte in b"[{" else -1
        if depth > MAX_DEPTH:
            raise RequestError(f"the body is nested deeper than {MAX_DEPTH} levels")


_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        double = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise RequestError(f"the key {double[:64]!r} occurs twice in one object", code="duplicate_key")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise RequestError(f"the body has an integer of {len(digits)} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise RequestError(f"the number {text[:40]} is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise RequestError(f"{name} is not a JSON number")


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError("the body has half a surrogate pair (\\ud800 to \\udfff), which is no character") from None
