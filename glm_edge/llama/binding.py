"""The binding of llama.cpp, which nothing else imports but `llama_grammar.py` and `llama_kernels.py`: typed, small,
frees what it allocates.

Three things: a Model (weights and vocabulary), a Context (KV cache of many sequences) and a Batch (what one decode call
computes). All of llama.cpp's checks stay on its side; what it cannot say in a return code it logs, and the log's last
lines are added to our errors. Nothing here is thread-safe but Model.tokenize and Model.piece.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

# llama.cpp's threads meet after every operation, some 600 times a token, and those that come first spin. While another
# program has the processor of the one they wait for, they slow down both. GCC's OpenMP spins for milliseconds unless it
# is told otherwise. With 1,000 turns and one other busy program on two cores a token takes 0.56 to 0.83 of the time at
# full size, a fifth with the demo model; alone on the machine as long as before, or 0.5 ms for 0.3 with the demo model.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when the library is loaded, which is next

import llama_cpp as ll
import numpy as np
import numpy.typing as npt

from ..errors import EngineError, InvalidFileError, OutOfMemoryError, RequestError
from .kernels import leave_out_broken_kernels

LoadMode = Literal["none", "mmap", "direct"]
_LOAD_MODES = {"none": ll.LLAMA_LOAD_MODE_NONE, "mmap": ll.LLAMA_LOAD_MODE_MMAP, "direct": ll.LLAMA_LOAD_MODE_DIRECT_IO}
_KV_TYPES = {"f16": ll.GGML_TYPE_F16, "f32": ll.GGML_TYPE_F32}
_LOGGED = (3, 4)  # GGML_LOG_LEVEL_WARN and ERROR; 5 continues a line of any level

_TEXT = ll.LLAMA_TOKEN_ATTR_NORMAL | ll.LLAMA_TOKEN_ATTR_USER_DEFINED | ll.LLAMA_TOKEN_ATTR_BYTE  # tokens with bytes

# llama.cpp's warnings and errors, newest last, for the message of the error that follows them.
_log: deque[str] = deque(maxlen=8)


@ll.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: object) -> None:
    if level in _LOGGED and (line := text.decode("utf-8", "replace").strip()):
        _log.append(line)


def said() -> str:
    """What llama.cpp logged last, for the end of an error message."""
    return f" (llama.cpp: {_log[-1]})" if _log else ""


ll.llama_log_set(_on_log, ctypes.c_void_p(0))
ll.llama_backend_init()
_MAY_REPACK = leave_out_broken_kernels()


class Model:
    """Weights and vocabulary of one GGUF file, loaded.

    Args:
        progress: called with 0..1 while loading; returning False stops the load. What it raises, a signal's exception
            too, stops the load and is raised again.

    Raises InvalidFileError when llama.cpp refuses the file, OutOfMemoryError when it does not fit.
    """

    def __init__(
        self,
        path: Path,
        *,
        load_mode: LoadMode = "direct",
        repack: bool = True,
        vocab_only: bool = False,
        progress: Callable[[float], bool] | None = None,
    ) -> None:
        params = ll.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = _LOAD_MODES[load_mode]
        params.use_extra_bufts = repack and _MAY_REPACK
        params.vocab_only = vocab_only
        raised: list[BaseException] = []

        def on_progress(done: float, _: object) -> bool:
            try:
                return progress is None or progress(done)
            except BaseException as error:  # llama.cpp's frames are between here and the caller
                raised.append(error)
                return False

        callback = ll.llama_progress_callback(on_progress)  # the struct keeps no reference of its own
        params.progress_callback = callback
        _log.clear()
        self._model = ll.llama_model_load_from_file(os.fsencode(path), params)
        if raised:
            self.close()
            raise raised[0]
        if not self._model:
            # llama.cpp has one result for all failures; only its log tells this one
            memory = any("alloc" in line for line in _log)
            error = OutOfMemoryError if memory else InvalidFileError
            raise error(f"{path}: llama.cpp cannot load it{said()}")
        self.vocab: Any = ll.llama_model_get_vocab(self._model)  # for this binding alone
        self.n_vocab: int = ll.llama_vocab_n_tokens(self.vocab)
        self.n_params: int = ll.llama_model_n_params(self._model)
        self.eos: int = ll.llama_vocab_eos(self.vocab)
        self._pieces: dict[int, bytes] = {}  # those that were asked for

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text: no special token is added, none is parsed out of the text."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise RequestError("the text has half a surrogate pair, which is no character") from None
        size = len(data) + 2  # one id a byte, and the dummy prefix
        ids = (ll.llama_token * size)()
        n = ll.llama_tokenize(self.vocab, data, len(data), ids, size, False, False)
        if n < 0:
            raise EngineError(f"llama.cpp cannot tokenize {len(data)} bytes of text")
        return list(ids[:n])

    def piece(self, token: int) -> bytes:
        """The bytes of one token; control tokens have none."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._piece(token)
        return known

    def _piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = ll.llama_token_to_piece(self.vocab, token, buffer, size, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    @cached_property
    def silent(self) -> npt.NDArray[np.bool_]:
        """Which tokens have no bytes, shape (n_vocab,): control tokens and padding. Takes 40 ms once."""
        # by kind, which takes a third of the time that asking each for its bytes does
        return np.array([not ll.llama_vocab_get_attr(self.vocab, token) & _TEXT for token in range(self.n_vocab)])

    def close(self) -> None:
        if self._model:
            ll.llama_model_free(self._model)
            self._model = None


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
        params.kv_unified = True
        if should_abort is not None:
            self._abort = ll.ggml_abort_callback(should_abort)  # kept alive as long as the context
            params.abort_callback = self._abort
        _log.clear()
        self._ctx = ll.llama_init_from_model(model._model, params)
        if not self._ctx:
            raise OutOfMemoryError(f"no memory for a context of {n_ctx} tokens; ask for a smaller one{said()}")
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
        raise EngineError(f"llama.cpp failed to decode a batch of {len(batch)} tokens, code {code}{said()}")

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """Logits of the batch's token `index`, shape (n_vocab,): a view, overwritten by the next decode."""
        pointer: Any = ll.llama_get_logits_ith(self._ctx, index)
        if not pointer:
            raise EngineError(f"no logits for token {index} of the batch")
        return np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))

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
        """Add positions start..end of a writable state to a sequence; where it does not go in, False and no change."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer(state)
        fits = ll.llama_state_seq_set_data(self._ctx, buffer, len(state), self._spare) == len(state)
        if fits:
            self.copy(self._spare, sequence, start, end)
        self.remove(self._spare)
        return bool(fits)

    def close(self) -> None:
        if self._ctx:
            ll.llama_free(self._ctx)
            self._ctx = None


def high_level(path: Path, *, n_ctx: int, n_threads: int, n_threads_batch: int) -> Any:
    """llama-cpp-python's own `Llama`, all else at its defaults: what the benchmark compares with."""
    return ll.Llama(str(path), n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads_batch, verbose=False)


def versions() -> dict[str, str]:
    """What runs underneath: for `doctor`, bug reports and benchmark results."""
    return {"llama_cpp_python": ll.__version__, "system": ll.llama_print_system_info().decode()}
