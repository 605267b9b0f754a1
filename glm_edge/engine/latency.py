"""What batches cost on this device, measured while they are computed, and the number of rows that is fastest.

What a tuning found is where the measuring starts from.

Repacked kernels compute 4 rows at a time and the rest one by one, each with a pass over all weights: three rows can
take twice as long as four. So the scheduler pads a batch with unused rows where that is faster. Padding changes logits
by a rounding at most (with q4_0 not at all), because two and more rows are computed by much the same arithmetic. A
single row is computed by other arithmetic. It is never padded, so an answer does not depend on what was measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

SLICE = 16  # prompt tokens beside answers, while no speed is measured
_ROW = 4  # tokens that the kernels compute together
_PATIENCE_S = 1.0  # limit of a batch with slices of prompts, while answers are being written
_SAMPLES = 5  # of each size; the least counts, because other programs only add to it
_TRIED = (4, 8, 16)  # sizes of a batch with drafts that are tried out
_TRIALS = 2  # of each: a single one may have been slowed by other programs
_AGAIN = 256  # batches of a size, after which the slower number of rows is measured again


class LatencyModel:
    """The measured seconds of batches by size; one for all answers.

    Args:
        known: sizes of batches and their seconds, of a tuning: as good as trials, and forgotten as others come.
        rows_of_four: whether the weights are repacked, so that the number of rows matters.
    """

    def __init__(self, known: Iterable[tuple[int, float]] = (), *, rows_of_four: bool = False) -> None:
        self._rows_of_four = rows_of_four
        self.token_s = 0.0  # seconds that a prompt's token takes, running mean; 0 while unknown
        self._samples = {n: deque([seconds] * _TRIALS, maxlen=_SAMPLES) for n, seconds in known}
        self._asked: dict[int, int] = {}  # how often rows() was asked about a size

    def measure(self, n: int, seconds: float) -> None:
        """Learn how long a batch of n tokens took, none of them a prompt's."""
        self._samples.setdefault(n, deque(maxlen=_SAMPLES)).append(seconds)

    def seconds(self, n: int) -> float | None:
        """What a batch of n tokens is likely to take, on a line between measured sizes; None outside of them."""
        full = -(-n // _ROW) * _ROW
        known = [s for m in ({n, full} if self._rows_of_four and n > 1 else {n}) if (s := self._seconds(m)) is not None]
        if known:
            return min(known)
        less, more = (
            max((m for m in self._samples if m < n), default=0),
            min((m for m in self._samples if m > n), default=0),
        )
        low, high = self._seconds(less), self._seconds(more)
        return None if low is None or high is None else low + (n - less) / (more - less) * (high - low)

    def untried(self, n: int) -> bool:
        """Whether a batch of n should be computed to learn what it costs: of whole rows, and not measured twice yet."""
        return n in _TRIED and len(self._samples.get(n, ())) < _TRIALS

    def measure_prompt(self, n: int, seconds: float) -> None:
        """Learn how long a batch of n tokens took, most of them a prompt's."""
        self.token_s = seconds / n if not self.token_s else 0.7 * self.token_s + 0.3 * seconds / n

    def prompt_tokens(self, writing: int, capacity: int) -> int:
        """How many prompt tokens to put into a batch of at most `capacity` beside `writing` answers' tokens."""
        if not writing:
            return capacity
        affordable = int(_PATIENCE_S / self.token_s) if self.token_s else SLICE
        return max(1, min(capacity - writing, affordable - (affordable + writing) % _ROW))

    def rows(self, n: int, *, prompt: bool) -> int:
        """How many rows to compute for n tokens: n, or the next multiple of four.

        Args:
            prompt: whether a prompt's tokens are among them.
        """
        full = -(-n // _ROW) * _ROW
        if not self._rows_of_four or n == 1 or n == full:
            return n
        if prompt:
            one, left = self._seconds(1), n % _ROW
            if one is None or not self.token_s:  # two passes over the weights mostly cost more than four rows
                return full if left >= _ROW // 2 else n
            return full if _ROW * self.token_s < left * one else n
        self._asked[n] = asked = self._asked.get(n, 0) + 1
        few, many = self._seconds(n), self._seconds(full)
        if few is None:
            return n
        quicker, slower = (n, full) if many is not None and few <= many else (full, n)
        return slower if asked % _AGAIN == 0 else quicker

    def _seconds(self, n: int) -> float | None:
        return min(self._samples[n]) if n in self._samples else None
