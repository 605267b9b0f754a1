"""Random texts that are hard to tokenize: pieces, their parts and joins, and characters that no piece has."""

from __future__ import annotations

import random
from collections.abc import Sequence

ODD = "\n\t\r\0 \u2581\u00a0\u200b\ufeff😀👍🏽\U00020000\U0010ffff龘한ö\u0301"
COMMON = "  aeinorst,.019你的是问答"


def random_text(draw: random.Random, pieces: Sequence[str]) -> str:
    """Up to some 60 characters; `pieces` as tokenizer.model has them, with U+2581 for a space."""
    parts = []
    for _ in range(draw.randint(0, 12)):
        kind = draw.randrange(5)
        if kind == 0:
            parts.append(draw.choice(pieces).replace("\u2581", draw.choice(" \u2581")))
        elif kind == 1:
            piece = draw.choice(pieces)
            start = draw.randrange(len(piece))
            parts.append(piece[start : start + draw.randint(1, 4)])
        elif kind == 2:
            parts.append(draw.choice(ODD) * draw.choice((1, 1, 2, 5)))
        elif kind == 3:
            parts.append(draw.choice(COMMON) * draw.choice((1, 2, 3, 8)))
        else:
            code = draw.randrange(0x20, 0x30000)
            parts.append(chr(code) if not 0xD800 <= code < 0xE000 else "x")
    return "".join(parts)
