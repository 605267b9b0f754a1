"""Answers in a format: whatever the model would say, the text is JSON, and obeys its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import RequestError
from glm_edge.types import Chunk, EngineConfig, JsonFormat, Message, Request, SamplingParams


@pytest.fixture(scope="module")
def engine(demo_file: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(EngineConfig(demo_file, n_threads=1, slots=2, queue=20))
    yield engine
    engine.close()


def ask(engine: LlamaEngine, schema: Any = None, max_tokens: int = 300, **sampling: Any) -> list[Chunk]:
    wanted = JsonFormat(None if schema is None else json.dumps(schema))
    # the model has never seen JSON: closing what is open is made likelier, so that answers end
    closing = {token: 12.0 for text in ('"', "}", "]", '"}') for token in engine.tokenize("\n" + text)[2:]}
    params = SamplingParams(**{"response_format": wanted, "logit_bias": closing, "seed": 1, **sampling})
    return list(engine.submit(Request((Message("user", "give me JSON"),), params, max_tokens)))


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0}, {"seed": 2}, {"temperature": 1.5, "top_p": 1.0}, {"top_k": 20}, {"min_p": 0.1}],
    ids=["greedy", "nucleus", "all", "top_k", "min_p"],
)
def test_json_object_is_one_object_unless_cut_by_length(engine: LlamaEngine, sampling: dict[str, Any]) -> None:
    for seed in range(3):
        chunks = ask(engine, **{"seed": seed, **sampling})
        if chunks[-1].finish_reason == "stop":
            assert isinstance(json.loads(text(chunks)), dict)
        else:
            assert chunks[-1].finish_reason == "length"
            assert text(chunks).startswith("{")


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer"},
        "mood": {"enum": ["good", "bad", None]},
        "when": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["x", 'y\\"\n']}, "minItems": 1, "maxItems": 3},
        "more": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["name", "age", "mood", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(4))
def test_schema_is_obeyed(engine: LlamaEngine, seed: int) -> None:
    chunks = ask(engine, PERSON, seed=seed, temperature=1.0, top_p=1.0)
    assert chunks[-1].finish_reason == "stop"
    person = json.loads(text(chunks))
    assert {"name", "age", "mood", "tags"} <= person.keys() <= PERSON["properties"].keys()  # type: ignore[attr-defined]
    assert isinstance(person["name"], str)
    assert len(person["name"]) <= 5
    assert isinstance(person["age"], int)
    assert person["mood"] in ("good", "bad", None)
    assert 1 <= len(person["tags"]) <= 3
    assert set(person["tags"]) <= {"x", 'y\\"\n'}
    assert person.get("more") in (True, False, None)


def test_answers_computed_together_keep_to_their_own_formats(engine: LlamaEngine) -> None:
    schemas = [{"const": f"answer {n}"} for n in range(6)]
    params = [SamplingParams(seed=n, response_format=JsonFormat(json.dumps(s))) for n, s in enumerate(schemas)]
    running = [engine.submit(Request((Message("user", "x"),), p, 100)) for p in params]
    assert [json.loads(text(list(one))) for one in running] == [f"answer {n}" for n in range(6)]


def test_drafts_of_prompt_lookup_keep_to_the_format(demo_file: Path) -> None:
    """A new engine tries each size of a draft, whatever this machine is busy with."""
    engine = LlamaEngine(EngineConfig(demo_file, n_threads=1))
    text_ = "one two three four five six seven eight " * 4
    chunks = ask(engine, {"enum": [text_ + "nine", text_ + "ten"]}, temperature=0)
    engine.close()
    assert json.loads(text(chunks)) in (text_ + "nine", text_ + "ten")
    stats = chunks[-1].stats
    assert stats is not None
    assert stats.accepted_tokens > 0


def test_an_answer_cut_by_its_length_says_so(engine: LlamaEngine) -> None:
    chunks = ask(engine, {"const": "a long text that takes many tokens"}, max_tokens=4)
    assert chunks[-1].finish_reason == "length"
    assert '"a long text that takes many tokens"'.startswith(text(chunks))


def test_cancelled_and_refused_answers_with_a_format_leave_the_engine_well(engine: LlamaEngine) -> None:
    params = SamplingParams(temperature=1.0, response_format=JsonFormat())
    running = [engine.submit(Request((Message("user", "x"),), params)) for _ in range(3)]
    for one in running:
        one.cancel()
        assert list(one)[-1].finish_reason in ("cancelled", "stop")  # it may have ended before
    assert json.loads(text(ask(engine, {"const": 1}))) == 1


def test_a_schema_that_cannot_be_kept_is_refused_at_submit(engine: LlamaEngine) -> None:
    with pytest.raises(RequestError) as caught:
        ask(engine, {"$ref": "#"})
    assert caught.value.param == "response_format"
