"""The JSON of requests and answers: bodies read strictly (`system/strict_json.py`), answers written on one line."""

from __future__ import annotations

import json
from typing import Any

from ...errors import RequestError
from ...system.strict_json import JsonError
from ...system.strict_json import loads as strict_loads

MAX_BODY = 2 * 1024 * 1024  # bytes; 32768 tokens of Chinese are about a tenth


def loads(body: bytes) -> Any:
    """The value that `body` holds. Raises RequestError for all that strict JSON is not; a repeated key has the code
    "duplicate_key"."""
    try:
        return strict_loads(body)
    except JsonError as error:
        raise RequestError(f"the body {error}", code="duplicate_key" if error.duplicate_key else None) from None


def dumps(value: Any) -> str:
    """One line of JSON with Chinese as it is; the line ends that Unicode adds are escaped, because some readers of
    event streams split lines at them."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_UNICODE_LINE_ENDS)


_UNICODE_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
