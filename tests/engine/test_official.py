"""What the official code computes, computed by us: token ids, prompts, logits, greedy text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.text.tokenizer import Tokenizer
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model
from glm_edge.model.gguf import read_gguf
from glm_edge.types import EngineConfig, Message, Request, SamplingParams


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


@pytest.fixture(scope="module")
def model(tiny_f16: Path) -> Iterator[Model]:
    model = Model(tiny_f16, vocab_only=True)
    yield model
    model.close()


def test_token_ids_equal_sentencepiece_on_every_reference_text(reference: Path, model: Model) -> None:
    cases = lines(reference / "tokens.jsonl")
    assert len(cases) >= 1500
    assert [case["text"] for case in cases if model.tokenize(case["text"]) != case["ids"]] == []


def test_pieces_of_tokens_give_the_decoded_text(reference: Path, model: Model) -> None:
    for case in lines(reference / "tokens.jsonl"):
        decoded = b"".join(model.piece(token) for token in case["ids"]).decode("utf-8", "replace")
        assert decoded.removeprefix(" ") == case["decoded"]


def test_prompt_ids_equal_the_official_ones(reference: Path, tiny_f16: Path, model: Model) -> None:
    cases = lines(reference / "prompts.jsonl")
    assert len(cases) == 60
    tokenizer = Tokenizer(model, read_gguf(tiny_f16))
    for case in cases:
        messages = []
        for question, answer in case["history"]:
            messages += [Message("user", question), Message("assistant", answer)]
        prompt = tokenizer.prompt([*messages, Message("user", case["query"])])
        assert (prompt.text, prompt.ids) == (case["prompt"], case["ids"])


@pytest.mark.parametrize(
    "text", ["philosophy", "geopolitics", "[gMASK]sop", "</s>", "<s>", "<unk>", "[MASK]<0x0A>", "eop sop", "▁</s>"]
)
def test_no_user_text_becomes_a_special_token(reference: Path, model: Model, text: str) -> None:
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(reference / "chatglm2-6b" / "tokenizer.model"))
    ids = model.tokenize(text)
    assert ids == tokenizer.encode(text)
    assert not {0, 1, 2} & set(ids)
    assert max(ids) < 64789  # from there on: [MASK], [gMASK], [sMASK], sop, eop and padding


@pytest.mark.parametrize("name", ["tiny", "tiny-int4"])
@pytest.mark.parametrize(("kind", "bound"), [pytest.param("f32", 1e-4, id="f32"), pytest.param("f16", 1e-2, id="f16")])
def test_logits_and_greedy_text_equal_the_official_code(
    reference: Path, request: pytest.FixtureRequest, name: str, kind: Any, bound: float
) -> None:
    expected = np.load(reference / name / "reference.npz")
    model = Model(request.getfixturevalue(f"{name.replace('-', '_')}_{kind}"))
    context = Context(
        model, n_ctx=512, n_batch=64, n_sequences=1, n_outputs=64, n_threads=1, n_threads_batch=1, kv_type=kind
    )
    batch = Batch(64)
    for prompt in range(3):
        ids = expected[f"ids_{prompt}"].tolist()
        batch.clear()
        context.remove(0)
        places = [batch.add(token, position, 0, logits=True) for position, token in enumerate(ids)]
        assert context.decode(batch) == "done"
        assert [int(context.logits(i).argmax()) for i in places] == expected[f"argmax_{prompt}"].tolist()
        logits = context.logits(places[-1]).copy()
        assert np.abs(logits - expected[f"last_logits_{prompt}"]).max() < bound
        greedy: list[int] = []
        while len(greedy) < 24:
            greedy.append(int(logits.argmax()))
            batch.clear()
            place = batch.add(greedy[-1], len(ids) + len(greedy) - 1, 0, logits=True)
            assert context.decode(batch) == "done"
            logits = context.logits(place)
        assert greedy == expected[f"greedy_{prompt}"].tolist()
    batch.close()
    context.close()
    model.close()


CONVERSATIONS = [
    ["你好"],
    ["晚上睡不着应该怎么办", "听音乐", "What is philosophy?"],
    ["a", "b", "c", "d", "写一首关于春天的诗。"],
]


def test_engine_writes_the_official_greedy_answers(reference: Path, tiny_f32: Path, model: Model) -> None:
    """Through prompt, tokenizer, scheduler, sampler and clean-up: the whole way of a request."""
    expected = np.load(reference / "tiny" / "reference.npz")
    engine = LlamaEngine(EngineConfig(tiny_f32, kv_type="f32", n_threads=1))
    for j, texts in enumerate(CONVERSATIONS):
        messages = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
        request = Request(tuple(messages), SamplingParams(temperature=0), max_tokens=24)
        answer = "".join(chunk.text for chunk in engine.submit(request))
        greedy = b"".join(model.piece(token) for token in expected[f"greedy_{j}"].tolist())
        assert answer == greedy.decode("utf-8", "replace").strip()
    engine.close()
