"""Strict JSON: what Python's parser would take or trip over is an error the client can read (CASES H2 to H7)."""

from __future__ import annotations

import tracemalloc

import pytest

from glm_edge.api import strict_json
from glm_edge.errors import RequestError

REFUSED = {
    "H2-empty": (b"", None),
    "H2-open-brace": (b"{", None),
    "H2-not-json": (b"hello", None),
    "H2-trailing": (b"{} {}", None),
    "H2-single-quotes": (b"{'a': 1}", None),
    "H2-trailing-comma": (b'{"a": 1,}', None),
    "H4-depth-arrays": (b"[" * 100_000, None),
    "H4-depth-objects": (b'{"a":' * 100_000, None),
    "H4-depth-closed": (b"[" * 33 + b"]" * 33, None),
    "H4-depth-behind-quotes": (b'["\\\\", "\\"", ' + b"[" * 100_000, None),
    "H5-nan": (b'{"temperature": NaN}', None),
    "H5-infinity": (b'{"temperature": Infinity}', None),
    "H5-minus-infinity": (b'{"temperature": -Infinity}', None),
    "H5-1e999": (b'{"temperature": 1e999}', None),
    "H5-minus-1e999": (b'{"temperature": -1e999}', None),
    "H5-5000-digits": (b'{"max_tokens": ' + b"9" * 5000 + b"}", None),
    "H6-duplicate": (b'{"model": "a", "model": "b"}', "duplicate_key"),
    "H6-duplicate-nested": (b'{"messages": [{"role": "user", "role": "system"}]}', "duplicate_key"),
    "H6-duplicate-escaped": (b'{"model": 1, "mod\\u0065l": 2}', "duplicate_key"),
    "H7-utf16": ('{"a": "b"}'.encode("utf-16"), None),
    "H7-utf16-without-mark": ('{"a": "b"}'.encode("utf-16-le"), None),
    "H7-utf32": ('{"a": "b"}'.encode("utf-32"), None),
    "H7-byte-order-mark": (b'\xef\xbb\xbf{"a": 1}', None),
    "H7-invalid-utf8": (b'{"a": "\xff"}', None),
    "H7-overlong": (b'{"a": "\xc0\xaf"}', None),
    "H7-cesu": (b'{"a": "\xed\xa0\xbd\xed\xb8\x80"}', None),
    "H7-lone-surrogate": (b'{"a": "\\ud800"}', None),
    "H7-lone-surrogate-low": (b'{"a": ["x\\uDC00"]}', None),
    "H7-lone-surrogate-key": (b'{"\\ud800": 1}', None),
    "H7-raw-control-character": (b'{"a": "\n"}', None),
}


@pytest.mark.parametrize(("body", "code"), REFUSED.values(), ids=REFUSED)
def test_bad_json_is_a_request_error(body: bytes, code: str | None) -> None:
    with pytest.raises(RequestError) as error:
        strict_json.loads(body)
    assert (error.value.code, error.value.param) == (code, None)
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 200


def test_a_depth_bomb_costs_no_memory_of_its_depth() -> None:
    body = b"[" * 4_000_000
    tracemalloc.start()
    with pytest.raises(RequestError):
        strict_json.loads(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * len(body)


ACCEPTED = {
    "emoji-as-escaped-pair": (b'"\\ud83d\\ude00"', "😀"),
    "brackets-in-strings": (b'["' + b"[" * 1000 + b'", "\\"[[["]', ["[" * 1000, '"[[[']),
    "32-levels": (b"[" * 32 + b"]" * 32, None),
    "40-digits": (b"1" * 40, int("1" * 40)),
    "small-float": (b"1e-400", 0.0),
    "chinese": ('"你好"'.encode(), "你好"),
}


@pytest.mark.parametrize(("body", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_good_json_is_read(body: bytes, value: object) -> None:
    result = strict_json.loads(body)
    if value is not None:
        assert result == value


def test_json_is_written_with_chinese_as_it_is_and_on_one_line() -> None:
    text = strict_json.dumps({"a": "你好\n\r\u2028\u2029\x85\x1c😀"})
    assert text == '{"a":"你好\\n\\r\\u2028\\u2029\\u0085\\u001c😀"}'
    assert len(text.splitlines()) == 1
    assert strict_json.loads(text.encode()) == {"a": "你好\n\r\u2028\u2029\x85\x1c😀"}
