"""Which tokens go into the next batch: the one token of every answer being written, then slices of waiting prompts.

Runs in the engine's thread alone, one `step` after the other. Answers enter in the order they came. When the cache is
full, the youngest answer gives its cells back and waits to be computed again; what its reader has got stays valid.
"""

from __future__ import annotations

from collections import deque

from ..errors import EngineError, GlmEdgeError
from ..llama import Batch, Context
from .answer import Answer

# Prompt tokens in a batch that also carries tokens of answers being written: they wait for it.
_SLICE = 32


class Scheduler:
    """Args:
    slots: answers computed at the same time, each in a sequence of its own.
    """

    def __init__(self, context: Context, batch: Batch, slots: int) -> None:
        self._context = context
        self._batch = batch
        self._free = list(range(slots))  # sequences without an answer
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []  # in the order they were admitted

    def add(self, answer: Answer) -> None:
        self._waiting.append(answer)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def running(self) -> tuple[Answer, ...]:
        return tuple(self._running)

    def admit(self) -> None:
        """Drop what was cancelled, then give free sequences to those who wait."""
        for answer in [a for a in self._running if a.cancelled]:
            answer.finish("cancelled")
            self._release(answer)
        for answer in [a for a in self._waiting if a.cancelled]:
            answer.finish("cancelled")
            self._waiting.remove(answer)
        while self._waiting and self._free:
            answer = self._waiting.popleft()
            answer.sequence = self._free.pop(0)
            self._running.append(answer)

    def step(self) -> None:
        """Compute one batch and draw a token for every answer whose tokens are then all in the cache."""
        drawing = self._fill()
        result = self._context.decode(self._batch)
        if result == "full":
            self._preempt()
        if result != "done":  # aborted: everyone in the batch is cancelled, and goes at the next admit
            return
        for answer, n, index in drawing:
            answer.n_past += n
            if answer.pending == 0:
                answer.accept(answer.sampler.sample(self._context.logits(index)))
            if answer.finished:
                self._release(answer)

    def end_all(self, error: GlmEdgeError) -> None:
        """Fail every answer, running or waiting."""
        for answer in [*self._running, *self._waiting]:
            answer.fail(error)
        self._waiting.clear()
        for answer in list(self._running):
            self._release(answer)

    def _fill(self) -> list[tuple[Answer, int, int]]:
        """Put tokens into the batch; returns (answer, how many of its tokens, index of the last) for each."""
        self._batch.clear()
        writing = [a for a in self._running if a.pending == 1]
        reading = [a for a in self._running if a.pending > 1]
        budget = min(_SLICE, self._batch.capacity - len(writing)) if writing else self._batch.capacity
        taken = [(a, 1) for a in writing]
        for answer in reading:
            n = min(answer.pending, budget)
            budget -= n
            if n:
                taken.append((answer, n))
        return [(answer, n, self._put(answer, n)) for answer, n in taken]

    def _put(self, answer: Answer, n: int) -> int:
        answer.start()
        index = -1
        for position in range(answer.n_past, answer.n_past + n):
            last = position == len(answer.tokens) - 1
            index = self._batch.add(answer.tokens[position], position, answer.sequence, logits=last)
        return index

    def _preempt(self) -> None:
        """The cache is full: the youngest answer gives its cells back and waits in front of the others."""
        if len(self._running) < 2:
            raise EngineError("the cache has no room for a prompt that was checked to fit it")
        answer = self._running[-1]
        self._release(answer)
        answer.n_past = 0
        self._waiting.appendleft(answer)

    def _release(self, answer: Answer) -> None:
        self._context.remove(answer.sequence)
        self._running.remove(answer)
        self._free.append(answer.sequence)
        answer.sequence = -1
