"""The bare loop: llama_decode and a greedy pick, the least that can be done. All above it is the engine's cost."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ...llama.context import Batch, Context
from ...llama.model import Model
from ...model.tensors import Sizes
from ...types import EngineConfig

_FIRST, _SPREAD = 1000, 37  # ids of an arbitrary prompt; their values do not change the amount of work


class Stopped(Exception):
    """A measurement was stopped by `should_abort`."""


class Bare:
    """A bare loop on one sequence, with weights that are loaded already.

    Args:
        n_ctx, n_batch: tokens.
        threads: for single tokens, and for prompts.
        n_outputs: tokens of one batch whose logits are kept, at most.
        should_abort: as Context's. What it stops raises Stopped.
    """

    def __init__(
        self,
        model: Model,
        config: EngineConfig,
        *,
        n_ctx: int,
        n_batch: int,
        threads: tuple[int, int],
        n_outputs: int = 1,
        should_abort: Callable[[object], bool] | None = None,
    ) -> None:
        self._context = Context(
            model,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_sequences=1,
            n_outputs=n_outputs,
            n_threads=threads[0],
            n_threads_batch=threads[1],
            kv_type=config.kv_type,
            flash_attention=bool(config.flash_attention),
            should_abort=should_abort,
        )
        self._batch = Batch(n_batch)
        self._n_vocab = model.n_vocab
        self._n_past = 0
        self._next = 0

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        self._context.set_threads(n_threads, n_threads_batch)

    def prefill(self, n: int, n_batch: int | None = None) -> float:
        """Seconds that `n` more prompt tokens take, in batches of `n_batch`, the pick of the next token included."""
        began = time.perf_counter()
        end = self._n_past + n
        while self._n_past < end:
            size = min(n_batch or self._batch.capacity, end - self._n_past)
            self._batch.clear()
            for i in range(self._n_past, self._n_past + size):
                token = (_FIRST + _SPREAD * i) % self._n_vocab
                index = self._batch.add(token, i, 0, logits=i == end - 1)
            self._compute()
            self._n_past += size
        self._next = int(self._context.logits(index).argmax())
        return time.perf_counter() - began

    def decode(self, n: int) -> float:
        """Seconds that `n` tokens take, each the likeliest by the logits of the one before."""
        began = time.perf_counter()
        for _ in range(n):
            self._batch.clear()
            index = self._batch.add(self._next, self._n_past, 0, logits=True)
            self._compute()
            self._next = int(self._context.logits(index).argmax())
            self._n_past += 1
        return time.perf_counter() - began

    def rows(self, n: int) -> float:
        """Seconds of a batch of `n` tokens, with the logits of each, as that of drafts; it is dropped again."""
        self._batch.clear()
        for i in range(n):
            self._batch.add((_FIRST + _SPREAD * i) % self._n_vocab, self._n_past + i, 0, logits=True)
        began = time.perf_counter()
        self._compute()
        took = time.perf_counter() - began
        self._context.remove(0, self._n_past)
        return took

    def fill(self, n: int, sizes: Sizes) -> None:
        """Have `n` tokens alone in the cache, not computed: what they hold does not change the work."""
        self.cut(0)
        zeros = np.zeros((n, sizes.groups * sizes.head), np.float16)
        self._context.restore(0, self._context.cells([zeros] * sizes.layers, [zeros] * sizes.layers), 0, n)
        self._n_past = n

    def _compute(self) -> None:
        if self._context.decode(self._batch) == "aborted":
            raise Stopped

    def cut(self, n_past: int) -> None:
        """Drop all but the first `n_past` tokens from the cache."""
        self._context.remove(0, n_past)
        self._n_past = n_past

    def close(self) -> None:
        self._context.close()
