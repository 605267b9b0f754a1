"""Seeded damage to files: what fuzzing tests and `benchmarks/fuzz.py` feed to the readers.

`damage` is for what is mostly text, `mutate` for binary formats with lengths and type numbers, `change_values` for JSON
that stays JSON, so that more gets past the parser.
"""

from __future__ import annotations

import json
import random
import struct
from typing import Any

SNIPPETS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"-1", b"0", b"18446744073709551616", b"1e999", b"NaN", b"null", b"true",
    b"\\ud800", b"\\u0000", b"\xff", b"\0", b" ", b"\n", b'"F8_E4M3"', b'"__metadata__":{},', b"[[[[[[[[", b"9" * 5000,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 64, 255, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, 1e-320, "", "x", "x\ny",
    "x" * 999, "none", "../x", [], [[]], [0], [-1, 2], [2**62, 2**62], {}, {"a": 1},
]  # fmt: skip
NASTY = [0, 1, 2, 7, 8, 9, 0x7F, 0x80, 0xFF]


def damage(content: bytes, draw: random.Random, first: int = 0) -> bytes:
    """`content` with one to three changes behind byte `first`: a bit, a stretch lost, doubled or moved, a snippet."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(first, len(data)) if len(data) > first else first
        size = draw.choice([1, 1, 2, 8, 40])
        match draw.randrange(6):
            case 0 if data[at:]:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                other = draw.randrange(first, len(data) + 1) if len(data) >= first else first
                data[at : at + size] = data[other : other + size]
            case _:
                data[at : at + draw.choice([0, size])] = draw.choice(SNIPPETS)
    return bytes(data)


def mutate(content: bytes, spans: list[range], chance: random.Random) -> bytes:
    """One or a few changes in `spans` that break parsers: bytes, bits, whole numbers, cuts, repeats, types."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.choice(chance.choice(spans))
        kind = chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] = chance.choice(NASTY)
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            number = chance.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(data)))
            data[at : at + 8] = struct.pack("<Q", number)
        elif kind == 3:
            del data[at : at + chance.randrange(1, 40)]
        elif kind == 4:
            data[at:at] = data[at : at + chance.randrange(1, 40)]
        else:
            data[at : at + 4] = struct.pack("<I", chance.randrange(14))
    return bytes(data)


def change_values(content: bytes, draw: random.Random) -> bytes:
    """One or two values of a JSON text changed, wherever in it, taken away, or swapped with another of their object."""
    root = json.loads(content)
    for _ in range(draw.randint(1, 2)):
        place, keys = root, list(root)
        while keys:
            key = draw.choice(keys)
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or draw.random() < 0.2:
                _change(place, key, draw)
                break
            place, keys = inner, list(inner) if isinstance(inner, dict) else list(range(len(inner)))
    return json.dumps(root).encode()


def _change(place: Any, key: Any, draw: random.Random) -> None:
    value = place[key]
    kind = draw.randrange(5)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place, dict):
        other = draw.choice(list(place))
        place[key], place[other] = place[other], value
    elif kind == 2 and type(value) in (int, float):
        place[key] = draw.choice([value + 1, value - 1, value * 2, -value])
    elif kind == 3 and isinstance(place, dict):
        place[draw.choice([f"{key} ", f"{key}\n", key.upper(), f"{key}_scale", ""])] = place.pop(key)
    else:
        place[key] = draw.choice(VALUES)
