"""No user text can become a special token: names are chosen by proof, and llama.cpp agrees on the ids of hard texts."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import jinja2
import pytest

from glm_edge.convert.convert import convert
from glm_edge.convert.tokenizer.golden import TEXTS
from glm_edge.convert.tokenizer.vocab import SPECIAL, Vocabulary, load_sentencepiece, reachable_texts, read_vocabulary
from glm_edge.engine.text.prompt import prompt_text
from glm_edge.errors import UnsupportedModelError
from glm_edge.model.gguf import read_gguf
from support.checkpoints.small_checkpoint import (
    BYTES,
    CONTROL,
    FIRST,
    NORMAL,
    PIECES,
    tokenizer_proto,
    write_checkpoint,
)

Tokenize = Callable[..., list[int]]


@pytest.fixture(scope="module")
def large(tiny_checkpoint: Path) -> Vocabulary:
    """As large as the real one, and with the same special tokens."""
    return read_vocabulary(tiny_checkpoint / "tokenizer.model", 65024)


@pytest.fixture(scope="module")
def open_vocab() -> Iterator[Callable[[Path], Tokenize]]:
    """Opens a GGUF file's vocabulary in llama.cpp; the result tokenizes plain text unless told to parse."""
    import llama_cpp

    opened = []

    def open_vocab(path: Path) -> Tokenize:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert model
        opened.append(model)
        vocab = llama_cpp.llama_model_get_vocab(model)

        def tokenize(text: str, parse_special: bool = False) -> list[int]:
            data = text.encode()
            ids = (ctypes.c_int32 * (len(data) + 8))()
            count = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), parse_special, parse_special)
            assert count >= 0
            return list(ids[:count])

        return tokenize

    yield open_vocab
    for model in opened:
        llama_cpp.llama_model_free(model)


def test_the_special_tokens_follow_the_pieces(large: Vocabulary) -> None:
    ids = {"[MASK]": 64789, "[gMASK]": 64790, "[sMASK]": 64791, "sop": 64792, "eop": 64793}
    assert large.special == ids
    assert large.prefix_ids == (64790, 64792)
    assert (large.id_of("<unk>"), large.id_of("<s>"), large.id_of("</s>")) == (0, 1, 2)
    assert len(large.texts) == len(set(large.texts)) == len(large.types) == len(large.scores) == 65024


def test_every_token_but_normal_pieces_is_out_of_reach(large: Vocabulary) -> None:
    reachable = reachable_texts(large.texts)
    assert {text for text, kind in zip(large.texts, large.types, strict=True) if kind != NORMAL}.isdisjoint(reachable)
    assert {"sop", "eop"} <= reachable_texts([*large.texts, "sop", "eop"])  # the defect that the names avoid


def test_special_ids_follow_from_the_number_of_pieces(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer_proto())
    vocabulary = read_vocabulary(path, 512)
    assert vocabulary.special == {name: len(PIECES) + n for n, name in enumerate(SPECIAL)}
    assert vocabulary.prefix_texts == ("[gMASK]", "<sop>")


def test_a_name_that_pieces_merge_into_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    pieces = [(text, NORMAL) for text in ("<s", "<so", "p>", "[P", "[PA", "[PAD", "1]", "[PAD4", "01]", "0", "4", "1")]
    path.write_bytes(tokenizer_proto([*PIECES[:-20], *[pair for pair in pieces if pair not in PIECES]]))
    vocabulary = read_vocabulary(path, 512)
    assert vocabulary.prefix_texts == ("[gMASK]", "<|sop|>")  # "<so" + "p>" would be <sop>
    assert vocabulary.texts[401] == "<|PAD401|>"  # "[PAD4" + "01]" would be [PAD401]
    assert vocabulary.texts[402] == "[PAD402]"
    names = set(vocabulary.texts[len(vocabulary.model.texts) :])
    assert names.isdisjoint(reachable_texts(vocabulary.texts))


def test_the_last_name_to_try_cannot_be_typed_whatever_the_pieces() -> None:
    names = [candidates[-1] for candidates in SPECIAL.values()]
    every_part = {name[a:b] for name in names for a in range(len(name)) for b in range(a + 1, len(name) + 1)}
    assert set(names).isdisjoint(reachable_texts(every_part | {part.replace(" ", "▁") for part in every_part}))


