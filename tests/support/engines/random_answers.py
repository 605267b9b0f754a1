"""Answers in a format written by chance: what the constraint allows, sampled from random logits without a model."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from glm_edge.engine.sampling.constrained import Constraint, ConstraintCompiler
from glm_edge.engine.sampling.sampler import Sampler
from glm_edge.llama.model import Model
from glm_edge.types import CallFormat, JsonFormat, SamplingParams

_CLOSING = frozenset(b'"}],@')  # tokens of these bytes are made likelier, so that answers end


class RandomAnswers:
    """A writer of random answers in one model's vocabulary.

    Args:
        step_s: filled with the processor seconds of each token, mask and sampling together.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.compiler = ConstraintCompiler(model)
        pieces = [model.piece(token) for token in range(model.n_vocab)]
        closing = [bool(piece) and _CLOSING.issuperset(piece.strip()) for piece in pieces]
        self._bonus = np.where(closing, 8.0, 0.0).astype(np.float32)
        self._bonus[model.eos] = 12.0
        self.step_s: list[float] = []

    def compile(self, schema: Any) -> Constraint:
        format = schema if isinstance(schema, CallFormat) else JsonFormat(json.dumps(schema))
        (constraint,) = self.compiler.compile(format, 1)
        return constraint

    def write(self, schema: Any, seed: int, max_tokens: int = 300) -> str | None:
        """Return an answer, None where it did not end within `max_tokens`. Raises RequestError as the compiler does."""
        sampler = Sampler(SamplingParams(1.0, 1.0, seed), constraint=self.compile(schema))
        random = np.random.default_rng(seed)
        written = b""
        for _ in range(max_tokens):
            logits = random.standard_normal(self.model.n_vocab, np.float32) + self._bonus
            began = time.thread_time()
            token = sampler.sample(logits)
            if token == self.model.eos:
                return written.decode()
            sampler.accept(token)
            self.step_s.append(time.thread_time() - began)
            written += self.model.piece(token)
        return None


def fits(model: Model, constraint: Constraint, text: str) -> bool:
    """Whether an answer may be this text, token by token, and end there."""
    for token in model.tokenize(text):
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.allowed()[model.eos])
