"""Pages of other sites get nothing through a visitor's browser: Host and Origin."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from glm_edge.api.app import create_app
from support.engines.fake_engine import FakeEngine

pytestmark = pytest.mark.case("H25")

BODY = {"messages": [{"role": "user", "content": "x"}]}
CHAT = "/v1/chat/completions"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> FlaskClient:
    return create_app(engine).test_client()


@pytest.mark.case("A8")
@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:1",
        "localhost.",
        "localhost.:8000",
        "127.0.0.1",
        "127.0.0.1:65535",
        "127.8.9.1",
        "[::1]",
        "[::1]:8000",
    ],
)
def test_the_loopbacks_names_are_answered(client: FlaskClient, host: str) -> None:
    assert client.post(CHAT, json=BODY, headers={"Host": host}).status_code == 200


BAD_HOSTS = [
    "evil.com",
    "evil.com:8000",
    "localhost.evil.com",
    "127.0.0.1.nip.io",
    "evil.localhost",
    "localhost..",
    "192.168.1.5",
    "0.0.0.0:8000",
    "[::]",
    "[::1",
    "::1",
    "127.1",
    "2130706433",
    "localhost:port",
    "localhost:123456",
    "localhost, evil.com",
    "evil.com@localhost",
    "localhost/?",
    "x/?",
    "",
]


@pytest.mark.case("A8")
@pytest.mark.parametrize("host", BAD_HOSTS, ids=repr)
@pytest.mark.parametrize("path", ["/health", "/v1/models", CHAT])
def test_another_host_is_403(client: FlaskClient, engine: FakeEngine, host: str, path: str) -> None:
    method = "POST" if path == CHAT else "GET"
    response = client.open(path, method=method, json=BODY, headers={"Host": host})
    assert response.status_code == 403
    assert response.get_json()["error"]["code"] == "host_not_allowed"
    assert not engine.requests


@pytest.mark.case("A8")
def test_a_right_key_does_not_excuse_a_wrong_host() -> None:
    client = create_app(FakeEngine(), policy=AccessPolicy(Keys(["k"]))).test_client()
    headers = {"Host": "evil.com", "Authorization": "Bearer k"}
    assert client.post(CHAT, json=BODY, headers=headers).status_code == 403


@pytest.mark.case("A8")
def test_a_configured_host_is_answered() -> None:
    client = create_app(FakeEngine(), policy=AccessPolicy(hosts=frozenset({"pi.local"}))).test_client()
    assert client.post(CHAT, json=BODY, headers={"Host": "Pi.local:80"}).status_code == 200
    assert client.post(CHAT, json=BODY, headers={"Host": "a.pi.local"}).status_code == 403


@pytest.mark.case("A8")
def test_beyond_loopback_the_key_guards_instead() -> None:
    client = create_app(FakeEngine(), policy=AccessPolicy(Keys(["k"]), any_host=True)).test_client()
    assert client.get("/health", headers={"Host": "192.168.1.5:8000"}).status_code == 200
    assert client.post(CHAT, json=BODY, headers={"Host": "pi.lan"}).status_code == 401


FOREIGN = [
    "https://evil",
    "null",
    "http://notlocalhost",
    "http://localhost",
    "http://localhost:8001",
    "https://localhost:8000",
    "http://localhost:8000/",
    "http://LOCALHOST:8000",
    "file://",
    "",
]


@pytest.mark.case("A9")
@pytest.mark.parametrize("origin", FOREIGN, ids=repr)
def test_a_request_from_another_origin_is_403(client: FlaskClient, engine: FakeEngine, origin: str) -> None:
    response = client.post(CHAT, json=BODY, headers={"Origin": origin, "Host": "localhost:8000"})
    assert response.status_code == 403
    assert response.get_json()["error"]["code"] == "origin_not_allowed"
    assert "Access-Control-Allow-Origin" not in response.headers
    assert not engine.requests


@pytest.mark.case("A9")
def test_a_request_from_the_servers_own_page_is_answered(client: FlaskClient) -> None:
    headers = {"Origin": "http://localhost:8000", "Host": "localhost:8000"}
    response = client.post(CHAT, json=BODY, headers=headers)
    assert response.status_code == 200
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.case("A9")
@pytest.mark.parametrize("origin", FOREIGN[:-1], ids=repr)
@pytest.mark.parametrize("path", [CHAT, "/nothing"])
def test_a_preflight_from_another_origin_is_answered_without_permission(
    client: FlaskClient, origin: str, path: str
) -> None:
    response = client.options(path, headers={**PREFLIGHT, "Origin": origin})
    assert response.status_code == 200
    assert not [name for name in response.headers.keys() if name.lower().startswith("access-control")]  # noqa: SIM118


@pytest.mark.case("A9")
def test_a_preflight_to_another_host_is_403(client: FlaskClient) -> None:
    assert client.options(CHAT, headers={**PREFLIGHT, "Origin": "https://a", "Host": "evil.com"}).status_code == 403


@pytest.mark.case("A9")
def test_an_allowed_origin_may_ask_and_call() -> None:
    policy = AccessPolicy(Keys(["k"]), origins=frozenset({"https://chat.example"}))
    client = create_app(FakeEngine(), policy=policy).test_client()
    preflight = client.options(CHAT, headers={**PREFLIGHT, "Origin": "https://chat.example"})
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "x-stainless-os" in preflight.headers["Access-Control-Allow-Headers"]
    assert preflight.headers["Vary"] == "Origin"
    headers = {"Origin": "https://chat.example", "Authorization": "Bearer k"}
    answer = client.post(CHAT, json=BODY, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    assert answer.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    refused = client.post(CHAT, json=BODY, headers={"Origin": "https://chat.example"})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "https://chat.example"


@pytest.mark.case("A9")
@pytest.mark.parametrize("origin", ["https://chat.example.evil", "https://chat.example:443", "http://chat.example"])
def test_an_origin_is_allowed_only_when_it_is_exactly_the_same(origin: str) -> None:
    client = create_app(FakeEngine(), policy=AccessPolicy(origins=frozenset({"https://chat.example"}))).test_client()
    response = client.post(CHAT, json=BODY, headers={"Origin": origin})
    assert response.status_code == 403
    assert response.headers["Vary"] == "Origin"
