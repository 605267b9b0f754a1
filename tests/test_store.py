"""Prefixes on disk: found again after a restart, never a wrong or broken one, never more than allowed."""

import os
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.store import Store
from glm_edge.types import EngineConfig, Message, Request, SamplingParams, Stats

IDENTITY, OTHER = bytes(32), bytes([1]) * 32
LONG = "word " * 300


def saved(folder: Path, tokens: list[int], state: bytes, identity: bytes = IDENTITY, limit: int = 1 << 20) -> None:
    store = Store(folder, identity, limit=limit)
    store.save(tokens, memoryview(state))
    store.close()


def opened(folder: Path, identity: bytes = IDENTITY) -> Store:
    return Store(folder, identity, limit=1 << 20)


def loaded(store: Store, tokens: list[int]) -> tuple[bytes, int] | None:
    stored = store.load(tokens)
    return (bytes(stored.state), stored.length) if stored else None


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def test_longest_prefix_is_found_and_read_back(tmp_path: Path) -> None:
    saved(tmp_path, [1, 2, 3], b"short")
    saved(tmp_path, [1, 2, 9, 9, 9], b"other")
    store = opened(tmp_path)
    assert store.longest([1, 2, 3, 4]) == 3
    assert loaded(store, [1, 2, 3, 4]) == (b"short", 3)
    assert store.longest([1, 2, 9, 9]) == 4
    assert loaded(store, [1, 2, 9, 9]) == (b"other", 4)
    assert store.longest([7]) == 0
    assert store.load([7]) is None
    assert store.load([1, 2, 9, 9], at_least=5) is None


def test_longer_prefix_replaces_those_it_covers(tmp_path: Path) -> None:
    saved(tmp_path, [1, 2], b"a")
    saved(tmp_path, [1, 2, 3], b"b")
    assert len(files(tmp_path)) == 1
    assert loaded(opened(tmp_path), [1, 2]) == (b"b", 2)


def test_another_models_prefixes_are_not_seen_and_not_removed(tmp_path: Path) -> None:
    saved(tmp_path, [1, 2], b"a", identity=OTHER)
    assert opened(tmp_path).longest([1, 2]) == 0
    assert opened(tmp_path, OTHER).longest([1, 2]) == 2


@pytest.mark.parametrize(
    ("position", "gone"),
    [
        pytest.param(0, True, id="magic"),
        pytest.param(9, False, id="identity, so it may be another model's"),
        pytest.param(45, True, id="length of the state"),
        pytest.param(53, False, id="a token, so it is another prefix until it is read"),
        pytest.param(64, True, id="state"),
        pytest.param(-1, True, id="digest"),
    ],
)
def test_changed_byte_is_noticed(tmp_path: Path, position: int, gone: bool) -> None:
    saved(tmp_path, [1, 2, 3], b"state of a sequence")
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    store = opened(tmp_path)
    assert store.longest([1, 2, 3]) == 0 or store.load([1, 2, 3]) is None
    assert (files(tmp_path) == []) == gone


def test_file_cut_anywhere_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, [1, 2, 3], b"state of a sequence")
    (path,) = files(tmp_path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert opened(tmp_path).longest([1, 2, 3]) == 0
        assert files(tmp_path) == []


def test_folder_never_takes_more_than_its_limit(tmp_path: Path) -> None:
    for first in range(10):
        saved(tmp_path, [first, 1], bytes(1000), limit=3500)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 3500
    assert opened(tmp_path).longest([9, 1]) == 2


def test_prefix_larger_than_the_limit_is_not_written(tmp_path: Path) -> None:
    saved(tmp_path, [1], bytes(5000), limit=3500)
    assert files(tmp_path) == []


def test_temporary_file_of_a_killed_program_goes_when_it_is_old(tmp_path: Path) -> None:
    old, new = tmp_path / "a.tmp", tmp_path / "b.tmp"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    opened(tmp_path)
    assert files(tmp_path) == [new]


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    saved(tmp_path / "new", [1], b"x")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert files(tmp_path / "new")[0].stat().st_mode & 0o077 == 0


def test_unwritable_folder_costs_the_cache_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    saved(tmp_path / "file" / "folder", [1], b"x")


def answer(model: Path, cache: Path | None, question: str) -> tuple[str, Stats]:
    engine = LlamaEngine(EngineConfig(model, n_threads=1, kv_type="f32", cache_folder=cache))
    request = Request((Message("user", question),), SamplingParams(0), 12)
    chunks = list(engine.submit(request))
    engine.close()
    stats = chunks[-1].stats
    assert stats is not None
    return "".join(chunk.text for chunk in chunks), stats


def test_after_a_restart_the_prefix_is_read_and_the_answer_is_the_same(tiny_f32: Path, tmp_path: Path) -> None:
    answer(tiny_f32, tmp_path, LONG + "first question")
    text, stats = answer(tiny_f32, tmp_path, LONG + "another one")
    assert stats.cached_tokens > 300
    assert text == answer(tiny_f32, None, LONG + "another one")[0]


def test_state_that_does_not_fit_the_model_is_not_read(tiny_f32: Path, tiny_f16: Path, tmp_path: Path) -> None:
    answer(tiny_f32, tmp_path, LONG)
    assert answer(tiny_f16, tmp_path, LONG)[1].cached_tokens == 0
