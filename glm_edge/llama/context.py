"""What is computed with a model: a KV cache that many sequences share, and batches of their tokens.

Positions and cells are counted in tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Literal

import llama_cpp as ll
import numpy as np
import numpy.typing as npt

from ..errors import EngineError, OutOfMemoryError
from .cell_state import cell_state
from .library import clear_log, log_excerpt
from .model import Model

_KV_TYPES = {"f16": ll.GGML_TYPE_F16, "f32": ll.GGML_TYPE_F32}


class Batch:
    """Tokens of any sequences for one decode call; at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self._batch = ll.llama_batch_init(capacity, 0, 1)
        self.capacity = capacity

    def __len__(self) -> int:
        return int(self._batch.n_tokens)

    def clear(self) -> None:
        self._batch.n_tokens = 0

    def add(self, token: int, position: int, sequence: int, *, logits: bool) -> int:
        """Append one token; returns its index in the batch, by which its logits are asked for."""
        b, i = self._batch, self._batch.n_tokens
        if i >= self.capacity:
            raise EngineError(f"batch is full at {self.capacity} tokens")
        b.token[i] = token
        b.pos[i] = position
        b.n_seq_id[i] = 1
        b.seq_id[i][0] = sequence
        b.logits[i] = logits
        b.n_tokens = i + 1
        return int(i)

    def close(self) -> None:
        if self._batch is not None:
            ll.llama_batch_free(self._batch)
            self._batch = None


class Context:
    """KV cache and compute buffers for `n_sequences` sequences that share `n_ctx` cells.

    Args:
        n_ctx: cells, in tokens, of all sequences together.
        n_batch: tokens of one decode call at most; also the size of the compute buffers.
        n_outputs: tokens of one decode call whose logits are kept, at most.
        should_abort: read between graph nodes, in llama.cpp's threads: one flag, no more. Its argument means nothing.

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
    ) -> None:
        params = ll.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = n_batch
        self._spare = n_sequences  # one more sequence, for parts of others on their way out and in
        params.n_seq_max = n_sequences + 1
        params.n_outputs_max = max(n_outputs, n_sequences + 1)  # llama.cpp reserves one for each sequence
        params.n_threads, params.n_threads_batch = n_threads, n_threads_batch
        params.type_k = params.type_v = _KV_TYPES[kv_type]
        params.flash_attn_type = int(flash_attention)
        self._kv_type, self._transposed = kv_type, not flash_attention
        params.kv_unified = True
        if should_abort is not None:
            self._abort = ll.ggml_abort_callback(should_abort)  # kept alive as long as the context
            params.abort_callback = self._abort
        clear_log()
        self._ctx = ll.llama_init_from_model(model.handle, params)
        if not self._ctx:
            raise OutOfMemoryError(f"no memory for a context of {n_ctx} tokens; ask for a smaller one{log_excerpt()}")
        self._memory = ll.llama_get_memory(self._ctx)
        self._n_vocab = model.n_vocab
        self.n_ctx: int = ll.llama_n_ctx(self._ctx)

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        """Threads of the next calls: for single tokens, and for several."""
        ll.llama_set_n_threads(self._ctx, n_threads, n_threads_batch)

    def decode(self, batch: Batch) -> Literal["done", "full", "aborted"]:
        """Compute one batch. "full": no cells for it, nothing changed. "aborted": part of it may be in the cache."""
        code = ll.llama_decode(self._ctx, batch._batch)
        if code == 0:
            return "done"
        if code == 1:
            return "full"
        if code == 2:
            return "aborted"
        raise EngineError(f"llama.cpp failed to decode a batch of {len(batch)} tokens, code {code}{log_excerpt()}")

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """Logits of the batch's token `index`, shape (n_vocab,): a view, overwritten by the next decode."""
        pointer: Any = ll.llama_get_logits_ith(self._ctx, index)
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
        ll.llama_memory_seq_rm(self._memory, sequence, start, end)

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Let `target` share positions start..end of `source`; nothing is computed or moved."""
        ll.llama_memory_seq_cp(self._memory, source, target, start, end)

    def state(self, sequence: int, start: int, end: int) -> memoryview:
        """What the cache holds of positions start..end of a sequence, in llama.cpp's own format; writable."""
        self.copy(sequence, self._spare, start, end)
        try:
            size = ll.llama_state_seq_get_size(self._ctx, self._spare)
            buffer = (ctypes.c_uint8 * size)()
            written = ll.llama_state_seq_get_data(self._ctx, buffer, size, self._spare)
        finally:
            self.remove(self._spare)
        if written != size:
            raise EngineError(f"llama.cpp gave {written} bytes of state where it announced {size}")
        return memoryview(buffer).cast("B")

    def restore(self, sequence: int, state: memoryview, start: int, end: int) -> bool:
        """Add positions start..end of a writable state to a sequence. False, and no change, where it does not fit."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer(state)
        fits = ll.llama_state_seq_set_data(self._ctx, buffer, len(state), self._spare) == len(state)
        if fits:
            self.copy(self._spare, sequence, start, end)
        self.remove(self._spare)
        return bool(fits)

    def cells(self, keys: Sequence[npt.NDArray[np.float32]], values: Sequence[npt.NDArray[np.float32]]) -> memoryview:
        """A state, as `restore` takes it, of positions 0, 1, … with these keys, rotated, and values of each layer.

        Both have the shape (positions, groups x head). Needs as many free cells for a moment.
        Raises EngineError where llama.cpp does not take it, or does not give it back as it was.
        """
        state = cell_state(keys, values, kv_type=self._kv_type, transposed=self._transposed, sequence=self._spare)
        buffer = (ctypes.c_uint8 * len(state)).from_buffer(state)
        taken = ll.llama_state_seq_set_data(self._ctx, buffer, len(state), self._spare) == len(state)
        if not taken or self.state(self._spare, 0, len(keys[0])) != state:
            self.remove(self._spare)
            raise EngineError(f"no room in the cache for {len(keys[0])} cells, or llama.cpp keeps them in another form")
        return state

    def close(self) -> None:
        if self._ctx:
            ll.llama_free(self._ctx)
            self._ctx = None
