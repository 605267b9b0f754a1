"""What is computed with a model: a KV cache that many sequences share, and batches of their tokens.

Positions and cells are counted in tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import EngineError, OutOfMemoryError, UsageError
from ..model.adapter import Cells
from . import huge_pages
from .cell_state import cell_state
from .model import Model
from .runtime import AbortCallback, ContextSettings


class Batch:
    """Tokens of any sequences for one decode call; at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._n = 0
        self._tokens = (ctypes.c_int32 * capacity)()
        self._positions = (ctypes.c_int32 * capacity)()
        self._counts = (ctypes.c_int32 * capacity)(*[1] * capacity)  # sequences of each token
        self._sequences = (ctypes.c_int32 * capacity)()
        self._logits = (ctypes.c_int8 * capacity)()
        size, of = ctypes.sizeof(ctypes.c_int32), ctypes.POINTER(ctypes.c_int32)
        lists = [ctypes.cast(ctypes.addressof(self._sequences) + i * size, of) for i in range(capacity)]
        self._lists = (of * capacity)(*lists)  # of each token, the list of its sequences

    def __len__(self) -> int:
        return self._n

    def clear(self) -> None:
        self._n = 0

    def add(self, token: int, position: int, sequence: int, *, logits: bool) -> int:
        """Append one token; returns its index in the batch, by which its logits are asked for."""
        i = self._n
        if i >= self.capacity:
            raise EngineError(f"batch is full at {self.capacity} tokens")
        self._tokens[i] = token
        self._positions[i] = position
        self._sequences[i] = sequence
        self._logits[i] = logits
        self._n = i + 1
        return i

    def struct(self, kind: Any) -> Any:
        """The batch as a runtime's `llama_batch`, valid as long as this object."""
        return kind(
            n_tokens=self._n,
            token=self._tokens,
            pos=self._positions,
            n_seq_id=self._counts,
            seq_id=self._lists,
            logits=self._logits,
        )


