"""Hubs that answer strangely, by fault or by intent: one line, few tries, no file left, no token for anyone else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_edge.convert.pull.pull import pull
from glm_edge.errors import GlmEdgeError
from support.checkpoints.fake_hub import REPO, Fault, Hub, serving
from support.checkpoints.wide_checkpoint import shard

TRIES = 3  # the first, and one after each pause


def fails(hub: Hub, out: Path) -> str:
    """The one line of a pull that fails with 3, 4 or 6, and leaves nothing under the output's name."""
    with pytest.raises(GlmEdgeError) as caught:
        pull(REPO, out, endpoint=hub.endpoint, retries=(0.01,) * (TRIES - 1))
    assert caught.value.exit_code in (3, 4, 6)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


def listing(hub: Hub, **changes: Any) -> bytes:
    content = hub.listing()
    for sibling in content["siblings"]:
        sibling.update(changes)
        sibling.get("lfs", {}).update(changes)
    return json.dumps(content).encode()


LISTINGS: dict[str, Callable[[Hub], Fault]] = {
    "deep": lambda hub: Fault("", content=b'{"siblings": ' + b"[" * 200_000),
    "deep and whole": lambda hub: Fault("", content=b"[" * 200_000 + b"]" * 200_000),
    "negative size": lambda hub: Fault("", content=listing(hub, size=-1)),
    "size that is a boolean": lambda hub: Fault("", content=listing(hub, size=True)),
    "size that is a text": lambda hub: Fault("", content=listing(hub, size="7")),
    "huge size": lambda hub: Fault("", content=listing(hub, size=1 << 80)),
    "hash that is a number": lambda hub: Fault("", content=listing(hub, sha256=7, blobId=7)),
    "hash of a shard that is none": lambda hub: Fault("", content=listing(hub, sha256="zz")),
    "name that is a number": lambda hub: Fault("", content=listing(hub, rfilename=7)),
    "huge length": lambda hub: Fault("", content=b"{}", length=1 << 60),
    "416": lambda hub: Fault("", status=416),
    "500": lambda hub: Fault("", status=500),
    "itself": lambda hub: Fault("", location=f"/api/models/{REPO}/revision/main?blobs=true"),
    "file": lambda hub: Fault("", location="file:///etc/passwd"),
    "ftp": lambda hub: Fault("", location="ftp://127.0.0.1/x"),
    "no address": lambda hub: Fault("", location="http://[::"),
}


@pytest.mark.case("N6")
@pytest.mark.parametrize("make", LISTINGS.values(), ids=LISTINGS.keys())
def test_a_strange_listing_is_one_line(hub: Hub, out: Path, make: Callable[[Hub], Fault]) -> None:
    fault = make(hub)
    fault.times = 1000
    hub.faults = [fault]
    fails(hub, out)
    redirected = bool(fault.location)
    assert len(hub.asked) <= TRIES * (25 if redirected else 1)
    assert list(out.parent.iterdir()) == []


FILES: dict[str, Callable[[str], Fault]] = {
    "huge length": lambda name: Fault(name, length=1 << 60),
    "416": lambda name: Fault(name, status=416),
    "500": lambda name: Fault(name, status=500),
    "itself": lambda name: Fault(name, location=f"/cdn/{name}"),
    "file": lambda name: Fault(name, location="file:///etc/passwd"),
    "ftp": lambda name: Fault(name, location="ftp://127.0.0.1/x"),
    "no address": lambda name: Fault(name, location="http://[::"),
}


@pytest.mark.case("N6")
@pytest.mark.parametrize("name", ["config.json", shard(1)])
@pytest.mark.parametrize("make", FILES.values(), ids=FILES.keys())
def test_a_strange_file_is_one_line(hub: Hub, out: Path, make: Callable[[str], Fault], name: str) -> None:
    fault = make(name)
    fault.times = 1000
    hub.faults = [fault]
    if fault.length:  # the file itself is right, and complete
        pull(REPO, out, endpoint=hub.endpoint, retries=(0.01,))
        return
    fails(hub, out)
    assert sum(line.startswith(f"GET {name} ") for line in hub.asked) <= TRIES * (25 if fault.location else 1)


@pytest.mark.case("N6")
def test_a_redirect_to_another_host_gets_no_token(
    hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch, expected: bytes
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.token = "hf_secret"
    with serving(Hub(hub.files)) as other:
        elsewhere = other.endpoint.replace("127.0.0.1", "localhost")
        hub.faults = [Fault(name, location=f"{elsewhere}/cdn/{name}", times=1000) for name in hub.files]
        hub.faults.append(Fault("", location=f"{elsewhere}/api/models/{REPO}/revision/main?blobs=true"))
        pull(REPO, out, endpoint=hub.endpoint, retries=())
        assert other.asked
        assert other.tokens == {""}
    assert hub.tokens == {"Bearer hf_secret"}
    assert out.read_bytes() == expected
