"""How likely tokens were to the model: log softmax of its own logits, before anything of ours changes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...llama.model import Model
from ...types import TokenLogprob
from .draw import Floats, likeliest


@dataclass(frozen=True)
class Scores:
    """Natural log probability of a drawn token, and of the likeliest ones: (token, log probability), best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def scores(logits: Floats, token: int, top: int) -> Scores:
    """Of the token drawn from `logits`, shape (n_vocab,), and the `top` likeliest; equal ones by their ids."""
    highest = logits.max()
    normaliser = float(highest) + math.log(float(np.exp(logits - highest).sum(dtype=np.float64)))
    best: list[int] = []
    if top:
        kept = likeliest(logits, min(top, len(logits)))
        best = [int(i) for i in kept[np.argsort(-logits[kept], kind="stable")][:top]]
    return Scores(token, float(logits[token]) - normaliser, tuple((i, float(logits[i]) - normaliser) for i in best))


def token_logprob(model: Model, scored: Scores) -> TokenLogprob:
    """Scores with the texts of their tokens."""
    top = tuple(_one(model, token, logprob) for token, logprob in scored.top)
    return _one(model, scored.token, scored.logprob, top)


def _one(model: Model, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    piece = model.piece(token)
    return TokenLogprob(piece.decode("utf-8", "replace"), piece, logprob, top)
