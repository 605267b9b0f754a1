"""Which tokens go into the next batch: the one token of every answer being written, then slices of waiting prompts.

Runs in the engine's thread alone, one `step` after the other. Answers enter in the order they came; one whose prompt
begins like a prompt being computed waits for that, because the beginning is then free. When the cache is full, kept
prefixes go first; then the youngest answer gives its cells back and waits to be computed again, which its reader
notices only by the time it takes.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from ..errors import EngineError, GlmEdgeError
from ..llama import Batch, Context
from .answer import Answer
from .lookup import Costs
from .prefixes import Prefixes, common_prefix
from .store import Store

_KEPT = 16  # prefixes kept at most, beside the answers being computed
_PATIENCE_S = 1.0  # how long answers being written may wait for the slices of prompts in one batch
_SLICE = 16  # prompt tokens beside them while nothing is known of the speed
_WORTH_WAITING = 16  # tokens that another prompt is about to compute for us
_WORTH_READING = 64  # tokens that a file holds and the cache does not
_WORTH_SAVING = 128  # tokens that the cache holds and no file does


@dataclass(frozen=True)
class _Share:
    """What one answer has in a batch."""

    answer: Answer
    n: int  # its own tokens
    index: int  # of the last of them in the batch
    draft: list[int]  # tokens after it that may turn out right


class Scheduler:
    """Args:
    slots: answers computed at the same time.
    context: with `sequences(slots)` sequences.
    store: prefixes on disk, if there are any.
    lookup: whether tokens are drafted from the prompt where that pays.
    """

    def __init__(
        self, context: Context, batch: Batch, slots: int, store: Store | None = None, *, lookup: bool = True
    ) -> None:
        self._context = context
        self._batch = batch
        self._slots = slots
        self._free = list(range(sequences(slots)))
        self._prefixes = Prefixes(context)
        self._store = store
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []  # in the order they were admitted
        self._full = False  # an answer was sent back: admit nobody until another ends
        self._costs = Costs() if lookup else None
        self._token_s = 0.0  # seconds a prompt token takes, running mean; 0 while unknown

    def add(self, answer: Answer) -> None:
        self._waiting.append(answer)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def running(self) -> tuple[Answer, ...]:
        return tuple(self._running)

    def admit(self) -> None:
        """Drop what was cancelled, then start those who wait, while there are slots."""
        for answer in [a for a in self._running if a.cancelled]:
            answer.finish("cancelled")
            self._release(answer)
        for answer in [a for a in self._waiting if a.cancelled]:
            answer.finish("cancelled")
            self._waiting.remove(answer)
        for answer in list(self._waiting):
            if len(self._running) >= self._slots or self._full:
                return
            if not self._shall_wait(answer):
                self._waiting.remove(answer)
                self._start(answer)

    def step(self) -> None:
        """Compute one batch and draw a token for every answer whose tokens are then all in the cache."""
        shares = self._fill()
        began = time.monotonic()
        result = self._context.decode(self._batch)
        if result == "full":
            self._make_room()
        if result != "done":  # aborted: those in the batch that are not cancelled are computed again
            return
        self._measure(shares, time.monotonic() - began)
        for share in shares:
            try:
                self._draw(share)
            except GlmEdgeError as error:  # of this answer's own logits, grammar or penalties: the others go on
                share.answer.fail(error)
                share.answer.n_past = 0  # nothing of it is kept
            if share.answer.finished:
                self._release(share.answer)

    def end_all(self, error: GlmEdgeError) -> None:
        """Fail every answer, running or waiting."""
        for answer in [*self._running, *self._waiting]:
            answer.fail(error)
        self._running.clear()
        self._waiting.clear()

    def _shall_wait(self, answer: Answer) -> bool:
        """Whether a prompt being computed now will give this one more of its beginning than there is yet."""
        for other in self._running:
            coming = common_prefix(other.tokens, answer.tokens)
            if other.pending > 1 and coming - other.n_past >= _WORTH_WAITING:
                return True
        return False

    def _start(self, answer: Answer) -> None:
        """Give the answer a sequence, with the longest prefix of its prompt that is known."""
        if not self._free:
            self._evict()
        answer.sequence = self._free.pop()
        _, known = self._longest(answer)
        if not self._read_stored(answer, known):
            source, length = self._longest(answer)  # again: reading may have cost kept prefixes
            if length > 0:
                self._context.copy(source, answer.sequence, length)
                answer.cached(length)
        self._running.append(answer)

    def _longest(self, answer: Answer) -> tuple[int, int]:
        """(sequence, length) of the longest prefix in the cache; the last token is always computed, for its logits."""
        source, length = self._prefixes.longest(answer.tokens)
        for other in self._running:
            n = min(common_prefix(other.tokens, answer.tokens), other.n_past)
            if n > length:
                source, length = other.sequence, n
        return source, min(length, len(answer.tokens) - 1)

    def _read_stored(self, answer: Answer, known: int) -> bool:
        """Take the prompt's beginning from disk, where that has enough more of it than the `known` tokens here."""
        if self._store is None:
            return False
        stored = self._store.load(answer.tokens, known + _WORTH_READING)
        if stored is None:
            return False
        while not self._context.restore(answer.sequence, stored.state):
            if not self._evict():
                if not self._running:  # the whole cache was free: it is the state that is no good
                    self._store.forget(stored.file)
                return False
        length = min(stored.length, len(answer.tokens) - 1)
        self._context.remove(answer.sequence, length)
        answer.cached(length)
        return True

    def _fill(self) -> list[_Share]:
        """Put tokens into the batch."""
        self._batch.clear()
        writing = [a for a in self._running if a.pending == 1]
        reading = [a for a in self._running if a.pending > 1]
        if self._costs is not None and len(self._running) == len(writing) == 1:
            return [self._put(writing[0], 1, writing[0].draft(self._costs, self._batch.capacity - 1))]
        shares = [self._put(answer, 1) for answer in writing]
        budget = self._budget(len(writing))
        # the shortest first: a long prompt takes its time anyway, a short one should not wait for it
        for answer in sorted(reading, key=lambda a: a.pending):
            n = min(answer.pending, budget)
            budget -= n
            if n:
                shares.append(self._put(answer, n))
        return shares

    def _budget(self, writing: int) -> int:
        """Prompt tokens that go into the next batch beside `writing` answers."""
        room = self._batch.capacity - writing
        if not writing:
            return room
        affordable = int(_PATIENCE_S / self._token_s) if self._token_s else _SLICE
        return max(1, min(room, affordable - affordable % 4))  # the kernels work in rows of 4

    def _measure(self, shares: list[_Share], seconds: float) -> None:
        """Learn what batches cost: those of one answer for lookup, those that are mostly prompt for the slices."""
        n = len(self._batch)
        if self._costs is not None and len(shares) == 1 and n == 1 + len(shares[0].draft):
            self._costs.measure(n, seconds)
        elif n >= _SLICE:
            self._token_s = seconds / n if not self._token_s else 0.7 * self._token_s + 0.3 * seconds / n

    def _put(self, answer: Answer, n: int, draft: list[int] | None = None) -> _Share:
        """Add the answer's next `n` tokens, and a draft of those after them."""
        answer.start(n)
        draft = draft or []
        tokens = [*answer.tokens[answer.n_past : answer.n_past + n], *draft]
        last = len(answer.tokens) - 1
        for position, token in enumerate(tokens, answer.n_past):
            self._batch.add(token, position, answer.sequence, logits=position >= last)
        return _Share(answer, n, len(self._batch) - 1 - len(draft), draft)

    def _draw(self, share: _Share) -> None:
        """Count what the batch computed; draw the next token, and one more for every token of the draft that held."""
        answer = share.answer
        answer.n_past += share.n
        if answer.pending:
            return
        held = 0
        while not answer.finished:
            token = answer.sampler.sample(self._context.logits(share.index + held))
            answer.accept(token)
            if held == len(share.draft) or token != share.draft[held]:
                break
            held += 1
            answer.n_past += 1
        if share.draft:
            answer.verified(len(share.draft), held)
            self._context.remove(answer.sequence, answer.n_past)

    def _make_room(self) -> None:
        """The cache is full: a kept prefix goes, or the youngest answer is sent back."""
        if self._evict():
            return
        if len(self._running) < 2:
            raise EngineError("the cache has no room for a prompt that was checked to fit it")
        answer = self._running.pop()
        self._context.remove(answer.sequence)
        self._free.append(answer.sequence)
        answer.sent_back()
        self._waiting.appendleft(answer)
        self._full = True

    def _evict(self) -> bool:
        sequence = self._prefixes.evict()
        if sequence is None:
            return False
        self._free.append(sequence)
        return True

    def _release(self, answer: Answer) -> None:
        """The answer has ended: keep what is in the cache of it."""
        self._running.remove(answer)
        self._full = False
        self._context.remove(answer.sequence, answer.n_past)  # an aborted batch may have left more
        if not answer.n_past:
            self._free.append(answer.sequence)
            return
        self._save(answer)
        self._free += self._prefixes.keep(answer.sequence, answer.tokens[: answer.n_past])
        if len(self._prefixes) > _KEPT:
            self._evict()

    def _save(self, answer: Answer) -> None:
        if self._store is None:
            return
        tokens = answer.tokens[: answer.n_past]
        if len(tokens) - self._store.longest(tokens) >= _WORTH_SAVING:
            self._store.save(tokens, self._context.state(answer.sequence))


def sequences(slots: int) -> int:
    """Sequences of the cache that a scheduler with so many slots uses."""
    return slots + _KEPT + 1
