"""The beginnings of sequences of token ids: what two have in common, and what is an adapter's."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading ids are equal."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:  # slices compare at C speed, and this is the usual case
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def front_of(tokens: Sequence[int]) -> int:
    """How many leading ids stand for an adapter's cells: no token has their numbers, which are negative."""
    return next((place for place, token in enumerate(tokens) if token >= 0), len(tokens))
