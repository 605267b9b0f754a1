"""The bare loop: llama_decode and a greedy pick, the least that can be done. All above it is the engine's cost."""

from __future__ import annotations

import time

from ...llama.context import Batch, Context
from ...llama.model import Model
from ...types import EngineConfig

_FIRST, _SPREAD = 1000, 37  # ids of an arbitrary prompt; their values do not change the amount of work


class Bare:
    """A bare loop on one sequence, with weights that are loaded already.

    Args:
        n_ctx, n_batch: tokens.
        threads: for single tokens, and for prompts.
    """

    def __init__(
        self, model: Model, config: EngineConfig, *, n_ctx: int, n_batch: int, threads: tuple[int, int]
    ) -> None:
        self._context = Context(
            model,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_sequences=1,
            n_outputs=1,
            n_threads=threads[0],
            n_threads_batch=threads[1],
            kv_type=config.kv_type,
            flash_attention=bool(config.flash_attention),
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
            self._context.decode(self._batch)
            self._n_past += size
        self._next = int(self._context.logits(index).argmax())
        return time.perf_counter() - began

    def decode(self, n: int) -> float:
        """Seconds that `n` tokens take, each the likeliest by the logits of the one before."""
        began = time.perf_counter()
        for _ in range(n):
            self._batch.clear()
            index = self._batch.add(self._next, self._n_past, 0, logits=True)
            self._context.decode(self._batch)
            self._next = int(self._context.logits(index).argmax())
            self._n_past += 1
        return time.perf_counter() - began

    def cut(self, n_past: int) -> None:
        """Drop all but the first `n_past` tokens from the cache."""
        self._context.remove(0, n_past)
        self._n_past = n_past

    def close(self) -> None:
        self._context.close()
