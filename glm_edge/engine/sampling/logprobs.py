"""How likely tokens were to the model: the log softmax of its own logits, before penalties and constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...llama.model import Model
from ...types import TokenLogprob
from .sample import Floats, likeliest


@dataclass(frozen=True)
class Scores:
    """The log probability of a sampled token, and of the likeliest ones as (token, log probability), best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def scores(logits: Floats, token: int, top: int) -> Scores:
    """Score the token sampled from `logits`, shape (n_vocab,), and the `top` likeliest; equal ones are in id order."""
    highest = logits.max()
    normaliser = float(highest) + math.log(float(np.exp(logits - highest).sum(dtype=np.float64)))
    best: list[int] = []
    if top:
        kept = likeliest(logits, min(top, len(logits)))
        best = [int(i) for i in kept[np.argsort(-logits[kept], kind="stable")][:top]]
    return Scores(token, float(logits[token]) - normaliser, tuple((i, float(logits[i]) - normaliser) for i in best))


def token_logprob(model: Model, scored: Scores) -> TokenLogprob:
    """Return scores with the text and bytes of their tokens."""
    top = tuple(_one(model, token, logprob) for token, logprob in scored.top)
    return _one(model, scored.token, scored.logprob, top)


def _one(model: Model, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    piece = model.piece(token)
    return TokenLogprob(piece.decode("utf-8", "replace"), piece, logprob, top)
