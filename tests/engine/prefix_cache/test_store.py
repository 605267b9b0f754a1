"""Prefixes outside of the cache: found again after a restart, never a wrong or broken one, never more than allowed."""

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.prefix_cache.store import BLOCK_TOKENS, LEAST_WRITTEN, Store
from glm_edge.engine.prefix_cache.store_file import CacheBlock, Folder
from glm_edge.system.private import KEY_NAME
from glm_edge.types import EngineConfig, Message, Request, SamplingParams, Stats

IDENTITY, OTHER = bytes(32), bytes([1]) * 32
LONG = "word " * 300
A, B, C = (list(range(start, start + LEAST_WRITTEN)) for start in (1000, 2000, 3000))  # tokens of a piece each


def opened(folder: Path | None, identity: bytes = IDENTITY, limit: int = 1 << 20, memory: int = 1 << 20) -> Store:
    return Store(folder, identity, limit=limit, memory=memory)


def put(store: Store, *blocks: list[int], state: bytes = b"") -> None:
    """Put pieces that continue each other, as the scheduler does; what of them is there already is left."""
    tokens = [token for block in blocks for token in block]
    key: bytes | None
    key, start, _ = store.end(tokens)
    position = 0
    for i, block in enumerate(blocks):
        if position >= start and key is not None:
            key = store.put(key, position, block, memoryview(bytearray(state or b"state %d" % i)))
        position += len(block)


def saved(
    folder: Path, *blocks: list[int], identity: bytes = IDENTITY, limit: int = 1 << 20, state: bytes = b""
) -> None:
    store = opened(folder, identity, limit)
    put(store, *blocks, state=state)
    store.close()


def loaded(store: Store, tokens: list[int]) -> list[tuple[bytes | None, int]]:
    """The states that these tokens begin with, each with the position up to which it is theirs."""
    found = [(store.load(block), position) for block, position in store.find(tokens)]
    return [(None if state is None else bytes(state), position) for state, position in found]


def longest(store: Store, tokens: list[int]) -> int:
    """How many leading tokens of these it holds."""
    return store.end(tokens)[2]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name != KEY_NAME)


def test_pieces_of_the_longest_prefix_are_found_and_read_back(tmp_path: Path) -> None:
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


def test_tail_too_small_for_a_file_stays_in_memory_until_a_longer_one_comes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, A, B[:20], state=b"tail")
    store.flush()
    assert longest(store, A + B) == LEAST_WRITTEN + 20
    assert store.end(A + B)[1] == LEAST_WRITTEN
    assert len(files(tmp_path)) == 1
    put(store, A, B)
    store.close()
    assert len(files(tmp_path)) == 2
    assert loaded(opened(tmp_path), A + B)[1] == (b"state 1", 2 * LEAST_WRITTEN)


def test_piece_that_is_written_between_being_found_and_read_is_read(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, A, B)
    found = store.find(A + B)
    store.flush()
    assert [store.load(block) for block, _ in found] == [b"state 0", b"state 1"]
    assert longest(store, A + B) == 2 * LEAST_WRITTEN
    store.close()


def test_piece_that_could_not_be_written_is_tried_again_when_another_comes(tmp_path: Path) -> None:
    obstacle = tmp_path / "folder"
    obstacle.write_bytes(b"")
    store = opened(obstacle)
    put(store, A)
    store.flush()
    obstacle.unlink()
    put(store, A, B)
    store.close()
    assert loaded(opened(obstacle), A + B) == [(b"state 0", LEAST_WRITTEN), (b"state 1", 2 * LEAST_WRITTEN)]


def test_file_that_another_program_removes_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "gone.prefix").symlink_to(tmp_path / "nowhere")
    saved(tmp_path, A)
    assert loaded(opened(tmp_path), A) == [(b"state 0", LEAST_WRITTEN)]


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


def test_broken_piece_takes_with_it_what_continues_it(tmp_path: Path) -> None:
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


def test_folder_never_takes_more_than_its_limit(tmp_path: Path) -> None:
    for first in range(10):
        saved(tmp_path, [first, *A], limit=5500, state=bytes(1000))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 5500
    assert longest(opened(tmp_path), [9, *A]) == LEAST_WRITTEN + 1
    assert len(files(tmp_path)) == 3


def test_folder_gives_up_continuations_before_what_they_continue(tmp_path: Path) -> None:
    saved(tmp_path, A, B, limit=5500, state=bytes(1000))
    saved(tmp_path, C, limit=5500, state=bytes(1000))
    saved(tmp_path, [7, *A], limit=5500, state=bytes(1000))
    store = opened(tmp_path)
    assert [longest(store, tokens) for tokens in (A + B, C, [7, *A])] == [LEAST_WRITTEN] * 2 + [LEAST_WRITTEN + 1]


