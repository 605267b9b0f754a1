"""Texts tokenized in slices: the ids of the whole, in time that grows with the text's length and no faster."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from glm_edge.llama.model import Model
from support.checkpoints.large_vocabulary import large_pieces
from support.random_texts import random_text

TEXTS = 3000


@pytest.fixture(scope="module")
def model(tiny_q4_0: Path) -> Iterator[Model]:
    model = Model(tiny_q4_0, vocab_only=True)
    yield model
    model.close()


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(tiny_checkpoint / "tokenizer.model"))


@pytest.mark.case("N1")
def test_slices_of_any_size_have_sentencepieces_ids(model: Model, processor: Any) -> None:
    draw = random.Random(5)
    pieces = [text for text, _ in large_pieces()]
    for _ in range(TEXTS):
        text = random_text(draw, pieces)
        slices = list(model.tokenize_slices(text, draw.randint(1, 12)))
        assert [token for ids, _ in slices for token in ids] == processor.encode(text), repr(text)


def test_a_long_text_has_sentencepieces_ids(model: Model, processor: Any) -> None:
    draw = random.Random(6)
    pieces = [text for text, _ in large_pieces()]
    text = "".join(random_text(draw, pieces) for _ in range(2000))
    assert len(text) > 10_000
    assert model.tokenize(text) == processor.encode(text)


def test_what_follows_a_slice_is_at_least_what_it_says(model: Model) -> None:
    draw = random.Random(7)
    pieces = [text for text, _ in large_pieces()]
    for _ in range(300):
        slices = list(model.tokenize_slices(random_text(draw, pieces), 5))
        for n, (_, follow) in enumerate(slices):
            assert follow <= sum(len(ids) for ids, _ in slices[n + 1 :])


@pytest.mark.case("N1")
@pytest.mark.parametrize("character", ["\n", "\t", "😀", "\U00020000"], ids=["newline", "tab", "emoji", "rare"])
def test_characters_without_a_piece_take_no_longer_than_others(model: Model, character: str) -> None:
    """The bound is generous: they take a tenth of a second of a processor. In one piece, 400,000
    newlines took 19 seconds."""
    began = time.thread_time()
    ids = model.tokenize(character * 400_000)
    assert time.thread_time() - began < 6
    assert len(ids) > 400_000
