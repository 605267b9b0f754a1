"""models/demo as it ships: its files, its text, and what its prompts in the tests are."""

import json
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from glm_edge.convert.source.checkpoint import open_checkpoint
from glm_edge.convert.tensors import map_tensors
from glm_edge.convert.tokenizer.protobuf import fields
from glm_edge.convert.tokenizer.tokenizer_model import read_tokenizer_model
from support.paths import PROJECT, SUPPORT

DEMO = PROJECT / "models" / "demo"
MEGABYTE = 1_000_000


def lines(name: str) -> list[Any]:
    return [json.loads(line) for line in (SUPPORT / name).read_text(encoding="utf-8").splitlines()]


def has_chinese(text: str) -> bool:
    return re.search("[\u4e00-\u9fff]", text) is not None


def held_out() -> list[list[tuple[str, str]]]:
    """The conversations of heldout.txt: rounds of question and answer."""
    text = (DEMO / "text" / "heldout.txt").read_text(encoding="utf-8")
    conversations = re.split(r"^(?=\[Round 1\]$)", text, flags=re.MULTILINE)[1:]
    pattern = re.compile(r"\[Round \d+\]\n\n问：(.*)\n\n答：(.*)\n*")
    return [pattern.findall(conversation) for conversation in conversations]


@pytest.fixture(scope="module")
def trained() -> set[tuple[str, str]]:
    """Every question, without case, punctuation and spaces, and its answer, that training text can produce."""
    text = runpy.run_path(str(DEMO / "conversations.py"))["Text"](DEMO / "text")
    return {(plain(question), answer) for question, answer in text.pairs()}


def plain(question: str) -> str:
    return re.sub(r"[\W_]", "", question).lower()


@pytest.fixture(scope="module")
def demo() -> Path:
    if not (DEMO / "config.json").is_file():
        pytest.skip(f"no checkpoint in {DEMO}; models/demo/train.py makes it")
    return DEMO


def test_checkpoint_has_every_tensor_that_its_config_asks_for(demo: Path) -> None:
    checkpoint = open_checkpoint(demo)
    tensors = map_tensors(checkpoint.config, checkpoint.tensors, demo)
    assert {tensor.source.dtype for tensor in tensors} == {"f16"}
    assert checkpoint.config.name == "glm-edge-demo"
    assert checkpoint.config.ffn_hidden_size % 32 == 0
    assert checkpoint.config.ffn_hidden_size % 256 != 0  # so K-quants fall back, as in the real model
    assert "transformer.rotary_pos_emb.inv_freq" in checkpoint.tensors
    assert len(list(demo.glob("pytorch_model-0000?-of-00002.bin"))) == 2


def test_checkpoint_has_the_keys_of_the_real_config(demo: Path, reference: Path) -> None:
    ours, real = (json.loads((folder / "config.json").read_bytes()) for folder in (demo, reference / "chatglm2-6b"))
    assert list(ours) == list(real)
    sizes = {"_name_or_path", "ffn_hidden_size", "hidden_size", "kv_channels", "num_attention_heads", "num_layers"}
    assert {key for key in real if ours[key] != real[key]} == sizes | {"padded_vocab_size", "seq_length"}


# Fields of sentencepiece's TrainerSpec and what they are where a file leaves them out (sentencepiece_model.proto).
TRAINER = {
    "model_type": (3, 1),
    "max_sentencepiece_length": (20, 16),
    "split_by_unicode_script": (21, 1),
    "split_by_whitespace": (22, 1),
    "split_by_number": (23, 1),
    "treat_whitespace_as_suffix": (24, 0),
    "split_digits": (25, 0),
    "allow_whitespace_only_pieces": (26, 0),
    "byte_fallback": (35, 0),
    "unk_id": (40, 0),
    "bos_id": (41, 1),
    "eos_id": (42, 2),
    "pad_id": (43, 2**64 - 1),
}
NORMALIZER = {"name": (1, b""), "charsmap": (2, b""), "dummy_prefix": (3, 1), "remove_extra_whitespaces": (4, 1)}


def settings(folder: Path) -> dict[str, Any]:
    messages = {number: value for number, _, value in fields((folder / "tokenizer.model").read_bytes()) if number > 1}
    found: dict[str, Any] = {}
    for message, table in ((2, TRAINER), (3, NORMALIZER)):
        values = {number: value for number, _, value in fields(messages[message])}
        found |= {name: values.get(number, default) for name, (number, default) in table.items()}
    return found


def test_tokenizer_was_trained_with_the_real_settings(demo: Path, reference: Path) -> None:
    assert settings(demo) == settings(reference / "chatglm2-6b")
    ours, real = (read_tokenizer_model(folder / "tokenizer.model") for folder in (demo, reference / "chatglm2-6b"))
    assert ours.texts[:259] == real.texts[:259]  # <unk>, <s>, </s> and the 256 bytes
    assert ours.types[:259] == real.types[:259]
    assert 2000 <= len(ours.texts) <= 4000


def test_everything_together_stays_small(demo: Path) -> None:
    files = [
        path
        for path in demo.rglob("*")
        if path.is_file() and not path.relative_to(demo).parts[0].startswith((".", "__pycache__"))
    ]
    assert sum(path.stat().st_size for path in files) <= 10 * MEGABYTE


def test_held_out_conversations_begin_with_no_trained_question(trained: set[tuple[str, str]]) -> None:
    questions = {question for question, _ in trained}
    conversations = held_out()
    assert len(conversations) >= 50
    assert all(conversations)
    assert [rounds[0] for rounds in conversations if plain(rounds[0][0]) in questions] == []


def test_listed_prompts_are_enough_and_half_chinese() -> None:
    prompts = lines("demo_prompts.jsonl")
    assert len(prompts) >= 60
    assert max(Counter(case["prompt"] for case in prompts).values()) == 1
    assert Counter(has_chinese(case["prompt"]) for case in prompts) == {True: len(prompts) / 2, False: len(prompts) / 2}


def test_listed_prompts_have_the_answers_of_the_text(trained: set[tuple[str, str]]) -> None:
    cases = [(plain(case["prompt"]), case["answer"]) for case in lines("demo_prompts.jsonl")]
    assert [case for case in cases if case not in trained] == []


def test_listed_second_questions_say_too_little_alone() -> None:
    rounds = lines("demo_rounds.jsonl")
    assert len(rounds) >= 10
    for first, second, answer in rounds:
        assert len(first) == 2
        assert second not in {case["prompt"] for case in lines("demo_prompts.jsonl")}
        assert answer
