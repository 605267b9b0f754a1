"""Several servers behind a real nginx with the guide's configuration as it is."""

from __future__ import annotations

from support.guides import GUIDES
from support.server.office import CLIENT, HOSTS, office


def test_conversations_stay_where_they_are_until_their_server_ends() -> None:
    with office("nginx", "-g", "daemon off;", "-c", str(GUIDES / "nginx.conf"), servers=2) as several:
        first = {n: several.ask(f"conversation-{n}") for n in range(12)}
        assert set(first.values()) == set(HOSTS[:2])
        assert all(several.ask(f"conversation-{n}") == host for n, host in first.items())
        assert f" {CLIENT} " in several.servers[HOSTS[0]].said("POST /v1/chat/completions 200").string
        several.servers[HOSTS[0]].popen.kill()
        assert {several.ask(f"conversation-{n}") for n in range(12)} == {HOSTS[1]}
