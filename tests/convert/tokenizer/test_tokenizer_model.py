"""tokenizer.model is checked field by field: a damaged, hostile or foreign file never reaches native code."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from glm_edge.convert.tokenizer.tokenizer_model import MAX_PIECE_BYTES, read_tokenizer_model
from glm_edge.convert.tokenizer.vocab import load_sentencepiece, read_vocabulary
from glm_edge.errors import GlmEdgeError, InvalidFileError, UnsupportedModelError
from support.checkpoints.small_checkpoint import (
    BYTE,
    BYTES,
    CONTROL,
    FIRST,
    NORMAL,
    NORMALIZER,
    PIECES,
    TRAINER,
    UNUSED,
    USER_DEFINED,
    field,
    piece,
    tokenizer_proto,
    varint,
)

GOOD = tokenizer_proto()
PADDED = 512
NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "tokenizer.model"
        path.write_bytes(content)
        return path

    return write


def test_pieces_are_read_as_sentencepiece_reads_them(write: Callable[[bytes], Path]) -> None:
    vocabulary = read_vocabulary(write(GOOD), PADDED)
    processor = load_sentencepiece(vocabulary)
    assert vocabulary.model.texts == tuple(text for text, _ in PIECES)
    assert [processor.get_score(i) for i in range(len(PIECES))] == list(vocabulary.model.scores)
    assert [processor.is_byte(i) for i in range(len(PIECES))] == [kind == BYTE for kind in vocabulary.model.types]
    assert vocabulary.model.dummy_prefix


INVALID = {
    "empty": b"",
    "text": b"hello, this is not a model\n",
    "git_lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:e7dc\nsize 1018370\n",
    "html_page": b"<!DOCTYPE html><html><body>404</body></html>",
    "no_pieces": tokenizer_proto([]),
    "no_settings": b"".join(piece(text, kind) for text, kind in PIECES),
    "piece_twice": tokenizer_proto([*PIECES, ("hello", NORMAL)]),
    "empty_piece": piece("", NORMAL) + GOOD,
    "endless_piece": piece("x" * (MAX_PIECE_BYTES + 1), NORMAL) + GOOD,
    "piece_not_utf8": piece(b"\xff\xfe", NORMAL) + GOOD,
    "piece_with_nul": piece("a\0b", NORMAL) + GOOD,
    "score_nan": piece("zz", NORMAL, NAN) + GOOD,
    "score_infinite": piece("zz", NORMAL, -INFINITE) + GOOD,
    "type_0": piece("zz", 0) + GOOD,
    "type_7": piece("zz", 7) + GOOD,
    "type_huge": piece("zz", 2**63) + GOOD,
    "field_number_0": GOOD + b"\x00\x01",
    "group": GOOD + b"\x0b\x0c",
    "length_2_to_the_40": varint(1 << 3 | 2) + varint(2**40) + GOOD,
    "length_2_to_the_64": varint(1 << 3 | 2) + b"\xff" * 9 + b"\x01" + GOOD,
    "length_of_11_bytes": varint(1 << 3 | 2) + b"\xff" * 10 + b"\x01" + GOOD,
    "pieces_as_numbers": field(1, 5) + GOOD,
    "trainer_twice": GOOD + field(2, b""),
}


@pytest.mark.case("M19")
@pytest.mark.parametrize("content", INVALID.values(), ids=INVALID.keys())
def test_a_broken_file_is_invalid(write: Callable[[bytes], Path], content: bytes) -> None:
    path = write(content)
    with pytest.raises(InvalidFileError) as caught:
        read_vocabulary(path, PADDED)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


UNSUPPORTED = {
    "unigram": tokenizer_proto(trainer={**TRAINER, 3: 1}),
    "no_byte_fallback": tokenizer_proto(trainer={**TRAINER, 35: 0}),
    "space_as_suffix": tokenizer_proto(trainer={**TRAINER, 24: 1}),
    "rewrites_characters": tokenizer_proto(normalizer={**NORMALIZER, 1: b"nmt_nfkc", 2: b"\x10\0\0\0" + bytes(16)}),
    "drops_white_space": tokenizer_proto(normalizer={**NORMALIZER, 4: 1}),
    "keeps_spaces": tokenizer_proto(normalizer={**NORMALIZER, 5: 0}),
    "user_defined_piece": tokenizer_proto([*PIECES, ("<user>", USER_DEFINED)]),
    "unused_piece": tokenizer_proto([*PIECES, ("zzz", UNUSED)]),
    "bytes_missing": tokenizer_proto([*FIRST, *BYTES[:-1], ("a", NORMAL)]),
    "byte_with_a_wrong_name": tokenizer_proto([*FIRST, *BYTES[:-1], ("<0x-1>", BYTE)]),
    "no_end_of_text": tokenizer_proto([*FIRST[:2], *BYTES, ("a", NORMAL)]),
    "end_of_text_is_a_normal_piece": tokenizer_proto([*FIRST[:2], ("</s>", NORMAL), *BYTES]),
    "two_unknown": tokenizer_proto([*PIECES, ("<unk2>", 2)]),
}


@pytest.mark.parametrize("content", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_another_kind_of_tokenizer_is_unsupported(write: Callable[[bytes], Path], content: bytes) -> None:
    with pytest.raises(UnsupportedModelError):
        read_vocabulary(write(content), PADDED)


@pytest.mark.case("M8", "M19")
def test_a_file_cut_anywhere_is_refused(write: Callable[[bytes], Path]) -> None:
    for size in [*range(0, len(GOOD) - 70, 23), *range(len(GOOD) - 70, len(GOOD))]:  # the settings come last
        path = write(GOOD[:size])
        with pytest.raises((InvalidFileError, UnsupportedModelError)):
            read_tokenizer_model(path)


@pytest.mark.case("M19")
@pytest.mark.parametrize("padded", [len(PIECES) + 4, len(PIECES) + 5 + 1024, 65024], ids=["short", "long", "real"])
def test_a_tokenizer_of_another_model_is_invalid(write: Callable[[bytes], Path], padded: int) -> None:
    with pytest.raises(InvalidFileError, match=f"padded_vocab_size {padded}"):
        read_vocabulary(write(GOOD), padded)


def test_a_missing_file_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="missing"):
        read_vocabulary(tmp_path / "tokenizer.model", PADDED)


@pytest.mark.case("M21")
def test_mutated_files_raise_only_our_errors(write: Callable[[bytes], Path]) -> None:
    draw = random.Random(3)
    small = tokenizer_proto([*FIRST, *BYTES, ("a", NORMAL), ("aa", NORMAL), ("<ctl>", CONTROL)])
    for _ in range(200):
        content = bytearray(small)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        try:
            load_sentencepiece(read_vocabulary(write(bytes(content)), PADDED))
        except GlmEdgeError:
            continue
