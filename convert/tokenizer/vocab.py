"""The vocabulary of a GGUF file: the pieces of tokenizer.model, ChatGLM2's special tokens, and padding.

llama.cpp's merge step looks any text up in the vocabulary, special tokens included, even if it is told not to parse
them. With a token named `sop`, "philosophy" becomes four tokens, one of them sop. The text of a token does not touch
the weights, so special tokens get texts that no merge can produce, and this module proves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_edge.errors import InvalidFileError, UnsupportedModelError

from .tokenizer_model import BYTE, BYTE_PIECES, CONTROL, NORMAL, UNUSED, TokenizerModel, read_tokenizer_model

# The tokens after the pieces, in this order (ChatGLM2 `tokenization_chatglm.py`), and the texts to try for each. The
# last, with a space, is always free: llama.cpp turns the spaces of a text into U+2581 before it merges.
SPECIAL: dict[str, tuple[str, ...]] = {
    "[MASK]": ("[MASK]", "<|MASK|>", "<MASK >"),
    "[gMASK]": ("[gMASK]", "<|gMASK|>", "<gMASK >"),
    "[sMASK]": ("[sMASK]", "<|sMASK|>", "<sMASK >"),
    "sop": ("<sop>", "<|sop|>", "<sop >"),
    "eop": ("<eop>", "<|eop|>", "<eop >"),
}
PADDING = ("[PAD{id}]", "<|PAD{id}|>", "<PAD {id}>")  # not "[PAD]", which llama.cpp takes for an end of text
PADDING_LIMIT = 1024  # most ids of padding, up to padded_vocab_size; the real model has 230
_ADDED_SCORE = -1000.0  # never compared with another, because no merge reaches these tokens


@dataclass(frozen=True)
class Vocabulary:
    """Every token of the model by its id, padding included."""

    model: TokenizerModel
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    special: dict[str, int]  # the model's own name of a special token -> id

    @property
    def prefix_ids(self) -> tuple[int, int]:
        """The ids that every prompt starts with: [gMASK] and sop."""
        return self.special["[gMASK]"], self.special["sop"]

    @property
    def prefix_texts(self) -> tuple[str, str]:
        """The same two as texts, for programs that parse special tokens out of a template's output."""
        gmask, sop = self.prefix_ids
        return self.texts[gmask], self.texts[sop]

    def id_of(self, piece: str) -> int:
        """The id of a piece by its text in tokenizer.model. In `texts` it may have another text."""
        return self.model.texts.index(piece)


def read_vocabulary(path: Path, padded_vocab_size: int) -> Vocabulary:
    """The vocabulary of the tokenizer.model at `path`, filled up to padded_vocab_size.

    Raises InvalidFileError if the file is broken or does not fit that size, UnsupportedModelError if llama.cpp cannot
    tell its pieces from special tokens, StorageError.
    """
    model = read_tokenizer_model(path)
    padding = padded_vocab_size - len(model.texts) - len(SPECIAL)
    if not 0 <= padding < PADDING_LIMIT:
        raise InvalidFileError(
            f"{path}: its {len(model.texts)} pieces and {len(SPECIAL)} special tokens do not belong to"
            f" padded_vocab_size {padded_vocab_size} of config.json, which may hold up to {PADDING_LIMIT - 1} more"
        )
    # llama.cpp finds byte tokens by their text, so these keep theirs. No other special token gets a reachable text, so
    # none of them makes another text reachable.
    kept = [text for text, kind in zip(model.texts, model.types, strict=True) if kind in (NORMAL, BYTE)]
    reachable = reachable_texts(kept)
    if byte := next((text for text in BYTE_PIECES if text in reachable), None):
        raise UnsupportedModelError(
            f"{path}: user text can become the byte token {byte} in llama.cpp, by merging pieces"
        )
    taken = set(kept)
    texts, types = list(model.texts), list(model.types)
    for token, (text, kind) in enumerate(zip(model.texts, model.types, strict=True)):
        if kind not in (NORMAL, BYTE):
            texts[token] = _free_text((text, f"<|{text}|>", f"{text} "), taken, reachable)
    for candidates in SPECIAL.values():
        texts.append(_free_text(candidates, taken, reachable))
        types.append(CONTROL)
    while len(texts) < padded_vocab_size:
        numbered = tuple(text.format(id=len(texts)) for text in PADDING)
        texts.append(_free_text(numbered, taken, reachable))
        types.append(UNUSED)
    special = {name: len(model.texts) + n for n, name in enumerate(SPECIAL)}
    scores = (*model.scores, *[_ADDED_SCORE] * (len(texts) - len(model.texts)))
    return Vocabulary(model, tuple(texts), scores, tuple(types), special)


def _free_text(candidates: tuple[str, ...], taken: set[str], reachable: frozenset[str]) -> str:
    """The first candidate that is free and that no merge can produce."""
    for text in candidates:
        if text not in taken and not _mergeable(text, reachable):
            taken.add(text)
            return text
    raise UnsupportedModelError(f"every name for a special token can be typed by a user: {', '.join(candidates)}")


def reachable_texts(texts: Iterable[str]) -> frozenset[str]:
    """The texts of a vocabulary that llama.cpp's merge step can produce from some user text.

    It starts from single characters, in the vocabulary or not, and joins two neighbours if the vocabulary has their
    text (`llm_tokenizer_spm_session` in llama.cpp `src/llama-vocab.cpp`). So a text is reachable if it is one
    character, or splits into two reachable parts. Scores are ignored: this finds more texts than can occur, never
    fewer.
    """
    reachable: set[str] = set()
    for text in sorted(texts, key=len):
        if _mergeable(text, reachable):
            reachable.add(text)
    return frozenset(reachable)


def _mergeable(text: str, reachable: frozenset[str] | set[str]) -> bool:
    if " " in text:  # user text has U+2581 in its place
        return False
    return len(text) == 1 or any(
        (k == 1 or text[:k] in reachable) and (k == len(text) - 1 or text[k:] in reachable) for k in range(1, len(text))
    )


def load_sentencepiece(vocabulary: Vocabulary) -> Any:
    """The native SentencePiece processor of the same file. Raises InvalidFileError if it reads other pieces."""
    import sentencepiece

    model = vocabulary.model
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.proto)
    except (RuntimeError, ValueError, OSError) as error:
        raise InvalidFileError(f"{model.path}: SentencePiece refuses it: {str(error).splitlines()[0]}") from error
    size = processor.get_piece_size()
    if size != len(model.texts) or tuple(processor.id_to_piece(list(range(size)))) != model.texts:
        raise InvalidFileError(f"{model.path}: SentencePiece reads other pieces out of it than its fields hold")
    return processor