class Context:
    """KV cache and compute buffers for `n_sequences` sequences that share `n_ctx` cells.

    Args:
        n_ctx: cells, in tokens, of all sequences together.
        n_batch: tokens of one decode call at most; also the size of the compute buffers.
        n_outputs: tokens of one decode call whose logits are kept, at most.
        should_abort: read between graph nodes, in llama.cpp's threads: one flag, no more. Its argument means nothing.
        on_node: a callback that is shown the graph's nodes (`inputs.py`).

    Raises OutOfMemoryError when cache and buffers cannot be allocated.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int,
        n_sequences: int,
        n_outputs: int,
        n_threads: int,
        n_threads_batch: int,
        kv_type: Literal["f16", "f32"] = "f16",
        flash_attention: bool = False,
        should_abort: Callable[[object], bool] | None = None,
        on_node: Any = None,
    ) -> None:
        self._runtime, self._api = model.runtime, model.runtime.api
        self._spare = n_sequences  # one more sequence, for parts of others on their way out and in
        self._kv_type, self._transposed = kv_type, not flash_attention
        self._removed = False  # whether cells were removed since the cache was used last
        self._stopped = False  # whether `should_abort` has stopped a batch, where the runtime does not tell
        asked = should_abort if should_abort is None or self._runtime.tells_aborted else self._watched(should_abort)
        self._abort = None if asked is None else AbortCallback(asked)  # kept alive as long as the context
        settings = ContextSettings(
            n_ctx,
            n_batch,
            n_sequences + 1,
            n_outputs,
            n_threads,
            n_threads_batch,
            kv_type,
            flash_attention,
            self._abort,
            on_node,
        )
        self._runtime.log.clear()
        self._ctx = self._runtime.open_context(model.handle, settings)
        if not self._ctx:
            log = self._runtime.log.excerpt
            raise OutOfMemoryError(f"no memory for a context of {n_ctx} tokens; ask for a smaller one{log}")
        if model.huge:
            huge_pages.collapse()
        self._memory = self._api.llama_get_memory(self._ctx)
        self._n_vocab = model.n_vocab
        self.n_ctx: int = self._api.llama_n_ctx(self._ctx)

    def _watched(self, should_abort: Callable[[object], bool]) -> Callable[[object], bool]:
        def asked(nothing: object) -> bool:
            stop = should_abort(nothing)
            self._stopped = self._stopped or stop
            return stop

        return asked

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        """Threads of the next calls: for single tokens, and for several."""
        self._api.llama_set_n_threads(self._ctx, n_threads, n_threads_batch)

    def decode(self, batch: Batch) -> Literal["done", "full", "aborted"]:
        """Compute one batch. "full": no cells for it, nothing changed. "aborted": part of it may be in the cache."""
        self._stopped = False
        self._close_gaps()
        code = self._api.llama_decode(self._ctx, batch.struct(self._api.llama_batch))
        if code == 2 or self._stopped:
            return "aborted"
        if code == 0:
            return "done"
        if code == 1:
            return "full"
        what = f"{self._runtime.title} failed to decode a batch of {len(batch)} tokens, code {code}"
        raise EngineError(f"{what}{self._runtime.log.excerpt}")

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """Logits of the batch's token `index`, shape (n_vocab,): a view, overwritten by the next decode."""
        pointer: Any = self._api.llama_get_logits_ith(self._ctx, index)
        if not pointer:
            raise EngineError(f"no logits for token {index} of the batch")
        return np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))

    def gives_numbers(self, batch: Batch, token: int) -> bool:
        """Whether the logits after `token` alone, apart from all sequences, are numbers; True where that is unknown.

        Overwrites the batch and all logits.
        """
        batch.clear()
        batch.add(token, 0, self._spare, logits=True)
        fine = self.decode(batch) != "done" or bool(np.isfinite(self.logits(0)).all())
        self.remove(self._spare)
        return fine

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None:
        """Drop positions start..end of a sequence from the cache; -1 is the end."""
        self._api.llama_memory_seq_rm(self._memory, sequence, start, end)
        self._removed = True

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Let `target` share positions start..end of `source`; nothing is computed or moved."""
        self._api.llama_memory_seq_cp(self._memory, source, target, start, end)

    def state(self, sequence: int, start: int, end: int) -> memoryview:
        """What the cache holds of positions start..end of a sequence, in llama.cpp's own format; writable."""
        self.copy(sequence, self._spare, start, end)
        try:
            size = self._api.llama_state_seq_get_size(self._ctx, self._spare)
            buffer = (ctypes.c_uint8 * size)()
            written = self._api.llama_state_seq_get_data(self._ctx, buffer, size, self._spare)
        finally:
            self.remove(self._spare)
        if written != size:
            raise EngineError(f"{self._runtime.title} gave {written} bytes of state where it announced {size}")
        return memoryview(buffer).cast("B")

    def restore(self, sequence: int, state: memoryview, start: int, end: int) -> bool:
        """Add positions start..end of a writable state to a sequence. False, and no change, where it does not fit."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer(state)
        self._close_gaps()
        fits = bool(self._api.llama_state_seq_set_data(self._ctx, buffer, len(buffer), self._spare) == len(buffer))
        if fits:
            self.copy(self._spare, sequence, start, end)
        self.remove(self._spare)
        return fits

    def _close_gaps(self) -> None:
        if self._removed:
            self._runtime.close_gaps(self._ctx, self._abort)
            self._removed = False

    def cells(self, keys: Sequence[Cells], values: Sequence[Cells]) -> memoryview:
        """A state, as `restore` takes it, of positions 0, 1, … with these keys, rotated, and values of each layer.

        Both have the shape (positions, groups x head). Needs as many free cells for a moment.
        Raises EngineError where llama.cpp does not take it, or does not give it back as it was; UsageError where the
        runtime's states are laid out otherwise.
        """
        if not self._runtime.takes_cells:
            raise UsageError(f"{self._runtime.title} takes no adapters; leave out --runtime {self._runtime.name}")
        state = cell_state(keys, values, kv_type=self._kv_type, transposed=self._transposed, sequence=self._spare)
        buffer = (ctypes.c_uint8 * len(state)).from_buffer(state)
        taken = self._api.llama_state_seq_set_data(self._ctx, buffer, len(state), self._spare) == len(state)
        if not taken or self.state(self._spare, 0, len(keys[0])) != state:
            self.remove(self._spare)
            raise EngineError(f"no room in the cache for {len(keys[0])} cells, or llama.cpp keeps them in another form")
        return state

    def close(self) -> None:
        if self._ctx:
            self._api.llama_free(self._ctx)
            self._ctx = None
