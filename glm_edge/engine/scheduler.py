"""Which tokens go into the next batch: the next token of every answer being written, then slices of prompts.

Runs in the engine's thread alone, one `step` after the other. Answers start in order of arrival. One whose prompt
begins like a prompt that is being computed waits for it, because the shared beginning is then free. When the cache is
full, the youngest answer is preempted: it gives its cells back and waits. Its reader notices only the delay.
Not here: what of the cache is reused, offloaded and restored (`kv_cache.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import EngineError, GlmEdgeError, IntegrityError
from ..llama.context import Batch, Context
from .drafts import MAX_DRAFT, Histories, choose
from .kv_cache import KvCache
from .latency import SLICE, LatencyModel
from .prefix_cache.prefix import common_prefix
from .prefix_cache.store import Store
from .sequence import Sequence

SCORED_TOKENS = 32  # of prompts in one batch: each takes logits, 0.26 MB
_WORTH_WAITING = 16  # tokens that another prompt is about to compute for this one too


@dataclass(frozen=True)
class BatchSlice:
    """The tokens of one answer in a batch."""

    sequence: Sequence
    n: int  # its own tokens
    index: int  # of the last of them in the batch
    draft: list[int]  # drafted tokens after it, to be verified


class Scheduler:
    """The scheduler of one context: its waiting and running answers, and its KV cache.

    Args:
        context: with `sequence_count(slots)` sequences.
        slots: answers computed at the same time.
        store: prefixes outside of the cache.
        lookup: whether tokens are drafted where that is faster.
        latency: what batches cost; learns from every step.
        clock: seconds, of which only differences count.
    """

    def __init__(
        self,
        context: Context,
        batch: Batch,
        slots: int,
        store: Store,
        *,
        lookup: bool = True,
        latency: LatencyModel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._batch = batch
        self._slots = slots
        self._cache = KvCache(context, slots, store)
        self._waiting: deque[Sequence] = deque()
        self.cancels = False  # whether one of them may be cancelled; set in any thread
        self._running: list[Sequence] = []  # in the order they were admitted
        self._full = False  # an answer was preempted: admit no other until one ends
        self._lookup = lookup
        self._histories = Histories()
        self._latency = latency or LatencyModel()
        self._clock = clock

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)
        if sequence.cancelled:
            self.cancels = True

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def running(self) -> tuple[Sequence, ...]:
        return tuple(self._running)

    def layout(self) -> list[tuple[int, list[int]]]:
        """(sequence id, tokens that the cache should hold of it) of every sequence, free ones included."""
        return self._cache.layout(self._running)

    def admit(self) -> None:
        """End cancelled answers, then start waiting ones while there are slots."""
        for sequence in [a for a in self._running if a.cancelled]:
            sequence.finish("cancelled")
            self._release(sequence)
        if self.cancels:  # hundreds may wait, and a step may take less than to look at them all
            self.cancels = False
            for sequence in [a for a in self._waiting if a.cancelled]:
                sequence.finish("cancelled")
                self._waiting.remove(sequence)
        for sequence in list(self._waiting):
            if len(self._running) >= self._slots or self._full:
                return
            if not self._waits_for_prefix(sequence):
                self._waiting.remove(sequence)
                others = tuple(self._running)
                self._running.append(sequence)  # first, so that end_all reaches it whatever happens
                if not self._cache.start(sequence, others):
                    self._put_back(sequence)

    def step(self) -> None:
        """Compute one batch; sample a token for every answer whose tokens are then all in the cache."""
        slices = self._fill()
        padded = self._pad(slices)
        began = self._clock()
        result = self._context.decode(self._batch)
        if result == "full":
            self._make_room()
        elif result == "aborted":  # what is not cancelled is computed again
            for part in slices:
                self._cache.trim(part.sequence)
        if result != "done":
            return
        self._measure(slices, self._clock() - began)
        failed: list[tuple[Sequence, GlmEdgeError]] = []
        for part in slices:
            sequence = part.sequence
            try:
                self._sample(part)
            except GlmEdgeError as error:
                failed.append((sequence, error))
                continue
            if sequence.finished:
                self._release(sequence)
            else:
                self._cache.checkpoint(sequence)
        self._end_failed(failed)
        if padded and not (last := slices[-1].sequence).finished:
            self._cache.trim(last)

    def _end_failed(self, failed: list[tuple[Sequence, GlmEdgeError]]) -> None:
        """End answers that failed by their own logits, format or penalties; the others go on.

        Raises IntegrityError, and ends none, if it was not their own fault.
        """
        if failed and not self._context.gives_numbers(self._batch, failed[0][0].tokens[-1]):
            raise IntegrityError(
                "the model gives no numbers any more: its file was overwritten or the memory is damaged; put the model"
                " file back, or look for the damage with glm-edge verify"
            )
        for sequence, error in failed:
            sequence.fail(error)
            self.cancels = True  # its siblings
            sequence.n_past = 0  # its cells are not reused
            self._release(sequence)

    def end_all(self, error: GlmEdgeError) -> None:
        """Fail every answer, running or waiting."""
        for sequence in [*self._running, *self._waiting]:
            sequence.fail(error)
        self._running.clear()
        self._waiting.clear()

    def _waits_for_prefix(self, sequence: Sequence) -> bool:
        """Whether a prompt that is being computed will soon give this one more of its beginning."""
        if sequence.scoring:
            return False
        for other in (other for other in self._running if other.scope == sequence.scope):
            coming = common_prefix(other.tokens, sequence.tokens)
            if other.pending > 1 and coming - other.n_past >= _WORTH_WAITING:
                return True
        return False

    def _fill(self) -> list[BatchSlice]:
        """Put tokens into the batch."""
        self._batch.clear()
        writing = [a for a in self._running if a.pending == 1]
        reading = [a for a in self._running if a.pending > 1]
        if self._lookup and not reading:
            return [
                self._put(sequence, 1, draft) for sequence, draft in zip(writing, self._drafts(writing), strict=True)
            ]
        slices = [self._put(sequence, 1) for sequence in writing]
        budget = self._latency.prompt_tokens(len(writing), self._batch.capacity)
        # The shortest first: a long prompt takes its time anyway, a short one should not wait for it. But each gets a
        # share of a quarter, so that short ones without end do not stop a long one.
        share = max(1, budget // (4 * max(1, len(reading))))
        left = budget - share * len(reading)
        scored = SCORED_TOKENS
        for sequence in sorted(reading, key=lambda a: a.pending):
            n = min(sequence.pending, share + max(0, left))
            if sequence.scoring:
                n = min(n, scored)
                scored -= n
            left += share - n
            if n:
                slices.append(self._put(sequence, n))
        return slices

    def _drafts(self, writing: list[Sequence]) -> list[list[int]]:
        """A draft for each answer, where that makes the batch of all faster."""
        limit = max(0, min(MAX_DRAFT, self._batch.capacity - len(writing), self._free_cells()))
        return choose([sequence.guess(limit, self._histories) for sequence in writing], self._latency, limit)

    def _free_cells(self) -> int:
        """Cells that no running answer's tokens take; a lower bound, because answers may share some."""
        return self._context.n_ctx - sum(len(sequence.tokens) for sequence in self._running)

    def _pad(self, slices: list[BatchSlice]) -> bool:
        """Add unused rows where that is faster: tokens after those of the last slice. Returns whether it did."""
        n, last = len(self._batch), slices[-1]
        free = self._free_cells() - sum(len(part.draft) for part in slices)
        rows = self._latency.rows(n, prompt=any(part.n > 1 for part in slices))
        if not n < rows <= min(n + free, self._batch.capacity):
            return False
        position = last.sequence.n_past + last.n + len(last.draft)
        for i in range(rows - n):
            self._batch.add(last.sequence.tokens[-1], position + i, last.sequence.seq_id, logits=False)
        return True

    def _measure(self, slices: list[BatchSlice], seconds: float) -> None:
        """Learn what a batch cost: by its size if it has only answers, by the token if it is mostly prompt."""
        n = len(self._batch)
        if all(part.n == 1 for part in slices):
            self._latency.measure(n, seconds)
        elif n >= SLICE:
            self._latency.measure_prompt(n, seconds)

    def _put(self, sequence: Sequence, n: int, draft: list[int] | None = None) -> BatchSlice:
        """Add the answer's next `n` tokens to the batch, and a draft of those after them."""
        sequence.start(n)
        draft = draft or []
        tokens = [*sequence.tokens[sequence.n_past : sequence.n_past + n], *draft]
        last, scoring = len(sequence.tokens) - 1, sequence.scoring
        for position, token in enumerate(tokens, sequence.n_past):
            self._batch.add(token, position, sequence.seq_id, logits=scoring or position >= last)
        return BatchSlice(sequence, n, len(self._batch) - 1 - len(draft), draft)

    def _sample(self, part: BatchSlice) -> None:
        """Count what the batch computed; sample the next token, and one more for each accepted token of the draft."""
        sequence = part.sequence
        sequence.n_past += part.n
        if sequence.scoring:
            sequence.score(lambda i: self._context.logits(part.index - part.n + 1 + i), part.n)
        if sequence.pending:
            return
        if not sequence.job.max_new_tokens:
            sequence.finish("length")
            return
        accepted = 0
        while not sequence.finished:
            token = sequence.sampler.sample(self._context.logits(part.index + accepted))
            sequence.accept(token)
            if accepted == len(part.draft) or token != part.draft[accepted]:
                break
            accepted += 1
            sequence.n_past += 1
        if part.draft:
            sequence.verified(len(part.draft), accepted)
            self._cache.trim(sequence)

    def _make_room(self) -> None:
        """The cache is full: evict the cached sequence, or else preempt the youngest running answer."""
        if self._cache.evict():
            return
        if len(self._running) < 2:
            raise EngineError("the cache is full, though the prompt was checked to fit it")
        sequence = self._running[-1]
        self._cache.preempt(sequence)  # first, so that end_all reaches it whatever happens
        self._running.pop()
        self._waiting.appendleft(sequence)
        self._full = True

    def _put_back(self, sequence: Sequence) -> None:
        """Its adapter has no room in the cache: it waits until a running answer has ended."""
        self._running.remove(sequence)
        if not self._running:
            raise EngineError("the cache has no room for an adapter, though it was checked to fit")
        self._waiting.appendleft(sequence)
        self._full = True

    def _release(self, sequence: Sequence) -> None:
        """Free the slot of an ended answer."""
        if self._lookup and not sequence.failed:
            self._histories.add(sequence.scope, sequence.ids, len(sequence.job.prompt.ids))
        self._running.remove(sequence)
        self._full = False
        self._cache.release(sequence, self._running)
