"""Files of computed prefixes that are damaged, foreign or left over: never misread, and removed where they are ours."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from glm_edge.engine.prefix_cache.store import LEAST_WRITTEN
from glm_edge.engine.prefix_cache.store_file import CacheBlock, Folder
from support.engines.prefix_store import IDENTITY, A, B, files, loaded, longest, opened, saved

OTHER = bytes([1]) * 32  # another model's identity


def test_another_models_prefixes_are_not_seen_and_not_removed(tmp_path: Path) -> None:
    saved(tmp_path, A, identity=OTHER)
    assert longest(opened(tmp_path), A) == 0
    assert longest(opened(tmp_path, OTHER), A) == LEAST_WRITTEN


@pytest.mark.parametrize(
    ("position", "gone"),
    [
        pytest.param(0, True, id="magic"),
        pytest.param(9, False, id="identity, so it may be another model's"),
        pytest.param(41, False, id="scope, so it may be another key's until it is read"),
        pytest.param(73, True, id="parent, so nothing leads to it"),
        pytest.param(112, True, id="length of the state"),
        pytest.param(120, False, id="a token, so it is another prefix until it is read"),
        pytest.param(120 + 4 * LEAST_WRITTEN, True, id="state"),
        pytest.param(-1, True, id="digest"),
    ],
)
def test_changed_byte_is_noticed(tmp_path: Path, position: int, gone: bool) -> None:
    saved(tmp_path, A)
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert loaded(opened(tmp_path), A) in ([], [(None, LEAST_WRITTEN)])
    assert (files(tmp_path) == []) == gone


def test_a_broken_block_takes_with_it_what_continues_it(tmp_path: Path) -> None:
    saved(tmp_path, A, B)
    for path in files(tmp_path):
        content = bytearray(path.read_bytes())
        if content[72:104] == IDENTITY:  # it continues nothing
            content[-1] ^= 1
            path.write_bytes(content)
    store = opened(tmp_path)
    assert longest(store, A + B) == 2 * LEAST_WRITTEN
    assert store.load(store.find(A + B)[0][0]) is None
    assert longest(store, A + B) == 0
    assert files(tmp_path) == []


def test_file_cut_anywhere_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, A)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert longest(opened(tmp_path), A) == 0
        assert files(tmp_path) == []


@pytest.mark.parametrize("change", [{"start": 1}, {"tokens": A[:5]}], ids=["starts elsewhere", "too small"])
def test_a_block_that_no_store_writes_is_not_taken_in(tmp_path: Path, change: dict[str, object]) -> None:
    block = replace(CacheBlock(b"", IDENTITY, 0, A), **change)  # type: ignore[arg-type]
    assert Folder(tmp_path, IDENTITY, 1 << 20).write(block, memoryview(b"state"))[0] is not None
    assert longest(opened(tmp_path), A) == 0
    assert files(tmp_path) == []


def test_temporary_file_of_a_killed_program_goes_when_it_is_old(tmp_path: Path) -> None:
    old, new = tmp_path / "a.tmp", tmp_path / "b.tmp"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    opened(tmp_path)
    assert files(tmp_path) == [new]


def test_a_block_that_cannot_be_read_now_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, A)
    store = opened(tmp_path)
    (found,) = store.find(A)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        assert store.load(found[0]) is None
    assert loaded(store, A) == [(b"state 0", len(A))]
    store.close()


def full(*_: object, **__: object) -> int:
    raise OSError(errno.EMFILE, "too many open files")


def test_file_that_another_program_removes_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "gone.prefix").symlink_to(tmp_path / "nowhere")
    saved(tmp_path, A)
    assert loaded(opened(tmp_path), A) == [(b"state 0", LEAST_WRITTEN)]
