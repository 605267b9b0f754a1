"""A pull that ends early is continued by the next: nothing that is done is fetched or converted again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_edge.convert.pull.pull import pull
from glm_edge.errors import StorageError, UsageError
from support.checkpoints.fake_hub import REPO, Fault, Hub, serving
from support.checkpoints.wide_checkpoint import shard


def fetch(hub: Hub, out: Path, **options: Any) -> list[str]:
    lines: list[str] = []
    pull(REPO, out, endpoint=hub.endpoint, say=lines.append, **{"retries": (), **options})
    return lines


class Stop(BaseException):
    """As Ctrl-C: nothing of ours catches it."""


def stopped(hub: Hub, out: Path, when: Callable[[str, int], bool], **options: Any) -> None:
    """A pull that ends as soon as `when` is true of its progress."""

    def progress(what: str, done: int, total: int) -> None:
        if when(what, done):
            raise Stop

    with pytest.raises(Stop):
        fetch(hub, out, progress=progress, **options)


def test_what_is_done_is_neither_fetched_nor_converted_again(hub: Hub, out: Path, expected: bytes) -> None:
    stopped(hub, out, lambda what, done: what == f"fetching {shard(4)}")
    hub.asked.clear()
    converted: list[int] = []

    def progress(now: str, done: int, total: int) -> None:
        converted.append(done)

    lines = fetch(hub, out, progress=progress)
    assert out.read_bytes() == expected
    assert [line.split()[1] for line in hub.asked if line.startswith("GET")] == [shard(4), shard(5)]
    assert "continuing" in lines[0]
    assert "2 of 5 shards" in lines[1]
    assert converted[0] > 0
    assert list(out.parent.iterdir()) == [out]


def test_a_branch_that_moved_is_told_and_the_commit_kept(hub: Hub, out: Path, expected: bytes) -> None:
    stopped(hub, out, lambda what, done: what == f"fetching {shard(3)}")
    with serving(Hub(hub.files, commit="beef" + "0" * 36)) as moved:
        with pytest.raises(StorageError, match="has no "):  # this hub does not keep old commits
            fetch(moved, out)
        old = moved.commit
        lines: list[str] = []
        moved.faults = [Fault("", content=json.dumps(moved.listing()).encode())]
        moved.commit = hub.commit
        pull(REPO, out, endpoint=moved.endpoint, say=lines.append, retries=())
    assert out.read_bytes() == expected
    assert any(f"main is {old[:12]} meanwhile" in line for line in lines)


@pytest.mark.parametrize("options", [{"type": "q8_0"}, {"revision": "c0ffee" + "0" * 34}], ids=["type", "revision"])
def test_another_pull_is_not_continued_and_not_lost(hub: Hub, out: Path, options: dict[str, Any]) -> None:
    stopped(hub, out, lambda what, done: what == f"fetching {shard(3)}")
    before = {path: path.stat().st_size for path in out.parent.rglob("*")}
    with pytest.raises(UsageError, match=r"has what is done of another pull .*--force"):
        fetch(hub, out, **options)
    assert {path: path.stat().st_size for path in out.parent.rglob("*")} == before
    fetch(hub, out, force=True, **options)
    assert out.is_file()
    assert list(out.parent.iterdir()) == [out]


JOURNALS: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "other": lambda path: path.write_bytes(b'{"repo": 1}'),
    "of_another_version": lambda path: path.write_text(path.read_text().replace('"layout": "', '"layout": "0')),
}


@pytest.mark.parametrize("damage", JOURNALS.values(), ids=JOURNALS.keys())
def test_a_journal_that_does_not_fit_is_not_believed(
    hub: Hub, out: Path, expected: bytes, damage: Callable[[Path], object]
) -> None:
    stopped(hub, out, lambda what, done: what == f"fetching {shard(3)}")
    damage(out.parent / "x.gguf.pull" / "journal.json")
    fetch(hub, out)
    assert out.read_bytes() == expected


def test_tensors_that_the_disk_lost_are_fetched_again(hub: Hub, out: Path, expected: bytes) -> None:
    stopped(hub, out, lambda what, done: what == f"fetching {shard(3)}")
    with open(out.parent / "x.gguf.pull" / "result", "r+b") as result:
        result.seek(-1, os.SEEK_END)
        result.write(b"?")
    fetch(hub, out)
    assert out.read_bytes() == expected
    assert hub.sent[shard(1)] == len(hub.files[shard(1)])
    assert hub.sent[shard(2)] == 2 * len(hub.files[shard(2)])


def test_a_part_that_was_damaged_is_fetched_again(hub: Hub, out: Path, expected: bytes) -> None:
    hub.faults = [Fault(shard(1), cut=200_000)]
    with pytest.raises(StorageError):
        fetch(hub, out)
    part = out.parent / "x.gguf.pull" / "chatglm2-small" / f"{shard(1)}.part"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    fetch(hub, out)
    assert out.read_bytes() == expected
