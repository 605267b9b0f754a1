"""The sampler of one answer: what it asks for, what it has seen so far, and its random numbers.

For each token: `sample` its logits, then `accept` what was sampled. A draft asks for several places in a row, and
accepts each token before it asks for the next. The steps have files of their own: `penalties.py` changes the logits,
`constrained.py` says which tokens the format allows, `sample.py` takes one, `logprobs.py` says how likely it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...errors import RequestError
from ...types import Request, SamplingParams
from .constrained import Constraint, ConstraintCompiler
from .logprobs import Scores, scores
from .penalties import Penalties
from .sample import Floats, sample


class Sampler:
    """The sampler of one answer.

    Args:
        index: which of the request's answers; each has random numbers of its own, derived from the seed.
        prompt: token ids, for repetition_penalty.
        constraint: what may come next, where the answer has a format.
    """

    def __init__(
        self, params: SamplingParams, index: int = 0, prompt: Sequence[int] = (), constraint: Constraint | None = None
    ) -> None:
        self._params = params
        self._penalties = Penalties(params, prompt)
        # a seed may be negative, a SeedSequence's entropy may not
        self._random = np.random.default_rng(None if params.seed is None else [params.seed % 2**64, index])
        self._constraint = constraint
        self.scores: Scores | None = None  # of the token sampled last, where logprobs are asked for

    def sample(self, logits: Floats) -> int:
        """Return the next token. `logits`, shape (n_vocab,), stays as it is."""
        changed = self._penalties.apply(logits)
        if self._constraint is not None:
            changed = np.where(self._constraint.allowed(), changed, np.float32(-np.inf))
        token = sample(changed, self._params, self._random)
        if self._params.logprobs:
            self.scores = scores(logits, token, self._params.top_logprobs)
        return token

    def accept(self, token: int) -> None:
        """Count `token` as part of the answer."""
        self._penalties.accept(token)
        if self._constraint is not None:
            self._constraint.accept(token)


def samplers(
    request: Request, prompt: Sequence[int], *, n_vocab: int, constraints: ConstraintCompiler
) -> list[Sampler]:
    """Make one sampler for each answer to a request. Raises RequestError for what cannot be sampled as it asks."""
    params = request.sampling
    _check(params, n_vocab)
    if params.response_format is None:
        return [Sampler(params, index, prompt) for index in range(request.n)]
    made = constraints.compile(params.response_format, request.n)
    return [Sampler(params, index, prompt, constraint) for index, constraint in enumerate(made)]


def _check(params: SamplingParams, n_vocab: int) -> None:
    """Refuse values that the sampler cannot work with; requests of Python programs were not checked before."""
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
