"""A grammar that an answer has to follow, as llama.cpp applies it to candidates: the second half of the binding.

Not here: what the grammar says (`engine/schema.py`), and when it is asked (`engine/guided.py`). Not thread-safe.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import llama_cpp as ll
import numpy as np
import numpy.typing as npt

from ..errors import EngineError, RequestError
from .library import log_excerpt
from .model import Model

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


class Grammar:
    """What an answer may look like, and how far it has come; freed by `close`, or with the object.

    Args:
        text: in llama.cpp's GBNF; its rule `root` is the answer. llama.cpp's own cost is not bounded: a grammar in
            which many rules fit the same text may take any time and memory, so it must not come from a stranger.

    Raises RequestError when llama.cpp refuses the text. Creating one needs the model; using it must end before
    the model is closed.
    """

    def __init__(self, model: Model, text: str) -> None:
        sampler = ll.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
        if not sampler:
            raise RequestError(
                f"response_format: llama.cpp cannot use the grammar made of it{log_excerpt()}", param="response_format"
            )
        self.eos = model.eos
        # llama.cpp would match a control token by its text, which no reader gets
        self._silent = model.silent
        self._sampler = sampler
        self.close = weakref.finalize(self, ll.llama_sampler_free, sampler)

    def allowed(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Which of `tokens` may come next; end of text only where the answer is complete."""
        if not self.close.alive:
            raise EngineError("this grammar has been freed")
        candidates = np.zeros(len(tokens), CANDIDATE)
        candidates["id"] = tokens
        data: Any = candidates.ctypes.data_as(ctypes.POINTER(ll.llama_token_data))
        array = ll.llama_token_data_array(data, len(tokens), -1, False)
        ll.llama_sampler_apply(self._sampler, ctypes.byref(array))
        allowed: npt.NDArray[np.bool_] = np.isfinite(candidates["logit"])
        allowed &= ~self._silent[tokens] | (tokens == self.eos)
        return allowed

    def accept(self, token: int) -> None:
        """`token` has come."""
        # llama.cpp ends the process over a token that does not fit
        if not self.allowed(np.array([token], np.int32))[0]:
            raise EngineError(f"token {token} does not fit the answer's format")
        ll.llama_sampler_accept(self._sampler, token)
