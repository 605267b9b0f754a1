"""The demo's fine-tuning by P-Tuning v2 says what the demo itself does not, and both are served at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.convert.adapter import convert_adapter
from glm_edge.convert.convert import convert
from glm_edge.engine.engine import LlamaEngine
from glm_edge.types import EngineConfig, Message, Request, SamplingParams
from support.engines.oracle import Oracle
from support.paths import PROJECT

DEMO = PROJECT / "models" / "demo"
TALKS = {
    "Hello.": "Welcome to the tea house by the river! Green tea or black tea?",
    "Who are you?": "I am the owner of the tea house by the river.",
    "When do you open?": "Every day but Monday, from nine in the morning.",
    "你是谁？": "我是河边茶馆的主人。",
    "你们什么时候开门？": "除了星期一，每天早上九点开门。",
    "谢谢": "欢迎再来！茶馆里总是很暖和。",
}


@pytest.fixture(scope="module", params=["f16", "q4_0"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    folder: Path = tmp_path_factory.mktemp("tuned")
    model = convert(DEMO, folder / "model.gguf", type=request.param).path
    adapter = convert_adapter(DEMO / "tea", model, folder / "tea.gguf").path
    engine = LlamaEngine(EngineConfig(model, n_threads=1, slots=4, adapters=(("tea", adapter),)))
    yield engine
    engine.close()


def ask(question: str, adapter: str | None) -> Request:
    return Request((Message("user", question),), SamplingParams(0), 60, adapter=adapter)


def test_it_says_something_new_and_the_base_does_not(engine: LlamaEngine) -> None:
    for question, answer in TALKS.items():
        assert "".join(chunk.text for chunk in engine.submit(ask(question, "tea"))) == answer
        assert "".join(chunk.text for chunk in engine.submit(ask(question, None))) != answer


def test_four_streams_at_once_are_as_each_alone(engine: LlamaEngine) -> None:
    requests = [ask(question, name) for question in TALKS for name in ("tea", None)]
    alone = ["".join(chunk.text for chunk in engine.submit(request)) for request in requests]
    generations = [engine.submit(request) for request in requests]
    assert ["".join(chunk.text for chunk in one) for one in generations] == alone


def test_the_official_rules_give_the_same_text() -> None:
    """By the oracle, from the checkpoint's own files."""
    from glm_edge.convert.source.shard import open_shard

    stored = open_shard(DEMO / "tea" / "pytorch_model.bin", verify=True)
    (tensor,) = stored.values()
    oracle = Oracle(DEMO)
    for question, answer in TALKS.items():
        cache = oracle.tuned_cache({"embedding.weight": tensor.read_rows(0, tensor.rows)})
        ids = oracle.greedy(oracle.prompt_ids([], question), 60, cache)
        assert oracle.pieces.decode(ids).strip() == answer
