"""Weights and vocabulary of one GGUF file. Not here: what is computed with them (`context.py`)."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp as ll

from ..errors import EngineError, InvalidFileError, OutOfMemoryError, RequestError
from ..types import LoadMode
from .library import MAY_REPACK, clear_log, log_excerpt, logged_allocation_failure
from .slices import SLICE, UNCUT, TextSlicer

_LOAD_MODES = {"none": ll.LLAMA_LOAD_MODE_NONE, "mmap": ll.LLAMA_LOAD_MODE_MMAP, "direct": ll.LLAMA_LOAD_MODE_DIRECT_IO}

_LOOK_S = 0.1  # seconds between two slices without ids


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
        params.use_extra_bufts = repack and MAY_REPACK
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
        clear_log()
        self.handle: Any = ll.llama_model_load_from_file(os.fsencode(path), params)  # for this package alone
        if raised:
            self.close()
            raise raised[0]
        if not self.handle:
            # llama.cpp has one result for all failures; only its log tells this one
            error = OutOfMemoryError if logged_allocation_failure() else InvalidFileError
            raise error(f"{path}: llama.cpp cannot load it{log_excerpt()}")
        self.vocab: Any = ll.llama_model_get_vocab(self.handle)  # for this package alone
        self.n_vocab: int = ll.llama_vocab_n_tokens(self.vocab)
        self.n_params: int = ll.llama_model_n_params(self.handle)
        self.eos: int = ll.llama_vocab_eos(self.vocab)
        self._pieces: dict[int, bytes] = {}  # those that were asked for
        self._uncut = threading.Lock()  # held while a slice above UNCUT is tokenized

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text: no special token is added, none is parsed out of the text."""
        return [token for ids, _ in self.tokenize_slices(text) for token in ids]

    def tokenize_slices(self, text: str, size: int = SLICE) -> Iterator[tuple[list[int], int]]:
        """The same ids slice by slice, each with a lower bound on the number of tokens that follow.

        The work is done as the slices are taken. A long text begins with a slice without ids, for its bound; while it
        waits for another text's slice above UNCUT, others follow. Any number of threads may tokenize at the same time.

        Args:
            size: characters of a slice, where the text can be cut.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RequestError("the text has half a surrogate pair, which is no character") from None
        if len(text) <= size:  # nearly all are: no need to know where texts can be cut
            yield self._tokenize(text), 0
            return
        slicer, left, before = self._slicer, len(text), ""
        yield [], -(-left // slicer.longest)
        for part in slicer.slices(text, size):
            uncut = len(part) > UNCUT
            while uncut and not self._uncut.acquire(timeout=_LOOK_S):
                yield [], -(-left // slicer.longest)
            try:
                ids = self._tokenize(before + part)
            finally:
                if uncut:
                    self._uncut.release()
            left -= len(part)
            yield ids[len(self._separator) if before else 0 :], -(-left // slicer.longest)
            before = slicer.separator  # every slice but the first has no dummy prefix

    def _tokenize(self, text: str) -> list[int]:
        data = text.encode()
        size = len(data) + 4  # one id a byte, and the dummy prefix, which may be the three bytes of U+2581
        ids = (ll.llama_token * size)()
        n = ll.llama_tokenize(self.vocab, data, len(data), ids, size, False, False)
        if n < 0:
            raise EngineError(f"llama.cpp cannot tokenize {len(data)} bytes of text")
        return ids[:n]

    @cached_property
    def _slicer(self) -> TextSlicer:  # 0.2 s; made twice where two threads are the first
        texts = (ll.llama_vocab_get_text(self.vocab, token) or b"" for token in range(self.n_vocab))
        return TextSlicer(text.decode("utf-8", "surrogateescape") for text in texts)

    @cached_property
    def _separator(self) -> list[int]:
        """The ids of the dummy prefix and the separator, which are in front of every slice but the first."""
        return self._tokenize(self._slicer.separator)

    def piece(self, token: int) -> bytes:
        """The bytes of one token; control tokens have none."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._piece(token)
        return known

    def pieces(self) -> list[bytes]:
        """The bytes of every token, by id. 65,024 of them take 0.1 s, and `piece` does not keep them."""
        return [self._piece(token) for token in range(self.n_vocab)]

    def _piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = ll.llama_token_to_piece(self.vocab, token, buffer, size, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def close(self) -> None:
        if self.handle:
            ll.llama_model_free(self.handle)
            self.handle = None
