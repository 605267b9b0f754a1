"""Weights and vocabulary of one GGUF file. Not here: what is computed with them (`context.py`)."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import EngineError, InvalidFileError, OutOfMemoryError, RequestError, UnsupportedModelError
from ..model.gguf import read_gguf
from ..model.values import TENSOR_TYPES, GgufFile
from ..types import LoadMode, RuntimeName
from . import huge_pages
from .read_ahead import ReadAhead, of_use
from .runtime import NONE_REMOTE, LoadSettings, ProgressCallback, RemoteLayers, Runtime, runtime
from .slices import SLICE, UNCUT, TextSlicer

_LOOK_S = 0.1  # seconds between two slices without ids


class Model:
    """Weights and vocabulary of one GGUF file, loaded.

    Args:
        progress: called with 0..1 while loading; returning False stops the load. What it raises, a signal's exception
            too, stops the load and is raised again.
        runtime_name: which library runs it.
        huge: whether to ask the system for huge pages, for the weights and the contexts made with them.
        remote: what RPC servers compute.

    Raises InvalidFileError when the runtime refuses the file, OutOfMemoryError when it does not fit,
    UnsupportedModelError when the runtime is not installed or does not work here.
    """

    def __init__(
        self,
        path: Path,
        *,
        load_mode: LoadMode = "direct",
        repack: bool = True,
        vocab_only: bool = False,
        progress: Callable[[float], bool] | None = None,
        runtime_name: RuntimeName = "llama",
        huge: bool = False,
        remote: RemoteLayers = NONE_REMOTE,
    ) -> None:
        if not vocab_only and runtime(runtime_name).types is not None:
            check_types(read_gguf(path), runtime(runtime_name))
        self.runtime = runtime(runtime_name)  # for this package alone, like `handle` and `vocab`
        self._api = api = self.runtime.api
        self.huge = huge
        raised: list[BaseException] = []
        file = read_gguf(path) if load_mode == "direct" and not vocab_only else None
        ahead = None
        if file is not None and of_use(file):
            ahead = ReadAhead(file, self.runtime.reading_order(file.tensors))
            load_mode = "none"
        to_ask = True

        def on_progress(done: float, _: object) -> bool:
            nonlocal to_ask
            try:
                if to_ask and not vocab_only:  # at the first call the weights are allocated, and nothing is read
                    if huge:
                        huge_pages.ask()
                    if ahead is not None:
                        ahead.allocated()
                    to_ask = False
                if ahead is not None:
                    ahead.loaded(done)
                return progress is None or progress(done)
            except BaseException as error:  # llama.cpp's frames are between here and the caller
                raised.append(error)
                return False

        callback = ProgressCallback(on_progress)  # the library keeps no reference of its own
        self.runtime.log.clear()
        settings = LoadSettings(load_mode, repack, vocab_only, callback, remote)
        with ahead or nullcontext():
            self.handle: Any = self.runtime.load_model(os.fsencode(path), settings)
        if raised:
            self.close()
            raise raised[0]
        if not self.handle:
            # llama.cpp has one result for all failures; only its log tells this one
            error = OutOfMemoryError if self.runtime.log.allocation_failed else InvalidFileError
            raise error(f"{path}: {self.runtime.title} cannot load it{self.runtime.log.excerpt}")
        self.vocab: Any = api.llama_model_get_vocab(self.handle)
        self.n_vocab: int = api.llama_vocab_n_tokens(self.vocab)
        self.n_params: int = api.llama_model_n_params(self.handle)
        self.eos: int = api.llama_vocab_eos(self.vocab)
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
        ids = (ctypes.c_int32 * size)()
        n = self._api.llama_tokenize(self.vocab, data, len(data), ids, size, False, False)
        if n < 0:
            raise EngineError(f"{self.runtime.title} cannot tokenize {len(data)} bytes of text")
        return ids[:n]

    @cached_property
    def _slicer(self) -> TextSlicer:  # 0.2 s; made twice where two threads are the first
        texts = (self._api.llama_vocab_get_text(self.vocab, token) or b"" for token in range(self.n_vocab))
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
            n = self._api.llama_token_to_piece(self.vocab, token, buffer, size, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def close(self) -> None:
        if self.handle:
            self._api.llama_model_free(self.handle)
            self.handle = None


def check_types(file: GgufFile, runtime: Runtime) -> None:
    """Raise UnsupportedModelError for a file with types of tensors that the runtime may compute wrongly."""
    if runtime.types is None:
        return
    found = {TENSOR_TYPES[tensor.type][0] for tensor in file.tensors}
    if wrong := sorted(found - runtime.types):
        raise UnsupportedModelError(
            f"{file.path}: has tensors of type {', '.join(wrong)}, which {runtime.title} may compute wrongly;"
            f" leave out --runtime {runtime.name}"
        )