@pytest.mark.parametrize(
    ("parts", "token", "name"),
    [(["</", "s>"], 2, "<|</s>|>"), (["<s"], 1, "<|<s>|>"), (["<u", "nk", "<unk"], 0, "<|<unk>|>")],
    ids=["end", "start", "unknown"],
)
def test_a_special_piece_that_others_merge_into_is_renamed(
    tmp_path: Path, parts: list[str], token: int, name: str
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer_proto([*FIRST, *BYTES, *[(text, NORMAL) for text in parts]]))
    vocabulary = read_vocabulary(path, 300)
    assert vocabulary.texts[token] == name
    assert vocabulary.id_of(FIRST[token][0]) == token


def test_a_control_piece_of_one_character_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer_proto([*PIECES, ("☃", CONTROL)]))
    assert read_vocabulary(path, 512).texts[len(PIECES)] == "<|☃|>"


def test_byte_pieces_that_others_merge_into_stop_the_conversion(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    parts = [(text, NORMAL) for text in ("<0", "x0", "A>", "x0A>")]
    path.write_bytes(tokenizer_proto([*FIRST, *BYTES, *parts]))
    with pytest.raises(UnsupportedModelError, match="<0x0A>"):
        read_vocabulary(path, 300)


def test_llama_cpp_gives_the_golden_ids(
    large: Vocabulary, tiny_q4_0: Path, open_vocab: Callable[[Path], Tokenize]
) -> None:
    tokenize, processor = open_vocab(tiny_q4_0), load_sentencepiece(large)
    for text in TEXTS:
        ids = tokenize(text)
        assert ids == processor.encode(text)
        assert not {token for token in ids if token >= 64789 or token < 3}


def test_llama_cpp_makes_no_special_token_of_any_mix_of_their_names(
    tmp_path: Path, open_vocab: Callable[[Path], Tokenize]
) -> None:
    """Random texts out of the names' own parts, on a vocabulary that holds many of these parts as pieces."""
    parts = ["<s", "so", "op", "p>", "<so", "op>", "[P", "AD", "PAD", "[g", "MA", "SK", "K]", "gM", "</", "s>"]
    single = sorted(set("".join(parts)) - {text for text, _ in PIECES})
    pieces = [*PIECES, *[(text, NORMAL) for text in [*parts, *single] if text not in dict(PIECES)]]
    checkpoint = write_checkpoint(tmp_path / "model", tokenizer=tokenizer_proto(pieces))
    tokenize = open_vocab(convert(checkpoint, tmp_path / "x.gguf", type="q8_0").path)
    draw = random.Random(5)
    names = ["[gMASK]", "<sop>", "<|sop|>", "sop", "eop", "<eop>", "[PAD450]", "</s>", "<s>", "<unk>", "<0x0A>", *parts]
    normal = {i for i, (_, kind) in enumerate(pieces) if kind == NORMAL} | set(
        range(3, 259)
    )  # bytes stand for themselves
    for _ in range(2000):
        text = "".join(draw.choices(names, k=draw.randint(1, 6)))
        assert set(tokenize(text)) <= normal, text


def test_another_program_gets_our_ids_out_of_the_embedded_template(
    large: Vocabulary, tiny_q4_0: Path, open_vocab: Callable[[Path], Tokenize]
) -> None:
    """A program that renders the template and then parses special tokens, as llama-server does."""
    template = read_gguf(tiny_q4_0).metadata["tokenizer.chat_template"]
    assert isinstance(template, str)
    render, tokenize = jinja2.Environment().from_string(template).render, open_vocab(tiny_q4_0)
    processor = load_sentencepiece(large)
    for texts in (
        ["你好"],
        ["晚上睡不着应该怎么办", "听音乐", "What is philosophy?"],
        ["a", "sop", "b", " eop\n", "  "],
    ):
        messages = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]
        asked = prompt_text(list(zip(texts[::2], texts[1::2], strict=False)), texts[-1])
        ids = tokenize(render(messages=messages, add_generation_prompt=True), parse_special=True)
        assert ids == [64790, 64792, *processor.encode(asked)]
