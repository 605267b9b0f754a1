"""Computed prefixes outside of the KV cache: found again, read back, and written once."""

from __future__ import annotations

import threading
from pathlib import Path

from glm_edge.engine.prefix_cache.store import LEAST_WRITTEN
from glm_edge.engine.prefix_cache.store_file import CacheBlock, Folder
from support.engines.prefix_store import IDENTITY, A, B, C, files, loaded, longest, opened, put, saved


def test_blocks_of_the_longest_prefix_are_found_and_read_back(tmp_path: Path) -> None:
    saved(tmp_path, A, B)
    saved(tmp_path, A, C[:100] + A)
    store = opened(tmp_path)
    n = LEAST_WRITTEN
    assert loaded(store, A + B + [7]) == [(b"state 0", n), (b"state 1", 2 * n)]
    assert loaded(store, A + C[:50] + [7]) == [(b"state 0", n), (b"state 1", n + 50)]
    assert loaded(store, A[:3]) == [(b"state 0", 3)]
    assert longest(store, [7]) == 0


def test_what_two_prefixes_begin_with_is_written_once(tmp_path: Path) -> None:
    saved(tmp_path, A, B)
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    saved(tmp_path, A, C)
    assert len(before) == 2
    assert len(files(tmp_path)) == 3
    assert loaded(opened(tmp_path), A + C)[1] == (b"state 1", 2 * LEAST_WRITTEN)


def test_a_partial_block_too_small_for_a_file_stays_in_memory_until_a_longer_one_comes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, A, B[:20], state=b"partial")
    store.flush()
    assert longest(store, A + B) == LEAST_WRITTEN + 20
    assert store.end(A + B)[1] == LEAST_WRITTEN
    assert len(files(tmp_path)) == 1
    put(store, A, B)
    store.close()
    assert len(files(tmp_path)) == 2
    assert loaded(opened(tmp_path), A + B)[1] == (b"state 1", 2 * LEAST_WRITTEN)


def test_a_block_that_is_written_between_being_found_and_read_is_read(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, A, B)
    found = store.find(A + B)
    store.flush()
    assert [store.load(block) for block, _ in found] == [b"state 0", b"state 1"]
    assert longest(store, A + B) == 2 * LEAST_WRITTEN
    store.close()


def test_a_block_that_could_not_be_written_is_tried_again_when_another_comes(tmp_path: Path) -> None:
    obstacle = tmp_path / "folder"
    obstacle.write_bytes(b"")
    store = opened(obstacle)
    put(store, A)
    store.flush()
    obstacle.unlink()
    put(store, A, B)
    store.close()
    assert loaded(opened(obstacle), A + B) == [(b"state 0", LEAST_WRITTEN), (b"state 1", 2 * LEAST_WRITTEN)]


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    saved(tmp_path / "new", A)
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert files(tmp_path / "new")[0].stat().st_mode & 0o077 == 0


def test_unwritable_folder_costs_the_cache_on_disk_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = opened(tmp_path / "file" / "folder")
    put(store, A)
    store.flush()
    assert loaded(store, A) == [(b"state 0", LEAST_WRITTEN)]
    store.close()


def test_a_block_is_read_while_another_is_written(tmp_path: Path) -> None:
    """Both use the folder's secret, in two threads."""
    saved(tmp_path, A)
    folder = Folder(tmp_path, IDENTITY, 1 << 30)
    (block,), _ = folder.open()
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            folder.write(CacheBlock(bytes(32), IDENTITY, 0, B, block.scope), memoryview(b"x"))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        states = [folder.load(block) for _ in range(300)]
    finally:
        over.set()
        writer.join()
    assert None not in states
