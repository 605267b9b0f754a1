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
from ..llama.context import Batch, Context
from .latency import ROW, LatencyModel
from .prefix_cache.prefix import common_prefix
from .prefix_cache.store import BLOCK_TOKENS, LEAST_WRITTEN, Store
from .sequence import Sequence

_PATIENCE_S = 1.0  # how long answers being written may wait for the slices of prompts in one batch
_SLICE = 16  # prompt tokens beside them while nothing is known of the speed
_WORTH_WAITING = 16  # tokens that another prompt is about to compute for us
_WORTH_READING = 16  # tokens that the store holds and the cache does not


@dataclass(frozen=True)
class BatchSlice:
    """What one answer has in a batch."""

    sequence: Sequence
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
        self._free = list(range(sequence_count(slots)))
        self._store = store
        self._cached: tuple[int, list[int]] | None = None  # sequence and tokens of the answer that ended last
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in the order they were admitted
        self._full = False  # an answer was sent back: admit nobody until another ends
        self._lookup = lookup
        self._latency = LatencyModel(rows_of_four=rows_of_four)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def running(self) -> tuple[Sequence, ...]:
        return tuple(self._running)

    def admit(self) -> None:
        """Drop what was cancelled, then start those who wait, while there are slots."""
        for sequence in [a for a in self._running if a.cancelled]:
            sequence.finish("cancelled")
            self._release(sequence)
        for sequence in [a for a in self._waiting if a.cancelled]:
            sequence.finish("cancelled")
            self._waiting.remove(sequence)
        for sequence in list(self._waiting):
            if len(self._running) >= self._slots or self._full:
                return
            if not self._waits_for_prefix(sequence):
                self._waiting.remove(sequence)
                self._start(sequence)

    def step(self) -> None:
        """Compute one batch and draw a token for every answer whose tokens are then all in the cache."""
        slices = self._fill()
        filled = self._fill_up(slices)
        began = time.monotonic()
        result = self._context.decode(self._batch)
        if result == "full":
            self._make_room()
        if result != "done":  # aborted: those in the batch that are not cancelled are computed again
            return
        self._measure(slices, time.monotonic() - began)
        for slice_ in slices:
            try:
                self._draw(slice_)
            except GlmEdgeError as error:  # of this answer's own logits, grammar or penalties: the others go on
                slice_.sequence.fail(error)
                slice_.sequence.n_past = 0  # nothing of it is kept
            if slice_.sequence.finished:
                self._release(slice_.sequence)
            elif self._store.writes and slice_.sequence.n_past - slice_.sequence.n_stored >= BLOCK_TOKENS:
                self._save(slice_.sequence.seq_id, slice_.sequence.computed, BLOCK_TOKENS)
                slice_.sequence.n_stored = slice_.sequence.n_past
        if filled and not (last := slices[-1].sequence).finished:
            self._context.remove(last.seq_id, last.n_past)

    def end_all(self, error: GlmEdgeError) -> None:
        """Fail every answer, running or waiting."""
        for sequence in [*self._running, *self._waiting]:
            sequence.fail(error)
        self._running.clear()
        self._waiting.clear()

    def _waits_for_prefix(self, sequence: Sequence) -> bool:
        """Whether a prompt being computed now will give this one more of its beginning than there is yet."""
        for other in self._running:
            coming = common_prefix(other.tokens, sequence.tokens)
            if other.pending > 1 and coming - other.n_past >= _WORTH_WAITING:
                return True
        return False

    def _start(self, sequence: Sequence) -> None:
        """Give the answer a sequence, with the longest prefix of its prompt that is known."""
        sequence.seq_id = self._free.pop()
        source, length = self._longest(sequence)
        if length > 0:
            self._context.copy(source, sequence.seq_id, 0, length)
        sequence.cached(length)
        self._running.append(sequence)
        self._offload()
        self._read_stored(sequence)

    def _longest(self, sequence: Sequence) -> tuple[int, int]:
        """(sequence, length) of the longest prefix in the cache; the last token is always computed, for its logits."""
        there = [(other.seq_id, other.computed) for other in self._running]
        if self._cached is not None:
            there.append(self._cached)
        lengths = [(common_prefix(tokens, sequence.tokens), seq_id) for seq_id, tokens in there]
        length, source = max(lengths, default=(0, -1))
        return source, min(length, len(sequence.tokens) - 1)

    def _read_stored(self, sequence: Sequence) -> None:
        """Take what the store has more of the prompt's beginning than the cache, where that is worth it."""
        most = len(sequence.tokens) - 1
        found = self._store.find(sequence.tokens)
        if not found or min(found[-1][1], most) - sequence.n_past < _WORTH_READING:
            return
        for piece, position in found:
            end = min(position, most)
            if end <= sequence.n_past:
                continue
            state = self._store.load(piece)
            if state is None or not self._context.restore(sequence.seq_id, state, sequence.n_past, end):
                return
            sequence.cached(end)

    def _fill(self) -> list[BatchSlice]:
        """Put tokens into the batch."""
        self._batch.clear()
        writing = [a for a in self._running if a.pending == 1]
        reading = [a for a in self._running if a.pending > 1]
        if self._lookup and len(self._running) == len(writing) == 1:
            return [self._put(writing[0], 1, writing[0].draft(self._latency, self._batch.capacity - 1))]
        slices = [self._put(sequence, 1) for sequence in writing]
        budget = self._budget(len(writing))
        # the shortest first: a long prompt takes its time anyway, a short one should not wait for it
        for sequence in sorted(reading, key=lambda a: a.pending):
            n = min(sequence.pending, budget)
            budget -= n
            if n:
                slices.append(self._put(sequence, n))
        return slices

    def _budget(self, writing: int) -> int:
        """Prompt tokens that go into the next batch beside `writing` answers."""
        room = self._batch.capacity - writing
        if not writing:
            return room
        affordable = int(_PATIENCE_S / self._latency.token_s) if self._latency.token_s else _SLICE
        return max(1, min(room, affordable - (affordable + writing) % ROW))

    def _fill_up(self, slices: list[BatchSlice]) -> bool:
        """Add rows that nobody asked for, where that is quicker: tokens after those of the last share, without use."""
        n, last = len(self._batch), slices[-1]
        free = self._context.n_ctx - sum(len(sequence.tokens) for sequence in self._running) - len(last.draft)
        rows = self._latency.rows(n, prompt=any(slice_.n > 1 for slice_ in slices))
        if not n < rows <= min(n + free, self._batch.capacity):
            return False
        position = last.sequence.n_past + last.n + len(last.draft)
        for i in range(rows - n):
            self._batch.add(last.sequence.tokens[-1], position + i, last.sequence.seq_id, logits=False)
        return True

    def _measure(self, slices: list[BatchSlice], seconds: float) -> None:
        """Learn what batches cost: those of answers by their size, those that are mostly prompt for the slices."""
        n = len(self._batch)
        if all(slice_.n == 1 for slice_ in slices):
            self._latency.measure(n, seconds)
        elif n >= _SLICE:
            self._latency.measure_prompt(n, seconds)

    def _put(self, sequence: Sequence, n: int, draft: list[int] | None = None) -> BatchSlice:
        """Add the answer's next `n` tokens, and a draft of those after them."""
        sequence.start(n)
        draft = draft or []
        tokens = [*sequence.tokens[sequence.n_past : sequence.n_past + n], *draft]
        last = len(sequence.tokens) - 1
        for position, token in enumerate(tokens, sequence.n_past):
            self._batch.add(token, position, sequence.seq_id, logits=position >= last)
        return BatchSlice(sequence, n, len(self._batch) - 1 - len(draft), draft)

    def _draw(self, slice_: BatchSlice) -> None:
        """Count what the batch computed; draw the next token, and one more for every token of the draft that held."""
        sequence = slice_.sequence
        sequence.n_past += slice_.n
        if sequence.pending:
            return
        held = 0
        while not sequence.finished:
            token = sequence.sampler.sample(self._context.logits(slice_.index + held))
            sequence.accept(token)
            if held == len(slice_.draft) or token != slice_.draft[held]:
                break
            held += 1
            sequence.n_past += 1
        if slice_.draft:
            sequence.verified(len(slice_.draft), held)
            self._context.remove(sequence.seq_id, sequence.n_past)

    def _make_room(self) -> None:
        """The cache is full: the kept answer goes, or the youngest running one is sent back."""
        if self._cached is not None:
            self._evict_cached()
            return
        if len(self._running) < 2:
            raise EngineError("the cache has no room for a prompt that was checked to fit it")
        sequence = self._running.pop()
        self._save(sequence.seq_id, sequence.computed, 1)
        self._context.remove(sequence.seq_id)
        self._free.append(sequence.seq_id)
        sequence.preempt()
        self._waiting.appendleft(sequence)
        self._full = True

    def _release(self, sequence: Sequence) -> None:
        """The answer has ended: what was computed for it stays in the cache while nobody else is there."""
        self._running.remove(sequence)
        self._full = False
        self._context.remove(sequence.seq_id, sequence.n_past)  # an aborted batch may have left more
        if self._store.writes:
            self._save(sequence.seq_id, sequence.computed, LEAST_WRITTEN)
        self._evict_cached()
        self._cached = sequence.seq_id, sequence.computed
        if self._running:
            self._offload()

    def _offload(self) -> None:
        """Move the kept answer out of the cache; what the store cannot take whole stays until its cells are needed."""
        if self._cached is None:
            return
        seq_id, tokens = self._cached
        shared = any(common_prefix(sequence.computed, tokens) == len(tokens) for sequence in self._running)
        if shared or self._save(seq_id, tokens, 1):
            self._evict_cached()

    def _evict_cached(self) -> None:
        if self._cached is not None:
            seq_id, _ = self._cached
            self._context.remove(seq_id)
            self._free.append(seq_id)
            self._cached = None

    def _save(self, seq_id: int, tokens: list[int], least: int) -> bool:
        """Put `tokens`, which the sequence holds, into the store where that lacks at least `least` of them.

        Returns whether it lacks fewer then.
        """
        key: bytes | None
        key, start, known = self._store.end(tokens)
        if len(tokens) - known < least:
            return True
        while key is not None and len(tokens) - start >= least:
            end = start + BLOCK_TOKENS
            if (
                LEAST_WRITTEN <= known - start < BLOCK_TOKENS
            ):  # a piece ends where others part, so that they can share it
                end = known
            if len(tokens) < end + LEAST_WRITTEN:  # no tail where the piece may be larger instead
                end = len(tokens)
            key = self._store.put(key, start, tokens[start:end], self._context.state(seq_id, start, end))
            start = end
        return key is not None


def sequence_count(slots: int) -> int:
    """Sequences of the cache that a scheduler with so many slots uses."""
    return slots + 1
