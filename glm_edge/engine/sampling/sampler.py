"""The sampler of one answer: what it asks for, what it has seen so far, and its random numbers.

For each token: `sample` its logits, then `accept` what was drawn. Several places can be asked in a row, as prompt
lookup does, as long as each token is accepted before the next is drawn. How it is done: `penalties.py` changes the
logits, `draw.py` draws, `guided.py` draws what a grammar allows, `logprobs.py` says how likely it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...errors import RequestError
from ...llama.grammar import Grammar
from ...llama.model import Model
from ...types import JsonFormat, Request, SamplingParams
from .draw import Drawer, Floats
from .gbnf import json_object_grammar
from .guided import ConstrainedSampler, Mask
from .logprobs import Scores, scores
from .penalties import Penalties
from .schema import schema_grammar


class Sampler:
    """Args:
    index: which of the request's answers; each has random numbers of its own, derived from the seed.
    prompt: token ids, for repetition_penalty.
    mask: what may come next, where the answer has a format.
    """

    def __init__(
        self, params: SamplingParams, index: int = 0, prompt: Sequence[int] = (), mask: Mask | None = None
    ) -> None:
        self._params = params
        self._penalties = Penalties(params, prompt)
        # a seed may be negative, a SeedSequence's entropy may not
        random = np.random.default_rng(None if params.seed is None else [params.seed % 2**64, index])
        drawer = Drawer(params, random)
        self._mask = mask
        self._drawer = drawer if mask is None else ConstrainedSampler(params, drawer, mask)
        self.scores: Scores | None = None  # of the token drawn last, where logprobs are asked for

    def sample(self, logits: Floats) -> int:
        """The next token. `logits`, shape (n_vocab,), is left as it is."""
        token = self._drawer.draw(self._penalties.apply(logits))
        if self._params.logprobs:
            self.scores = scores(logits, token, self._params.top_logprobs)
        return token

    def accept(self, token: int) -> None:
        """`token` is part of the answer now."""
        self._penalties.accept(token)
        if self._mask is not None and token != self._mask.eos:
            self._mask.accept(token)

    def close(self) -> None:
        """Nothing is drawn any more."""
        if self._mask is not None:
            self._mask.close()


def samplers(request: Request, prompt: Sequence[int], model: Model) -> list[Sampler]:
    """One for each of the answers to a request. Raises RequestError for what cannot be sampled as it asks."""
    params = request.sampling
    _check(params, model.n_vocab)
    grammar = None if params.response_format is None else _grammar(params.response_format)
    return [
        Sampler(params, index, prompt, None if grammar is None else Grammar(model, grammar))
        for index in range(request.n)
    ]


def _grammar(wanted: JsonFormat) -> str:
    return json_object_grammar() if wanted.schema is None else schema_grammar(wanted.schema)


def _check(params: SamplingParams, n_vocab: int) -> None:
    """Refuse values that the sampler cannot work with; they come from Python too, where nothing narrower was asked."""
    inside = {
        "temperature": 0 <= params.temperature < math.inf,
        "top_p": 0 <= params.top_p <= 1,
        "top_k": params.top_k >= 0,
        "min_p": 0 <= params.min_p <= 1,
        "presence_penalty": math.isfinite(params.presence_penalty),
        "frequency_penalty": math.isfinite(params.frequency_penalty),
        "repetition_penalty": 0 < params.repetition_penalty < math.inf,
        "top_logprobs": params.top_logprobs >= 0,
    }
    for name, fine in inside.items():
        if not fine:
            raise RequestError(f"{name}: {getattr(params, name)} is outside its range", param=name)
    for token, bias in params.logit_bias.items():
        if not 0 <= token < n_vocab:
            raise RequestError(
                f"logit_bias: this model's token ids are 0 to {n_vocab - 1}, not {token}", param="logit_bias"
            )
        if not math.isfinite(bias):
            raise RequestError(f"logit_bias: the bias of token {token} is {bias}; use -100 to 100", param="logit_bias")
