"""What a proxy says of its client: believed from the proxies that are named, from nobody else."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from glm_edge.api.access.policy import AccessPolicy
from glm_edge.api.access.proxies import Proxies
from glm_edge.errors import UsageError
from support.engines.fake_engine import FakeEngine
from support.server.live_server import BODY, LiveServer, get, post


@pytest.mark.parametrize(
    ("named", "peer", "forwarded", "client"),
    [
        ((), "10.0.0.1", "198.51.100.7", "10.0.0.1"),
        (("10.0.0.2",), "10.0.0.1", "198.51.100.7", "10.0.0.1"),
        (("10.0.0.1",), "10.0.0.1", "198.51.100.7", "198.51.100.7"),
        (("10.0.0.0/24",), "10.0.0.9", "198.51.100.7", "198.51.100.7"),
        (("10.0.0.1",), "::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        (("fd00::1",), "fd00::1", "2001:db8::7", "2001:db8::7"),
        # what the client itself sent stands before what the proxy added
        (("10.0.0.1",), "10.0.0.1", "127.0.0.1, 198.51.100.7", "198.51.100.7"),
        (("10.0.0.1", "10.0.0.2"), "10.0.0.1", "1.1.1.1, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        (("10.0.0.1",), "10.0.0.1", "", "10.0.0.1"),
        (("10.0.0.1",), "10.0.0.1", "unknown", "10.0.0.1"),
        (("10.0.0.1",), "10.0.0.1", "a forged line", "10.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_address_that_no_named_proxy_has(
    named: tuple[str, ...], peer: str, forwarded: str, client: str
) -> None:
    assert Proxies(named).client(peer, {"HTTP_X_FORWARDED_FOR": forwarded}) == client


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--proxy office is no IP address or network; give the proxy's, as 10\."):
        Proxies(["office"])


@pytest.mark.parametrize("named", [True, False])
def test_the_log_has_the_client_behind_a_named_proxy(named: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "glm_edge.http")
    policy = AccessPolicy(proxies=Proxies(["127.0.0.1"] if named else []))
    with LiveServer(FakeEngine(), policy=policy) as server:
        server.exchange(post(BODY, "X-Forwarded-For: 198.51.100.7"))
        server.exchange(get("/health", "X-Forwarded-For: 198.51.100.7", "Content-Length: 99999999"))  # too large
    lines = [record.getMessage() for record in caplog.records if record.name == "glm_edge.http"]  # waitress has its own
    seen = {line.split()[0] for line in lines}
    assert seen == {"198.51.100.7" if named else "127.0.0.1"}


@pytest.mark.parametrize(("named", "status"), [(True, 200), (False, 403)])
def test_the_page_may_call_through_a_proxy_that_ends_tls(named: bool, status: int) -> None:
    policy = AccessPolicy(any_host=True, proxies=Proxies(["127.0.0.1"] if named else []))
    through: Any = ("X-Forwarded-Proto: https", "Origin: https://localhost")
    with LiveServer(FakeEngine(), policy=policy) as server:
        assert server.exchange(post(BODY, *through)).status == status
