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
from support.paths import PROJECT, SUPPORT

DEMO = PROJECT / "models" / "demo"
MEGABYTE = 1_000_000
TRAINED_ANSWERS = 59  # so many conversations of heldout.txt begin it, and most of their answers are trained ones


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


def sentences(text: str) -> list[str]:
    """The sentences of a text, as `plain` writes them."""
    return [found for part in re.split(r"[.!?](?=\s|$)|[。！？]", text) if (found := plain(part))]


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


# Fields of sentencepiece's TrainerSpec and what they are where a file leaves them out (sentencepiece_model.proto).
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


def test_held_out_text_has_a_new_part_without_a_trained_or_repeated_sentence(trained: set[tuple[str, str]]) -> None:
    known = {question for question, _ in trained}
    for answer in {answer for _, answer in trained}:
        known.update(sentences(answer))
    new = [text for rounds in held_out()[TRAINED_ANSWERS:] for pair in rounds for text in pair]
    found = [sentence for text in new for sentence in sentences(text)]
    assert sum(len(text.encode()) for text in new) >= 65_000
    assert [sentence for sentence in found if sentence in known] == []
    assert [sentence for sentence, count in Counter(found).items() if count > 1] == []


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
