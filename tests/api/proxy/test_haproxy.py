"""Several servers behind a real HAProxy with the guide's configuration as it is, each at the address that it names."""

from __future__ import annotations

import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.guides import GUIDES
from support.server.live_server import PATIENCE, Wire, eventually
from support.server.office import CLIENT, HOSTS, Office, office

ONE, TWO, THREE, _ = HOSTS
NAMES = dict(zip(("one", "two", "three", "four"), HOSTS, strict=True))
LONG = {"messages": [{"role": "user", "content": "long"}], "stream": True}


@contextmanager
def behind_haproxy(servers: int) -> Iterator[Office]:
    with office("haproxy", "-f", str(GUIDES / "haproxy.cfg"), servers=servers) as several:
        wait_for(*HOSTS[:servers])
        yield several


def figures(name: str, labels: str = "") -> dict[str, int]:
    """A figure of every server, by its address, from HAProxy's metrics."""
    with urllib.request.urlopen("http://127.0.0.1:8404/metrics", timeout=PATIENCE) as reply:
        text = reply.read().decode()
    lines = re.findall(rf'haproxy_server_{name}{{proxy="servers",server="(\w+)"{labels}}} (\d+)', text)
    return {NAMES[server]: int(value) for server, value in lines}


def up() -> set[str]:
    """The servers that HAProxy asks."""
    return {host for host, is_up in figures("status", ',state="UP"').items() if is_up}


def wait_for(*hosts: str) -> None:
    assert eventually(lambda: up() == set(hosts)), up()


def test_a_conversation_stays_on_its_server_and_conversations_are_spread() -> None:
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    with behind_haproxy(4) as several:
        first = {n: several.ask(f"conversation-{n}") for n in range(24)}
        assert set(first.values()) == set(HOSTS)
        assert all(several.ask(f"conversation-{n}") == host for n, host in first.items())
        # without the header: by `user`, else by the first question
        assert len({several.ask(user="a", messages=turns[:n]) for n in (1, 3)}) == 1
        assert len({several.ask(messages=turns[:n]) for n in (1, 3)}) == 1
        system = {"role": "system", "content": "the same for all"}
        questions = [[system, {"role": "user", "content": f"question {n}"}] for n in range(24)]
        assert len({several.ask(messages=one) for one in questions}) > 1
        # the server behind the proxy that it was told of knows who asked
        line = several.servers[first[0]].said("POST /v1/chat/completions 200")
        assert f" {CLIENT} " in line.string


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_is_killed_costs_its_own_answers_only_and_one_that_drains_none(end: signal.Signals) -> None:
    with behind_haproxy(2) as several:
        here, there = several.conversation_at(ONE), several.conversation_at(TWO)
        with several.send(here, **LONG) as mine, several.send(there, **LONG) as other:
            assert ONE.encode() in begun(mine)
            assert TWO.encode() in begun(other)
            several.servers[ONE].popen.send_signal(end)
            wait_for(TWO)
            assert several.ask(here) == TWO
            assert ends_well(other)
            assert ends_well(mine) == (end == signal.SIGTERM)
        several.serve(ONE)
        wait_for(ONE, TWO)
        assert several.ask(here) == ONE  # it takes its share again


def test_a_question_is_asked_again_where_its_server_ends_before_the_first_byte() -> None:
    with behind_haproxy(2) as several:
        here = several.conversation_at(ONE)
        with several.send(here, messages=LONG["messages"]) as wire:
            assert eventually(lambda: figures("current_sessions")[ONE] == 1)
            several.servers[ONE].popen.kill()
            reply = wire.reply()
        assert (reply.status, TWO in reply.json["choices"][0]["message"]["content"]) == (200, True)


def test_a_server_with_another_file_takes_no_part() -> None:
    with behind_haproxy(2) as several:
        several.serve(THREE, options=("--digest", "0b" * 32))
        several.servers[THREE].said("GET /v1/models 200")  # it was looked at
        assert {several.ask(f"conversation-{n}") for n in range(12)} == {ONE, TWO}
        assert up() == {ONE, TWO}


def begun(wire: Wire) -> bytes:
    """The head and the stream's first events, up to the text's beginning."""
    assert wire.head().status == 200
    data = b""
    while b"192.168" not in data:
        chunk = wire.chunk()
        assert chunk, data
        data += chunk
    return data


def ends_well(wire: Wire) -> bool:
    """Whether the stream, read to its end, has one."""
    data = b""
    while chunk := wire.chunk():
        data += chunk
    return data.endswith(b"data: [DONE]\n\n")
