"""The limits of the folder and of the memory for computed prefixes: kept, and the right ones are evicted."""

from __future__ import annotations

from pathlib import Path

from glm_edge.engine.prefix_cache.store import LEAST_WRITTEN
from support.engines.prefix_store import A, B, C, files, loaded, longest, opened, put, saved


def test_folder_never_takes_more_than_its_limit(tmp_path: Path) -> None:
    for first in range(10):
        saved(tmp_path, [first, *A], limit=5500, state=bytes(1000))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 5500
    assert longest(opened(tmp_path), [9, *A]) == LEAST_WRITTEN + 1
    assert len(files(tmp_path)) == 3


def test_folder_evicts_continuations_before_what_they_continue(tmp_path: Path) -> None:
    saved(tmp_path, A, B, limit=5500, state=bytes(1000))
    saved(tmp_path, C, limit=5500, state=bytes(1000))
    saved(tmp_path, [7, *A], limit=5500, state=bytes(1000))
    store = opened(tmp_path)
    assert [longest(store, tokens) for tokens in (A + B, C, [7, *A])] == [LEAST_WRITTEN] * 2 + [LEAST_WRITTEN + 1]


def test_space_is_never_made_of_what_the_new_block_continues(tmp_path: Path) -> None:
    saved(tmp_path, A, B, C, limit=3700, state=bytes(1000))
    assert longest(opened(tmp_path), A + B + C) == 2 * LEAST_WRITTEN


def test_nothing_is_removed_for_a_block_that_finds_no_space_all_the_same(tmp_path: Path) -> None:
    saved(tmp_path, C, limit=5500, state=bytes(1000))
    before = files(tmp_path)
    saved(tmp_path, A, limit=5500, state=bytes(6000))
    assert files(tmp_path) == before
    saved(tmp_path, A, limit=5500, state=bytes(1000))
    before = files(tmp_path)
    saved(tmp_path, A, B, limit=5500, state=bytes(4000))  # too large beside A, which it is of no use without
    assert files(tmp_path) == before


def test_prefix_larger_than_the_limit_is_not_written(tmp_path: Path) -> None:
    saved(tmp_path, A, limit=3500, state=bytes(5000))
    assert files(tmp_path) == []


def test_without_a_folder_everything_is_in_memory_and_the_oldest_goes(tmp_path: Path) -> None:
    store = opened(None, memory=25)
    for block in (A, B):
        put(store, block, state=b"ten bytes.")
    assert loaded(store, A) == [(b"ten bytes.", LEAST_WRITTEN)]
    put(store, C, state=b"ten bytes.")
    assert [longest(store, block) for block in (A, B, C)] == [LEAST_WRITTEN, 0, LEAST_WRITTEN]
    store.close()


def test_memory_keeps_beginnings_rather_than_what_continues_them() -> None:
    store = opened(None, memory=25)
    put(store, A, B, C, state=b"ten bytes.")
    assert longest(store, A + B + C) == 2 * LEAST_WRITTEN


def test_states_that_are_written_leave_memory(tmp_path: Path) -> None:
    store = opened(tmp_path, memory=10)
    for i in range(5):
        put(store, [i, *A], state=b"ten bytes.")
        store.flush()
    assert [longest(store, [i, *A]) for i in range(5)] == [LEAST_WRITTEN + 1] * 5
    store.close()
