"""How far requests are, and how long they will take, estimated from the answers so far.

Any thread may ask while the engine's thread changes the figures. No lock is taken and no step is slowed; an estimate
may mix the figures of two steps. Nobody knows how long an answer will be. So what is left of one is assumed to be the
mean length of the last answers, however much is written. That is right on average if every token is equally likely to
be the last.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import NamedTuple

from ..generation import Progress
from ..types import Stats
from .sequence import Sequence

_FADE = 0.9  # weight of the past when another answer ends
_LENGTH = 256  # tokens of an answer, assumed while none has ended
_FRESH_S = 0.1  # how long the places of those that wait are told again


class _Sums(NamedTuple):
    """The sums of several answers' figures."""

    prompt: float = 0  # tokens
    computed: float = 0  # of them, not from a cache
    prefill_s: float = 0
    intervals: float = 0  # between two tokens
    decode_s: float = 0
    ended: float = 0  # answers
    length: float = 0  # their tokens

    def plus(self, stats: Stats, *, ended: bool) -> _Sums:
        """These sums and an answer's figures; the same sums while it has no token."""
        if not stats.completion_tokens:
            return self
        computed = stats.prompt_tokens - stats.cached_tokens
        more = (stats.prompt_tokens, computed, stats.prefill_s, stats.completion_tokens - 1, stats.decode_s)
        last = (1, stats.completion_tokens) if ended else (0, 0)
        return _Sums(*(mine + theirs for mine, theirs in zip(self, more + last, strict=True)))

    def faded(self) -> _Sums:
        return _Sums(*(_FADE * figure for figure in self))


_Queue = dict[Sequence, tuple[int, float | None]]


class EtaEstimator:
    """The estimator of one engine: what past answers took, and so what present ones will take.

    Args:
        slots: answers computed at the same time.
        clock: seconds, monotonic.
    """

    def __init__(self, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._clock = clock
        self._past = _Sums()
        self._told: tuple[float, _Queue] = (0.0, {})  # when the places were estimated, and they; replaced as a whole

    def ended(self, stats: Stats) -> None:
        """Learn from an answer that came to its own end. Called from one thread."""
        self._past = self._past.faded().plus(stats, ended=True)

    def progress(self, sequence: Sequence, others: Seq[Sequence]) -> Progress:
        """How far an answer without text is; `others` are all answers that have not ended, in order of arrival."""
        total = len(sequence.job.prompt.ids)
        if sequence.started:
            sums = self._now(others)
            speed = sums.prefill_s / sums.computed if sums.computed else 0.0
            return Progress(done=min(total, sequence.read(speed)), total=total)
        at, places = self._told
        if sequence not in places or self._clock() - at > _FRESH_S:
            places = self._places(others)
        place = places.get(sequence, (1, None))
        return Progress(*place, 0, total)

    def next_ends(self, others: Seq[Sequence], n: int = 1) -> float | None:
        """Seconds until `n` of the running answers have ended, or all of them; None while nothing is measured."""
        sums = self._now(others)
        left = sorted(_left(other, sums) for other in others if other.started)
        return left[min(n, len(left)) - 1] if left and sums.intervals else None

    def _now(self, others: Seq[Sequence]) -> _Sums:
        """The sums of the past and of the answers that have not ended."""
        sums = self._past
        for other in others:
            if other.started:
                sums = sums.plus(other.so_far(), ended=False)
        return sums

    def _places(self, others: Seq[Sequence]) -> _Queue:
        """Of each waiting answer: its position, and the seconds until a slot is free and those in front have theirs.

        Estimated for all at once: hundreds may wait and ask.
        """
        sums = self._now(others)
        running = [other for other in others if other.started]
        free = [0.0] * (self._slots - len(running)) + [_left(sequence, sums) for sequence in running]
        heapq.heapify(free)
        places: _Queue = {}
        for position, sequence in enumerate((other for other in others if not other.started), 1):
            places[sequence] = (position, free[0] if sums.intervals else None)
            heapq.heapreplace(free, free[0] + _whole(sequence, sums))
        self._told = (self._clock(), places)
        return places


def _whole(sequence: Sequence, sums: _Sums) -> float:
    """Seconds that an answer will need that has no slot yet."""
    return _writing(sequence, 0, sums) + len(sequence.job.prompt.ids) * (
        sums.prefill_s / sums.prompt if sums.prompt else 0.0
    )


def _writing(sequence: Sequence, written: int, sums: _Sums) -> float:
    """Seconds until an answer is written of which so many tokens are."""
    length = sums.length / sums.ended if sums.ended else _LENGTH
    tokens = min(sequence.job.max_new_tokens - written, length)
    return tokens * sums.decode_s / sums.intervals if sums.intervals else 0.0


def _left(sequence: Sequence, sums: _Sums) -> float:
    """Seconds that an answer still needs that has a slot."""
    stats = sequence.so_far()
    seconds = _writing(sequence, stats.completion_tokens, sums)
    if not stats.completion_tokens and sums.computed:
        seconds += (stats.prompt_tokens + sequence.job.n_front - sequence.n_past) * sums.prefill_s / sums.computed
    return seconds
