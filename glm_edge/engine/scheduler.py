"""Which tokens go into the next batch: the one token of every answer being written, then slices of waiting prompts.

Runs in the engine's thread alone, one `step` after the other. Answers enter in the order they came; one whose prompt
begins like a prompt being computed waits for that, because the beginning is then free. When the cache is full, the
youngest answer gives its cells back and waits, which its reader notices only by the time it takes.

Attention passes over every cell that is used, whoever's it is: with 6,656 cells of others a prompt is read at 0.61 of
the speed, an answer written at 0.84 (full size). So an answer that has ended stays in the cache only until another one
begins; unless that one goes on from it, it moves to the store, which takes 5 ms for 512 tokens, and 31 ms back.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from ..errors import EngineError, GlmEdgeError
from ..llama.binding import Batch, Context
from .latency import ROW, Costs
from .prefix_cache.prefix import common_prefix
from .prefix_cache.store import PIECE, WORTH_WRITING, Store
from .sequence import Answer

_PATIENCE_S = 1.0  # how long answers being written may wait for the slices of prompts in one batch
_SLICE = 16  # prompt tokens beside them while nothing is known of the speed
_WORTH_WAITING = 16  # tokens that another prompt is about to compute for us
_WORTH_READING = 16  # tokens that the store holds and the cache does not


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
    store: prefixes outside of the cache.
    lookup: whether tokens are drafted from the prompt where that pays.
    rows_of_four: whether the weights are repacked; see `costs.py`.
    """

    def __init__(
        self,
        context: Context,
        batch: Batch,
        slots: int,
        store: Store,
        *,
        lookup: bool = True,
        rows_of_four: bool = False,
    ) -> None:
        self._context = context
        self._batch = batch
        self._slots = slots
        self._free = list(range(sequences(slots)))
        self._store = store
        self._kept: tuple[int, list[int]] | None = None  # sequence and tokens of the answer that ended last
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []  # in the order they were admitted
        self._full = False  # an answer was sent back: admit nobody until another ends
        self._lookup = lookup
        self._costs = Costs(rows_of_four=rows_of_four)

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
        filled = self._fill_up(shares)
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
            elif self._store.writes and share.answer.n_past - share.answer.n_stored >= PIECE:
                self._save(share.answer.sequence, share.answer.computed, PIECE)
                share.answer.n_stored = share.answer.n_past
        if filled and not (last := shares[-1].answer).finished:
            self._context.remove(last.sequence, last.n_past)

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
        answer.sequence = self._free.pop()
        source, length = self._longest(answer)
        if length > 0:
            self._context.copy(source, answer.sequence, 0, length)
        answer.cached(length)
        self._running.append(answer)
        self._put_aside()
        self._read_stored(answer)

    def _longest(self, answer: Answer) -> tuple[int, int]:
        """(sequence, length) of the longest prefix in the cache; the last token is always computed, for its logits."""
        there = [(other.sequence, other.computed) for other in self._running]
        if self._kept is not None:
            there.append(self._kept)
        lengths = [(common_prefix(tokens, answer.tokens), sequence) for sequence, tokens in there]
        length, source = max(lengths, default=(0, -1))
        return source, min(length, len(answer.tokens) - 1)

    def _read_stored(self, answer: Answer) -> None:
        """Take what the store has more of the prompt's beginning than the cache, where that is worth it."""
        most = len(answer.tokens) - 1
        found = self._store.find(answer.tokens)
        if not found or min(found[-1][1], most) - answer.n_past < _WORTH_READING:
            return
        for piece, position in found:
            end = min(position, most)
            if end <= answer.n_past:
                continue
            state = self._store.load(piece)
            if state is None or not self._context.restore(answer.sequence, state, answer.n_past, end):
                return
            answer.cached(end)

    def _fill(self) -> list[_Share]:
        """Put tokens into the batch."""
        self._batch.clear()
        writing = [a for a in self._running if a.pending == 1]
        reading = [a for a in self._running if a.pending > 1]
        if self._lookup and len(self._running) == len(writing) == 1:
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
        affordable = int(_PATIENCE_S / self._costs.token_s) if self._costs.token_s else _SLICE
        return max(1, min(room, affordable - (affordable + writing) % ROW))

    def _fill_up(self, shares: list[_Share]) -> bool:
        """Add rows that nobody asked for, where that is quicker: tokens after those of the last share, without use."""
        n, last = len(self._batch), shares[-1]
        free = self._context.n_ctx - sum(len(answer.tokens) for answer in self._running) - len(last.draft)
        rows = self._costs.rows(n, prompt=any(share.n > 1 for share in shares))
        if not n < rows <= min(n + free, self._batch.capacity):
            return False
        position = last.answer.n_past + last.n + len(last.draft)
        for i in range(rows - n):
            self._batch.add(last.answer.tokens[-1], position + i, last.answer.sequence, logits=False)
        return True

    def _measure(self, shares: list[_Share], seconds: float) -> None:
        """Learn what batches cost: those of answers by their size, those that are mostly prompt for the slices."""
        n = len(self._batch)
        if all(share.n == 1 for share in shares):
            self._costs.measure(n, seconds)
        elif n >= _SLICE:
            self._costs.measure_prompt(n, seconds)

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
        """The cache is full: the kept answer goes, or the youngest running one is sent back."""
        if self._kept is not None:
            self._give_up_kept()
            return
        if len(self._running) < 2:
            raise EngineError("the cache has no room for a prompt that was checked to fit it")
        answer = self._running.pop()
        self._save(answer.sequence, answer.computed, 1)
        self._context.remove(answer.sequence)
        self._free.append(answer.sequence)
        answer.sent_back()
        self._waiting.appendleft(answer)
        self._full = True

    def _release(self, answer: Answer) -> None:
        """The answer has ended: what was computed for it stays in the cache while nobody else is there."""
        self._running.remove(answer)
        self._full = False
        self._context.remove(answer.sequence, answer.n_past)  # an aborted batch may have left more
        if self._store.writes:
            self._save(answer.sequence, answer.computed, WORTH_WRITING)
        self._give_up_kept()
        self._kept = answer.sequence, answer.computed
        if self._running:
            self._put_aside()

    def _put_aside(self) -> None:
        """Move the kept answer out of the cache; what the store cannot take whole stays until its cells are needed."""
        if self._kept is None:
            return
        sequence, tokens = self._kept
        shared = any(common_prefix(answer.computed, tokens) == len(tokens) for answer in self._running)
        if shared or self._save(sequence, tokens, 1):
            self._give_up_kept()

    def _give_up_kept(self) -> None:
        if self._kept is not None:
            sequence, _ = self._kept
            self._context.remove(sequence)
            self._free.append(sequence)
            self._kept = None

    def _save(self, sequence: int, tokens: list[int], least: int) -> bool:
        """Put `tokens`, which the sequence holds, into the store where that lacks at least `least` of them.

        Returns whether it lacks fewer then.
        """
        key: bytes | None
        key, start, known = self._store.end(tokens)
        if len(tokens) - known < least:
            return True
        while key is not None and len(tokens) - start >= least:
            end = start + PIECE
            if WORTH_WRITING <= known - start < PIECE:  # a piece ends where others part, so that they can share it
                end = known
            if len(tokens) < end + WORTH_WRITING:  # no tail where the piece may be larger instead
                end = len(tokens)
            key = self._store.put(key, start, tokens[start:end], self._context.state(sequence, start, end))
            start = end
        return key is not None


def sequences(slots: int) -> int:
    """Sequences of the cache that a scheduler with so many slots uses."""
    return slots + 1
