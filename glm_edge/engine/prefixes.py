"""Prompts and answers that stay in the KV cache after their end, so that what begins like them need not be computed.

Each lives in a sequence of llama.cpp's unified cache. Taking a prefix over is a copy of the sequence's bookkeeping: no
number is moved, and both share the cells until the last of them goes. The least recently used goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ..llama import Context


class Prefixes:
    """The kept sequences; token ids by sequence, least recently used first."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kept: OrderedDict[int, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def longest(self, tokens: Sequence[int]) -> tuple[int, int]:
        """(sequence, length) of the kept one with the longest common prefix; (-1, 0) where none has any."""
        best, length = -1, 0
        for sequence, kept in self._kept.items():
            if (n := common_prefix(kept, tokens)) > length:
                best, length = sequence, n
        if best >= 0:
            self._kept.move_to_end(best)
        return best, length

    def keep(self, sequence: int, tokens: list[int]) -> list[int]:
        """Keep a sequence whose cells hold `tokens`; returns sequences that it made superfluous, now free."""
        covered = [s for s, kept in self._kept.items() if common_prefix(kept, tokens) == len(kept)]
        for old in covered:
            self._drop(old)
        self._kept[sequence] = tokens
        return covered

    def evict(self) -> int | None:
        """Give up the least recently used; returns its sequence, or None where nothing is kept."""
        if not self._kept:
            return None
        sequence = next(iter(self._kept))
        self._drop(sequence)
        return sequence

    def _drop(self, sequence: int) -> None:
        del self._kept[sequence]
        self._context.remove(sequence)


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
