"""Strict JSON: what Python's parser would take or trip over is an error the client can read."""

from __future__ import annotations

import tracemalloc

import pytest

from glm_edge.api.contract import strict_json
from glm_edge.errors import RequestError
from support.server.bad_bodies import REFUSED

pytestmark = pytest.mark.case("H2", "H3", "H4", "H5", "H6", "H7")


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
