"""Reads tokenizer.model: a SentencePiece model, checked field by field before the native library reads it.

Only what llama.cpp's `llama` tokenizer reproduces is accepted: BPE with byte fallback and the identity normalizer.
Message layout: google/sentencepiece `src/sentencepiece_model.proto`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from glm_edge.errors import InvalidFileError, UnsupportedModelError

from ..source.files import read_small, shown
from .protobuf import BYTES, FIXED32, VARINT, MalformedError, fields

MAX_BYTES = 8 << 20  # the real file has 1 MB
MAX_PIECES = 1 << 20
MAX_PIECE_BYTES = 512

# ModelProto.SentencePiece.Type; llama.cpp's llama_token_type has the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_BPE = 2  # TrainerSpec.ModelType

BYTE_PIECES = tuple(f"<0x{value:02X}>" for value in range(256))


@dataclass(frozen=True)
class TokenizerModel:
    """The content of tokenizer.model. `texts`, `scores` and `types` are indexed by the token id."""

    path: Path
    proto: bytes  # the whole file, for the native library
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    dummy_prefix: bool  # a space is put in front of every text


def read_tokenizer_model(path: Path) -> TokenizerModel:
    """Read and check the file.

    Raises InvalidFileError for a broken file, UnsupportedModelError for another kind of tokenizer, StorageError.
    """
    proto = read_small(path, MAX_BYTES)
    pieces: list[tuple[str, float, int]] = []
    specs: dict[int, dict[int, int | bytes]] = {}
    try:
        for number, wire, value in fields(proto):
            if number == 1 and isinstance(value, bytes):
                pieces.append(_piece(value, len(pieces)))
                if len(pieces) > MAX_PIECES:
                    raise MalformedError(f"more than {MAX_PIECES} pieces")
            elif number in (2, 3, 5) and isinstance(value, bytes):  # trainer, normalizer and denormalizer
                if number in specs:
                    raise MalformedError(f"field {number} is there twice")
                specs[number] = {field: content for field, _, content in fields(value)}
            elif number <= 5 and wire != BYTES:
                raise MalformedError(f"field {number} has wire type {wire}")
    except MalformedError as error:
        raise InvalidFileError(f"{path}: not a SentencePiece model: {error}") from error
    texts = tuple(text for text, _, _ in pieces)
    types = tuple(kind for _, _, kind in pieces)
    _check_pieces(path, texts, types)
    _check_specs(path, specs)
    dummy_prefix = bool(specs[3].get(3, 1))
    return TokenizerModel(path, proto, texts, tuple(score for _, score, _ in pieces), types, dummy_prefix)


def _piece(data: bytes, index: int) -> tuple[str, float, int]:
    """(text, score, type) of one SentencePiece message."""
    text, score, kind = b"", 0.0, NORMAL
    for number, wire, value in fields(data):
        if (number, wire) == (1, BYTES) and isinstance(value, bytes):
            text = value
        elif (number, wire) == (2, FIXED32) and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif (number, wire) == (3, VARINT) and isinstance(value, int):
            kind = value
        elif number <= 3:
            raise MalformedError(f"piece {index}: field {number} has wire type {wire}")
    if not 0 < len(text) <= MAX_PIECE_BYTES:
        raise MalformedError(f"piece {index} is {len(text)} bytes long, outside 1 to {MAX_PIECE_BYTES}")
    if not math.isfinite(score):
        raise MalformedError(f"piece {index} has score {score}")
    if not NORMAL <= kind <= BYTE:
        raise MalformedError(f"piece {index} has type {kind}, outside {NORMAL} to {BYTE}")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"piece {index} is not UTF-8") from error
    if "\0" in decoded:  # llama.cpp reads token texts as C strings
        raise MalformedError(f"piece {index} holds a NUL")
    return decoded, score, kind


def _check_pieces(path: Path, texts: tuple[str, ...], types: tuple[int, ...]) -> None:
    if not texts:
        raise InvalidFileError(f"{path}: not a SentencePiece model: no pieces")
    if len(set(texts)) != len(texts):
        seen: set[str] = set()
        twice = next(text for text in texts if text in seen or seen.add(text))  # type: ignore[func-returns-value]
        raise InvalidFileError(f"{path}: the piece {shown(twice)} is there twice")
    for kind, name in ((USER_DEFINED, "user-defined"), (UNUSED, "unused")):
        if kind in types:
            raise UnsupportedModelError(
                f"{path}: piece {types.index(kind)} is {name}; llama.cpp would split text around it in another way"
            )
    by_text = dict(zip(texts, types, strict=True))
    wanted = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL, **dict.fromkeys(BYTE_PIECES, BYTE)}
    if types.count(UNKNOWN) != 1 or types.count(BYTE) != len(BYTE_PIECES):
        raise UnsupportedModelError(
            f"{path}: {types.count(UNKNOWN)} unknown and {types.count(BYTE)} byte pieces, where ChatGLM2 has 1 and 256"
        )
    for text, kind in wanted.items():
        if by_text.get(text) != kind:
            raise UnsupportedModelError(f"{path}: no piece {text} of type {kind}, which ChatGLM2's tokenizer has")


def _check_specs(path: Path, specs: dict[int, dict[int, int | bytes]]) -> None:
    """The settings that llama.cpp's tokenizer assumes. Keys are the field numbers of the .proto file."""
    if 2 not in specs or 3 not in specs:
        raise InvalidFileError(f"{path}: not a SentencePiece model: no trainer or normalizer settings")
    trainer, normalizer, denormalizer = specs[2], specs[3], specs.get(5, {})
    rules = (
        (trainer.get(3, 1) == _BPE, "is not BPE"),
        (bool(trainer.get(35, 0)), "has no byte fallback"),
        (not trainer.get(24, 0), "puts the space after a word"),
        (not normalizer.get(2) and not denormalizer.get(2), "rewrites characters before it splits"),
        (not normalizer.get(4, 1), "drops extra white space"),
        (bool(normalizer.get(5, 1)), "leaves white space as it is"),
    )
    for holds, otherwise in rules:
        if not holds:
            raise UnsupportedModelError(f"{path}: a SentencePiece model that {otherwise}; ChatGLM2's is another kind")
