"""GET /metrics: what requests came to, in Prometheus's format, behind the access policy."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.api.app import create_app
from glm_edge.errors import EngineError, OverloadedError
from glm_edge.types import Request
from support.engines.fake_engine import FakeEngine, Step
from support.server.live_server import CHAT, LiveServer, eventually, get, post


def script(request: Request) -> list[Step]:
    question = request.messages[-1].content
    if question == "fail":
        return [EngineError("broken")]
    if question == "fail late":
        return ["a", EngineError("broken")]
    return [OverloadedError("full", retry_after=1)] if question == "full" else ["a", 0.01, "b", "c"]


def figures(text: str) -> dict[str, float]:
    """Sample -> value; labels in braces."""
    return {
        sample.name
        + (
            "{" + ",".join(value for _, value in sorted(sample.labels.items())) + "}" if sample.labels else ""
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def chat(client: FlaskClient, question: str, **fields: Any) -> None:
    body = {"messages": [{"role": "user", "content": question}], **fields}
    response = client.post(CHAT, json=body)
    try:
        response.get_data()
    except ConnectionAbortedError:
        assert question == "fail late"
    finally:
        response.close()


def scraped(client: FlaskClient) -> dict[str, float]:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.content_type.startswith("text/plain")
    return figures(response.get_data(as_text=True))


def test_requests_are_counted_by_how_they_ended() -> None:
    client = create_app(FakeEngine(script)).test_client()
    for question in ("ok", "ok", "fail", "full", "x" * 9000):
        chat(client, question)
    chat(client, "ok", stream=True)
    chat(client, "fail late", stream=True)
    client.get("/nothing").close()
    found = scraped(client)
    ended = {name: value for name, value in found.items() if name.startswith("glm_edge_requests_total")}
    assert ended == {
        f"glm_edge_requests_total{{{outcome},{path}}}": count
        for path, outcome, count in (
            (CHAT, "ok", 3),
            (CHAT, "failed", 2),
            (CHAT, "unavailable", 1),
            (CHAT, "refused", 1),
            ("other", "refused", 1),
        )
    }


def test_tokens_and_times_are_those_of_the_answers() -> None:
    client = create_app(FakeEngine(script)).test_client()
    chat(client, "12345")
    chat(client, "12345", n=2)
    found = scraped(client)
    assert found["glm_edge_tokens_total{prompt}"] == 10
    assert found["glm_edge_tokens_total{completion}"] == 9
    assert found["glm_edge_first_token_seconds_count"] == 2
    assert found["glm_edge_next_token_seconds_count"] == 3
    assert found["glm_edge_next_token_seconds_sum"] >= 0.01
    assert found["glm_edge_cache_hits_total"] == 0
    assert found["glm_edge_memory_bytes"] > 10_000_000


def test_two_servers_in_one_process_count_apart() -> None:
    first, second = (create_app(FakeEngine(script)).test_client() for _ in range(2))
    chat(first, "ok")
    assert scraped(first)["glm_edge_first_token_seconds_count"] == 1
    assert scraped(second)["glm_edge_first_token_seconds_count"] == 0


def test_the_queue_and_what_runs_are_seen_while_they_last() -> None:
    go = threading.Event()
    with LiveServer(FakeEngine(["a", go], slots=1)) as server:
        body = post({"messages": [{"role": "user", "content": "x"}]})
        wires = [server.connect() for _ in range(3)]

        def found() -> dict[str, float]:
            return figures(server.exchange(get("/metrics")).body.decode())

        for wire in wires:
            wire.send(body)
        assert eventually(lambda: (found()["glm_edge_running"], found()["glm_edge_queue"]) == (1, 2))
        wires[2].__exit__()  # one leaves
        assert eventually(lambda: found().get(f"glm_edge_requests_total{{cancelled,{CHAT}}}") == 1)
        go.set()
        for wire in wires[:2]:
            assert wire.reply().status == 200
            wire.__exit__()
        assert eventually(lambda: (found()["glm_edge_running"], found()["glm_edge_queue"]) == (0, 0))


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"API-KEY": "key"}, 200)])
def test_the_figures_need_the_key(headers: dict[str, str], status: int) -> None:
    client = create_app(FakeEngine(), policy=AccessPolicy(Keys(["key"]))).test_client()
    assert client.get("/metrics", headers=headers).status_code == status