def test_room_is_never_made_of_what_the_new_piece_continues(tmp_path: Path) -> None:
    saved(tmp_path, A, B, C, limit=3700, state=bytes(1000))
    assert longest(opened(tmp_path), A + B + C) == 2 * LEAST_WRITTEN


def test_nothing_is_removed_for_a_piece_that_finds_no_room_all_the_same(tmp_path: Path) -> None:
    saved(tmp_path, C, limit=5500, state=bytes(1000))
    before = files(tmp_path)
    saved(tmp_path, A, limit=5500, state=bytes(6000))
    assert files(tmp_path) == before
    saved(tmp_path, A, limit=5500, state=bytes(1000))
    before = files(tmp_path)
    saved(tmp_path, A, B, limit=5500, state=bytes(4000))  # too large beside A, which it is of no use without
    assert files(tmp_path) == before


@pytest.mark.parametrize("change", [{"start": 1}, {"tokens": A[:5]}], ids=["starts elsewhere", "too small"])
def test_piece_that_no_store_writes_is_not_taken_in(tmp_path: Path, change: dict[str, object]) -> None:
    block = replace(CacheBlock(b"", IDENTITY, 0, A), **change)  # type: ignore[arg-type]
    assert Folder(tmp_path, IDENTITY, 1 << 20).write(block, memoryview(b"state"))[0] is not None
    assert longest(opened(tmp_path), A) == 0
    assert files(tmp_path) == []


def test_prefix_larger_than_the_limit_is_not_written(tmp_path: Path) -> None:
    saved(tmp_path, A, limit=3500, state=bytes(5000))
    assert files(tmp_path) == []


def test_temporary_file_of_a_killed_program_goes_when_it_is_old(tmp_path: Path) -> None:
    old, new = tmp_path / "a.tmp", tmp_path / "b.tmp"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    opened(tmp_path)
    assert files(tmp_path) == [new]


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


@pytest.mark.parametrize("words", [BLOCK_TOKENS + 50, 2 * BLOCK_TOKENS + 200])
def test_prompt_of_any_length_is_whole_after_a_restart(tiny_f32: Path, tmp_path: Path, words: int) -> None:
    long = "word " * words
    answer(tiny_f32, tmp_path, long + "first question")
    text, stats = answer(tiny_f32, tmp_path, long + "another one")
    assert stats.cached_tokens > words
    assert text == answer(tiny_f32, None, long + "another one")[0]


def test_growing_conversation_writes_only_what_is_new(tiny_f32: Path, tmp_path: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, kv_type="f32", cache_folder=tmp_path))
    talk: tuple[Message, ...] = (Message("user", LONG),)
    sizes: list[dict[Path, int]] = []
    for question in ("and " * 200, "then " * 200, ""):
        text = "".join(chunk.text for chunk in engine.submit(Request(talk, SamplingParams(0), 12)))
        engine.flush()
        sizes.append({path: path.stat().st_size for path in files(tmp_path)})
        talk = (*talk, Message("assistant", text), Message("user", question))
    engine.close()
    assert sizes[0].items() < sizes[1].items() < sizes[2].items()
    assert sum(sizes[2].values()) < 1.2 * sum(sizes[0].values()) * (300 + 200 + 200) / 300


def test_what_many_begin_with_is_written_once_from_the_third_on(tiny_f32: Path, tmp_path: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, kv_type="f32", cache_folder=tmp_path))
    sizes = []
    for i in range(4):
        request = Request((Message("system", "word " * 140), Message("user", f"{i} " * 70)), SamplingParams(0), 1)
        list(engine.submit(request))
        engine.flush()
        sizes.append(sum(path.stat().st_size for path in files(tmp_path)))
    engine.close()
    assert sizes[3] - sizes[2] < 0.7 * sizes[0]


def test_prefix_is_on_disk_before_its_prompt_is_read_to_the_end(tiny_f32: Path, tmp_path: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_batch=32, kv_type="f32", cache_folder=tmp_path))
    generation = engine.submit(Request((Message("user", "word " * 1900),), SamplingParams(0), 1))
    seen = False
    while not seen and generation.progress is not None and generation.progress.done < 1800:
        seen = bool(files(tmp_path))
    generation.cancel()
    list(generation)
    engine.close()
    assert seen


def test_conversations_in_turns_are_all_remembered(tiny_f32: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f32, n_threads=1, n_ctx=1024, kv_type="f32"))
    talks = [(Message("user", f"{i} " * 60 + LONG),) for i in range(6)]  # together twice what the cache holds
    for messages in talks:
        list(engine.submit(Request(messages, SamplingParams(0), 3)))
    again = [list(engine.submit(Request(messages, SamplingParams(0), 3)))[-1].stats for messages in talks]
    engine.close()
    assert [stats and stats.prompt_tokens - stats.cached_tokens for stats in again] == [1] * 6


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
